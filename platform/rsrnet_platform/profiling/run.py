"""A profile from the job to its figures: the checks, the place, the workers."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from rsrnet.profiling import Profile
from rsrnet_platform import cluster, preflight, spec
from rsrnet_platform.errors import UserError
from rsrnet_platform.files import telling_of_full_disk, whole
from rsrnet_platform.store import probe
from rsrnet_platform.terminal import console


def profile(job: spec.TrainJob, steps: int, trace: Path) -> Profile:
    """Train some steps of a job where it would be trained, and measure them.

    Args:
        job: a checked job.
        steps: how many to measure.
        trace: file for the trace in Chrome's format, compressed.

    Returns:
        Where the time of the first worker went.

    Raises:
        UserError: (and the other errors of ``errors.USER_ERRORS``) for what the training would be refused for. Images
            are not looked at beforehand, unless the job skips bad ones: they would lie in memory, where a training
            does not find them.
    """
    _require_writable(trace)
    split = preflight.read_lists(job)
    probe(job.tracking)
    with cluster.connect(job.cluster) as place:
        preflight.require_shared(place, "storage", job.storage)
        preflight.load_weights(job)
        preflight.try_compiler(job, place)
        skipped = frozenset[str]()
        if job.data.on_bad_image == "skip":
            skipped = frozenset(preflight.inspect_images(job, split, None).skipped)
        console.print(f"Profiling {steps} steps of {job.name} with {place}.")
        with console.status("Training"), telling_of_full_disk(str(trace.parent)):
            found, data = _measure(job, skipped, steps, place)
            whole(trace, lambda path: path.write_bytes(data))
    return found


def _require_writable(trace: Path) -> None:
    """Refuse a file for the trace that cannot be written, before anything is measured."""
    if trace.is_dir():
        raise UserError(f"--trace {trace}: is a folder; name a file in it")
    there = next(each for each in trace.parents if each.exists())
    try:
        with TemporaryDirectory(dir=there):
            pass
    except OSError as error:
        raise UserError(
            f"--trace {trace}: cannot be written ({error.strerror or error}); name another file"
        ) from error


def _measure(
    job: spec.TrainJob, skipped: frozenset[str], steps: int, place: cluster.Cluster
) -> tuple[Profile, bytes]:
    if place.address is not None:
        from rsrnet_platform.profiling.on_ray import profile as profile_on_ray

        return profile_on_ray(job, skipped, steps, place)
    from rsrnet_platform.host import LocalHost
    from rsrnet_platform.profiling.worker import profile as profile_here

    with TemporaryDirectory() as folder:
        return profile_here(job, skipped, steps, LocalHost(Path(folder), place.use_gpu))
