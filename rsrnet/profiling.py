"""Where the time of a training goes: some of its real steps, measured part by part and under torch.profiler."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from rsrnet import memory
from rsrnet.engine import Progress
from rsrnet.phases import BACKWARD, COMMUNICATION, PHASES, Phases
from rsrnet.ranks import world_size

OPERATORS = 10
"""Operators that are told, those with the most time of their own."""

_MARKS = (
    "rsrnet.",
    "ProfilerStep",
    "enumerate(DataLoader)",
    "DistributedDataParallel.",
    "Optimizer.",
    "autograd::",
)
"""Beginnings of what is no operator but a span of time with a name."""


@dataclass(frozen=True)
class Operator:
    """What PyTorch did for the model, over all measured steps."""

    name: str
    calls: int

    seconds: float
    """Its own, without that of the operators it called; of the GPU where there is one."""


@dataclass(frozen=True)
class Profile:
    """Where the time of some steps of a training went, on one rank."""

    steps: int
    images: int
    """Of these steps, over all ranks."""

    ranks: int
    seconds: float

    phases: dict[str, float]
    """Seconds of each of ``PHASES``, over all steps; what is missing to ``seconds`` is everything else."""

    device: str
    peak: int
    """Bytes, see :func:`rsrnet.memory.peak`."""

    operators: Sequence[Operator]

    @property
    def images_per_second(self) -> float:
        """Over all ranks."""
        return self.images / self.seconds

    def share(self, phase: str) -> float:
        """Part of the time that one of ``PHASES`` takes, 0 to 1."""
        return self.phases[phase] / self.seconds

    @property
    def rest(self) -> float:
        """Seconds of what is none of the parts: counting, telling, agreeing with the other ranks."""
        return max(0.0, self.seconds - sum(self.phases.values()))


class Profiler(Phases):
    """Measures steps of a training and then stops it: a ``phases``, an ``on_step`` and a ``notice`` at once.

    A GPU is waited for behind each part, so that the part gets its own time and not that of what it waits for.

    Args:
        device: where the network computes.
        warm_up: steps before those that are measured: memory is taken, kernels are chosen, readers start.
        steps: how many to measure; the loader must have more than both together.
        images: of a step, over all ranks.
        trace: file to write, in Chrome's format, compressed where its name ends in ``.gz``.

    Example:
        >>> with Profiler(training.device, 3, 20, 32, Path("trace.json.gz")) as profiler:
        ...     training.run(train, val, on_epoch=..., on_step=profiler.step_done, notice=profiler, phases=profiler)
        >>> profiler.result().images_per_second
    """

    def __init__(self, device: torch.device, warm_up: int, steps: int, images: int, trace: Path) -> None:
        self._device = device
        self._warm_up = warm_up
        self._steps = steps
        self._images = images
        self._done = 0
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._operators: Sequence[Operator] = ()
        self._last_bucket: float | None = None
        self._end = 0.0
        activities = [ProfilerActivity.CPU]
        if device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)

        def finish(profiler: profile) -> None:
            self._operators = _operators(profiler, device)
            profiler.export_chrome_trace(str(trace))

        self._profile = profile(
            activities=activities,
            schedule=schedule(wait=0, warmup=warm_up, active=steps, repeat=1),
            on_trace_ready=finish,
            acc_events=True,
        )

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """See :class:`~rsrnet.phases.Phases`."""
        begun = time.perf_counter()
        self._last_bucket = None
        with record_function(f"rsrnet.{name}"):
            yield
            self._synchronize()
        end = time.perf_counter()
        if self._done < self._warm_up:
            return
        if name == BACKWARD and self._last_bucket is not None:
            self._seconds[COMMUNICATION] += end - self._last_bucket
            end = self._last_bucket
        self._seconds[name] += end - begun

    def watch(self, network: DistributedDataParallel) -> None:
        """See :class:`~rsrnet.phases.Phases`."""
        # DDP reads annotations, and does not know those that are strings.
        network.register_comm_hook(None, lambda state, bucket: self._reduce(bucket))

    def _reduce(self, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        """DDP's own reduction of a bucket; behind the last one there is nothing left to compute."""
        if bucket.is_last():
            # Of the stream that computes: those of the earlier buckets' reductions are what is to be measured.
            if self._device.type == "cuda":
                torch.cuda.current_stream(self._device).synchronize()
            self._last_bucket = time.perf_counter()
        # Without a group it is the group of all ranks.
        return allreduce_hook(None, bucket)  # type: ignore[arg-type]

    def step_done(self, progress: Progress) -> None:
        """A step of the training is done."""
        self._done += 1
        if self._done == self._warm_up:
            self._start = time.perf_counter()
        if self._done == self._warm_up + self._steps:
            self._end = time.perf_counter()
            self._peak = memory.peak(self._device)  # before the profiler makes figures of what it saw
        self._profile.step()

    def asked(self) -> bool:
        """See :class:`rsrnet.agreement.Notice`: to stop behind the step in hand, if that is the last."""
        return self._done >= self._warm_up + self._steps - 1

    def due(self) -> bool:
        """See :class:`rsrnet.agreement.Notice`."""
        return False

    look = due

    def result(self) -> Profile:
        """What was measured.

        Raises:
            RuntimeError: if the training ended before that.
        """
        if not self._end:
            raise RuntimeError(f"{self._done} of {self._warm_up + self._steps} steps were trained")
        return Profile(
            steps=self._steps,
            images=self._steps * self._images,
            ranks=world_size(),
            seconds=self._end - self._start,
            phases=dict(self._seconds),
            device=self._device.type,
            peak=self._peak,
            operators=self._operators,
        )

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def __enter__(self) -> Self:
        self._profile.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._profile.stop()


def _operators(profiler: profile, device: torch.device) -> list[Operator]:
    """The operators with the most time of their own, the slowest first."""
    on_gpu = device.type == "cuda"
    found = [
        Operator(
            event.key,
            event.count,
            (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6,
        )
        for event in profiler.key_averages()
        if not event.key.startswith(_MARKS)
    ]
    return sorted(found, key=lambda each: -each.seconds)[:OPERATORS]
