"""A search problem small enough to be solved in minutes, and what the benchmarks of searches share.

The images are of a smooth colour with noise, with one square whose channels are scaled by random factors, up or
down: a tiny network learns part of it in a few epochs, and how large a part depends on every setting searched.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image

from rsrnet.agreement import NoNotice
from rsrnet_platform import spec, tune
from rsrnet_platform.restart import Start
from rsrnet_platform.search.cross_validation import TrialHost, TrialTask, cross_validate
from rsrnet_platform.search.trials import Journal, Point, Trial
from rsrnet_platform.terminal import console

HEIGHT, WIDTH = 40, 48


def make_images(root: Path, train: int, seed: int = 0) -> None:
    """Make a dataset in the published layout, with five validation images besides.

    Args:
        root: where to.
        train: images of the training list, each of a photograph of its own.
        seed: chooses all of it.
    """
    source = np.random.default_rng(seed)
    lines = [_make_image(root / "Sample", index, source) for index in range(train + 5)]
    for name, part in {"train": lines[:train], "val": lines[train:], "test": lines[train:]}.items():
        (root / f"le50_{name}.txt").write_text("".join(part))


def _make_image(folder: Path, index: int, source: np.random.Generator) -> str:
    """Make one composite with its mask and photograph; its line in a list."""
    coarse = Image.fromarray(source.integers(90, 150, (4, 4, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), dtype=float)
    real = smooth + source.normal(0, 12, smooth.shape)
    side = source.integers(10, 22)
    top, left = source.integers(0, (HEIGHT - side, WIDTH - side))
    mask = np.zeros((HEIGHT, WIDTH, 1), dtype=bool)
    mask[top : top + side, left : left + side] = True
    factors = 1 + source.uniform(0.3, 0.6, 3) * source.choice([-1, 1], 3)
    stem = f"s{index:03d}-0"
    files = {
        f"real_images/{stem}.jpg": real,
        f"masks/{stem}_1.png": np.where(mask[..., 0], 255, 0),
        f"composite_images/{stem}_1_1.jpg": np.where(mask, real * factors, real),
    }
    for name, pixels in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / name, quality=95)
    return f"Sample/composite_images/{stem}_1_1.jpg\n"


def search_job(
    folder: Path, name: str, space: Mapping[str, Any], search: Mapping[str, Any], epochs: int
) -> spec.TuneJob:
    """A search with a tiny network on the images in ``folder/images``; everything it writes is in ``folder``."""
    job = spec.parse(
        {
            "kind": "tune",
            "name": name,
            "space": space,
            "search": search,
            "refit": False,
            "data": {
                "root": str(folder / "images"),
                "val": "le50_val.txt",
                "size": 32,
                "loader_processes": 0,
            },
            "model": {"depth": 18, "width": 4, "iterations": 2, "scales": [0, 1]},
            "fit": {
                "epochs": epochs,
                "batch_size": 4,
                "lr": 3e-3,
                "milestones": [max(1, epochs - 1)],
                "encoder_weights": "none",
            },
            "cluster": {"address": "local", "accelerator": "cpu"},
            "storage": str(folder / "runs"),
            "tracking": {"uri": str(folder / "mlflow.db"), "model": None},
        }
    )
    assert isinstance(job, spec.TuneJob)
    return job


def run_search(job: spec.TuneJob) -> list[Trial]:
    """Search as `rsrnet run` does, without a word; the trials."""
    console.quiet = True
    tune.run(job, fresh=True)
    return Journal(Path(job.storage) / job.name / "attempt-1").in_order()


class Collector:
    """A trial's host in this process that keeps nothing but what it is told."""

    rank = 0
    world_size = 1
    device = torch.device("cpu")
    notice = NoNotice()

    def __init__(self) -> None:
        self.reports: list[dict[str, Any]] = []

    @contextmanager
    def newest(self) -> Iterator[Start]:
        """See :class:`~rsrnet_platform.search.cross_validation.TrialHost`."""
        yield Start(None)

    def repeat(self, metrics: dict[str, Any]) -> None:
        """See :class:`~rsrnet_platform.search.cross_validation.TrialHost`."""

    def report(self, metrics: dict[str, Any], write: Callable[[Path], None]) -> None:
        """See :class:`~rsrnet_platform.search.cross_validation.TrialHost`."""
        self.reports.append(metrics)

    def interrupt(self, write: Callable[[Path], None]) -> None:
        """See :class:`~rsrnet_platform.search.cross_validation.TrialHost`."""


def train_here(job: spec.TuneJob, point: Point, host: TrialHost) -> float:
    """Train a point on every fold in this process; the seconds it took."""
    task = TrialTask(spec.training(job, point, job.name), job.search, frozenset())
    start = time.perf_counter()
    cross_validate(task, host)
    return time.perf_counter() - start


class Stopwatch:
    """Writes down when functions begin and end."""

    def __init__(self) -> None:
        self.spans: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)

    @contextmanager
    def on(self, calls: Mapping[str, Sequence[tuple[Any, str]]]) -> Iterator[None]:
        """Time methods, given as class and name by label, as long as the context lasts."""
        with ExitStack() as stack:
            for label, methods in calls.items():
                for owner, name in methods:
                    timed = self.timed(label, getattr(owner, name))
                    # A class method is bound already.
                    is_bound = isinstance(vars(owner)[name], classmethod)
                    stack.enter_context(patch.object(owner, name, staticmethod(timed) if is_bound else timed))
            yield

    def timed(self, label: str, method: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                self.spans[label].append((start, time.perf_counter()))

        return timed

    def seconds(self, label: str, start: float, end: float) -> float:
        """Spent in the methods of a label between two times."""
        return sum(stop - begin for begin, stop in self.spans[label] if start <= begin and stop <= end)


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in [head, *rows]:
        cells = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        print("  ".join([row[0].ljust(widths[0]), *cells]).rstrip())
