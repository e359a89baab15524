"""What every worker of a profile does: the first steps of the job's training, as the training would take them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, repeat
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory

from rsrnet.data.lists import read_train_val
from rsrnet.data.naming import Composite
from rsrnet.data.selection import keep
from rsrnet.profiling import Profile, Profiler
from rsrnet_platform import spec, worker
from rsrnet_platform.host import Host

WARM_UP = 3
"""Steps before those that are measured, and one more for each process that reads ahead."""


def profile(job: spec.TrainJob, skipped: frozenset[str], steps: int, host: Host) -> tuple[Profile, bytes]:
    """Train this worker's part of some steps.

    Args:
        job: whose steps.
        skipped: paths of composites that cannot be used.
        steps: how many to measure.
        host: where this worker runs.

    Returns:
        Where its time went, and the trace in Chrome's format, compressed.
    """
    train_set, val_set = (
        keep(part, lambda composite: composite.path not in skipped)
        for part in read_train_val(job.data, job.fit.seed)
    )
    warm_up = WARM_UP + job.data.loader_processes
    train_set = _long_enough(train_set, (warm_up + steps + 1) * job.fit.batch_size)
    training = worker.begin(job, host, None)
    train, val = worker.loaders(job, train_set, val_set, host)
    with TemporaryDirectory() as folder:
        trace = Path(folder, "trace.json.gz")
        with Profiler(host.device, warm_up, steps, job.fit.batch_size, trace) as profiler:
            training.run(
                train,
                val,
                on_epoch=lambda training: None,
                on_step=profiler.step_done,
                notice=profiler,
                phases=profiler,
            )
        return profiler.result(), trace.read_bytes()


def _long_enough(composites: Sequence[Composite], images: int) -> Sequence[Composite]:
    """The composites, again and again if they are fewer than the steps need: no epoch shall end meanwhile."""
    times = ceil(images / len(composites))
    return list(chain.from_iterable(repeat(composites, times))) if times > 1 else composites
