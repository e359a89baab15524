"""The parts of a training step, marked for whoever looks on: torch.profiler, or :mod:`rsrnet.profiling`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import TypeVar

from torch.nn.parallel import DistributedDataParallel
from torch.profiler import record_function

T = TypeVar("T")

DATA = "data"
"""Waiting for the loader."""

COPY = "copy"
"""From the host's memory to the device's."""

FORWARD = "forward"
LOSS = "loss"
BACKWARD = "backward"

COMMUNICATION = "communication"
"""What of the gradients' reduction over the ranks is left when they are all computed, so that everything waits."""

OPTIMIZER = "optimizer"

PHASES = (DATA, COPY, FORWARD, LOSS, BACKWARD, COMMUNICATION, OPTIMIZER)
"""In the order of a step."""


class Phases:
    """Names the parts of a step in the trace of a profiler; where none looks on it costs microseconds."""

    def part(self, name: str) -> AbstractContextManager[object]:
        """Context: a part of the step, one of ``PHASES``."""
        return record_function(f"rsrnet.{name}")

    def batches(self, loader: Iterable[T]) -> Iterator[T]:
        """The batches of a loader; waiting for each is the part ``DATA``."""
        batches = iter(loader)
        while True:
            with self.part(DATA):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def watch(self, network: DistributedDataParallel) -> None:
        """Look at what the ranks exchange, from the first step on."""
