"""What is looked at before a training or a search starts anything expensive."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.progress import Progress

from rsrnet_platform import runs, spec
from rsrnet_platform.errors import UserError
from rsrnet_platform.runs import Data
from rsrnet_platform.terminal import console

if TYPE_CHECKING:
    from rsrnet.data.config import DataConfig
    from rsrnet.data.folds import Split
    from rsrnet.data.inspection import DataReport
    from rsrnet.data.naming import Composite
    from rsrnet_platform.cluster import Cluster


def read_lists(job: spec.TrainJob) -> Split:
    """The training and validation composites that a job names.

    Raises:
        DataError: if a list is missing, damaged or empty, or there is nothing to hold out.
    """
    from rsrnet.data.lists import read_train_val

    return read_train_val(job.data, job.fit.seed)


def inspect_images(job: spec.TrainJob, split: Split, known: Data | None) -> Data:
    """Look at every image once; what a run knows of the same files already is not asked again.

    Raises:
        BadDataError: if there are images that cannot be used, and the job does not skip them.
        UserError: if the files are not those the run was started with, or too few can be used.
    """
    from rsrnet.data.lists import fingerprint

    composites = [*split.train, *split.val]
    identity = fingerprint(job.data.root, composites)
    if known is not None:
        if identity != known.fingerprint:
            raise UserError(
                f"{job.data.root}: these are not the images that the run {job.name!r} was started with "
                f"(fingerprint {known.fingerprint[:12]}, now {identity[:12]}). Bring them back, or use --fresh."
            )
        return known
    report = look_at(job.data, composites)
    skipped = sorted(found.composite.path for found in report.bad)
    train, val = (sum(item.path not in skipped for item in part) for part in (split.train, split.val))
    if train < job.cluster.most_workers or val == 0:
        raise UserError(
            f"{job.data.root}: {train} training and {val} validation images can be used; "
            "a training needs some of both, and a training image for every worker."
        )
    return Data(identity, fingerprint(job.data.root, split.val), train, val, skipped)


def look_at(data: DataConfig, composites: Sequence[Composite]) -> DataReport:
    """Decode images and masks, with a progress bar, and tell which of them cannot be used.

    Raises:
        BadDataError: if there are such, and ``data`` does not say to skip them, or there are only such.
    """
    from rsrnet.data.inspection import inspect, usable

    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("Checking images", total=len(composites))
        report = inspect(
            data.root,
            composites,
            threads=os.cpu_count() or 1,
            progress=lambda done, total: bar.update(task, completed=done),
        )
    usable(composites, report, data.on_bad_image)
    if report.bad:
        console.print(str(report))
    return report


def require_shared(place: Cluster, key: str, where: str) -> None:
    """Refuse a folder that not every machine of a cluster sees: what workers write would be scattered over them.

    Args:
        place: the cluster.
        key: setting that names the folder.
        where: the folder, a path or a URI.

    Raises:
        UserError: naming the machines that do not see it, or if it cannot be written from here either.
    """
    if len(place.nodes) < 2:
        return
    from rsrnet_platform.reach import unreachable

    if wrong := unreachable(where):
        lines = "\n  ".join(f"{node} {why}" for node, why in wrong.items())
        raise UserError(
            f"{key} = {where}: not every machine of {place.where} reads and writes it, and its workers must:\n"
            f"  {lines}\n"
            "  Mount one file system at this path on all of them, or name a URI of an object store where the kind of "
            "job takes one (s3://bucket/path), or keep the job on one machine (cluster.address: local)."
        )


def try_weights(job: spec.TrainJob, folder: runs.Run, fresh: bool) -> None:
    """Load the encoder's weights once, here, where a failure costs nothing; a download is then in the cache."""
    if fresh or not folder.state.attempt:
        load_weights(job)


def load_weights(job: spec.TrainJob) -> None:
    """Load the encoder's weights, if a training of the job starts from any.

    Raises:
        WeightsError: if they cannot be had or do not fit.
    """
    if job.fit.encoder_weights == "none":
        return
    from rsrnet.engine import load_start
    from rsrnet.model.network import RSRNet

    load_start(RSRNet(job.model), job.fit)


def try_compiler(job: spec.TrainJob, place: Cluster) -> None:
    """Try torch.compile, if the job asks for it and trains on this machine's processors; elsewhere its workers do.

    Raises:
        CompilerError: if it does not work.
    """
    here = place.address is None or (place.started and not place.use_gpu)
    if not (job.fit.compile and here):
        return
    import torch

    from rsrnet.compilation import require_compiler

    require_compiler(torch.device("cuda" if place.use_gpu else "cpu"))
