"""What a search would cost, told without starting it: trials, trainings, epochs, hours."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from rsrnet_platform import spec
from rsrnet_platform.ablation import rows
from rsrnet_platform.cluster import Cluster
from rsrnet_platform.search import points, space
from rsrnet_platform.search.trials import Point
from rsrnet_platform.terminal import duration

POINTS = 3
"""Points that are timed: K and the scales change the cost of a step."""

IMAGES = 2
"""Images of a timed step."""


@dataclass(frozen=True)
class Forecast:
    """What a search takes at most: no trial given up."""

    trials: int
    trainings: int
    """One for each fold of each trial."""

    epochs: int
    """Over all trainings."""

    images: int
    """Training images that pass through the networks, over all epochs."""

    place: Cluster
    at_once: int
    """Trials that run at the same time."""

    seconds: float | None
    """That a worker takes for an image, timed here; None: this machine has no such device."""

    def __str__(self) -> str:
        device = "GPU" if self.place.use_gpu else "CPU"
        lines = [
            f"{self.trials} trials, {self.trainings} trainings, {self.epochs:,} epochs at most.",
            f"{self.at_once} at once, with {self.place}.",
        ]
        if self.seconds is None:
            lines.append(
                f"{self.images:,} training images to compute; this machine has no {device} to time one on."
            )
            return "\n".join(lines)
        worker_hours = self.images * self.seconds / 3600
        hours = worker_hours * (1 if self.place.use_gpu else self.place.cpus_per_worker)
        wall = duration(worker_hours * 3600 / (self.at_once * self.place.workers))
        lines.append(
            f"About {hours:.3g} {device} hours at most, {wall} here, validation aside "
            f"(one step of {POINTS} of the points was timed: {self.seconds:.2g} s an image)."
        )
        return "\n".join(lines)


def forecast(job: spec.SearchJob, place: Cluster) -> Forecast:
    """Count what a search would do, and time a few training steps of it in this process.

    Args:
        job: the search or the ablation; its training list is read.
        place: the cluster, as :func:`rsrnet_platform.cluster.foresee` returns it.

    Raises:
        DataError: if the training list cannot be read, or has fewer photographs than folds.
    """
    import torch

    from rsrnet_platform.search.cross_validation import split_into_folds
    from rsrnet_platform.search.ray_tune import concurrency

    every = _points(job)
    each = [spec.training(job, point, job.name).fit.epochs for point in every]
    composites = sum(len(split.train) for split in split_into_folds(job.data, job.search, frozenset()))
    can_time = torch.cuda.is_available() or not place.use_gpu
    return Forecast(
        len(every),
        len(every) * job.search.folds,
        sum(each) * job.search.folds,
        sum(each) * composites,
        place,
        concurrency(job, place),
        fmean(seconds_per_image(job, point, place) for point in _some(every)) if can_time else None,
    )


def _points(job: spec.SearchJob) -> list[Point]:
    """The points of all trials."""
    if isinstance(job, spec.AblateJob):
        return list(rows.points(job.rows, job.repeats, job.fit.seed).values())
    domains = space.parse(job.space)
    paper = spec.paper_values(domains)
    known = points.planned(domains, job.search, paper)
    # Optuna's points are not known beforehand: draws stand for them.
    source = random.Random(job.search.seed)  # noqa: S311 - no secret
    drawn = [
        {path: domain.draw(source) for path, domain in domains.items()}
        for _ in range(points.count(domains, job.search, paper) - len(known))
    ]
    return [*known, *drawn]


def _some(every: Sequence[Point]) -> list[Point]:
    """A few points, evenly spread over all."""
    number = min(POINTS, len(every))
    return [every[round(index * (len(every) - 1) / max(1, number - 1))] for index in range(number)]


def seconds_per_image(job: spec.SearchJob, point: Point, place: Cluster) -> float:
    """Time a training step of a point's network on random images, as a worker would take it."""
    import torch

    from rsrnet.losses import RSRNetLoss
    from rsrnet.model.network import RSRNet
    from rsrnet.validation import autocast

    training = spec.training(job, point, job.name)
    device = torch.device("cuda" if place.use_gpu else "cpu")
    threads = torch.get_num_threads()
    torch.set_num_threads(place.cpus_per_worker)
    try:
        model = RSRNet(training.model).to(device)
        criterion = RSRNetLoss(training.loss)
        images = torch.rand(IMAGES, 3, training.data.size, training.data.size, device=device)
        target = (torch.rand_like(images[:, :1]) > 0.5).float()

        def step() -> float:
            begun = time.perf_counter()
            with autocast(device, training.fit.precision):
                output = model(images)
            criterion(output, target).total.backward()
            if device.type == "cuda":
                torch.cuda.synchronize()
            return time.perf_counter() - begun

        return min(step(), step()) / IMAGES  # the first one warms up
    finally:
        torch.set_num_threads(threads)
