"""What more or fewer iterations are worth: the scores after each of them, and with early exit.

Letters in the shapes: N images, B of them in a batch, K iterations.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rsrnet.data.naming import Composite
from rsrnet.evaluation.columns import METRICS
from rsrnet.evaluation.measure import Evaluator, Example, Row, identity
from rsrnet.evaluation.uncertainty import standard_error
from rsrnet.metrics import image_metrics
from rsrnet.validation import MASKS, autocast

CHANGES = "changes"
"""Column of :func:`rsrnet.model.recurrence.change`, a list with a number for every iteration."""

PHOTOGRAPH = "photograph"
"""What each image was made from, as a number."""

COLUMNS = tuple(f"{mask}.{metric}" for mask in MASKS for metric in METRICS)
"""Columns of scores under the published protocol at the input's size, each a list over the iterations."""


class IterationEvaluator(Evaluator):
    """Scores the masks after each iteration, from one encoding of the images.

    Args:
        iterations: K, the most iterations.
        *arguments: as of :class:`Evaluator`.
        **more: as of :class:`Evaluator`.
    """

    def __init__(self, *arguments: Any, iterations: int, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.iterations = iterations

    @torch.inference_mode()
    def score(self, examples: list[Example]) -> Iterator[Row]:
        """Rows of a batch, with lists in the columns of scores and changes."""
        images, truth = self.tensors(examples)
        scores: dict[str, list[Tensor]] = {column: [] for column in COLUMNS}
        with autocast(self.device, self.precision):
            for output in self.model.unrolled(images, self.iterations):
                for mask in MASKS:
                    found = image_metrics(getattr(output, mask).float(), truth)
                    for metric in METRICS:
                        scores[f"{mask}.{metric}"].append(getattr(found, metric))
        lists = {column: torch.stack(values, 1).tolist() for column, values in scores.items()}
        lists[CHANGES] = output.changes.tolist()
        for index, example in enumerate(examples):
            yield identity(example.composite) | {name: values[index] for name, values in lists.items()}


def lists_of(rows: Sequence[Row]) -> dict[str, NDArray[np.float64]]:
    """The columns of scores and changes, (N, K) each, and ``PHOTOGRAPH``, the number of each image's, (N,).

    Raises:
        ValueError: if there is no row.
    """
    if not rows:
        raise ValueError("no image was scored")
    photographs = np.unique([row["group"] for row in rows], return_inverse=True)[1]
    return {PHOTOGRAPH: photographs.astype(np.float64)} | {
        name: np.array([row[name] for row in rows], dtype=np.float64) for name in (*COLUMNS, CHANGES)
    }


@dataclass(frozen=True)
class Exit:
    """What an early exit costs and spares on average over the images."""

    tolerance: float

    iterations: float
    """That an image took."""

    scores: Mapping[str, float]
    """Mean of every column of scores."""

    errors: Mapping[str, float]
    """Standard error of the mean difference from the full run, in every column; NaN for a single image."""


def early_exit(lists: Mapping[str, NDArray[np.float64]], tolerance: float, most: int) -> Exit:
    """What ``RSRNet(..., iterations=most, tolerance=tolerance)`` would have given.

    Up to the iteration that stops it, an image's masks are those of the full run: nothing is computed again.

    Args:
        lists: from :func:`lists_of`.
        tolerance: of the early exit.
        most: K, the iterations of an image whose mask never stands still.
    """
    still = lists[CHANGES][:, :most] <= tolerance
    taken = np.where(still.any(axis=1), still.argmax(axis=1) + 1, most)
    every = np.arange(len(taken))
    found = {column: lists[column][every, taken - 1] for column in COLUMNS}
    lost = {column: found[column] - lists[column][:, most - 1] for column in COLUMNS}
    return Exit(
        tolerance,
        float(taken.mean()),
        {column: float(values.mean()) for column, values in found.items()},
        {column: float(standard_error(values, lists[PHOTOGRAPH])) for column, values in lost.items()},
    )


class Stopwatch(Evaluator):
    """Times the network with and without early exit, one beside the other.

    The images are decoded first. In every round each way runs over all of them once, and the order of the ways rotates,
    so that what else the machine does meets all of them alike.

    Args:
        iterations: K of all ways.
        tolerances: of the early exits.
        rounds: how often everything is timed, after one round that is not.
        *arguments: as of :class:`Evaluator`.
        **more: as of :class:`Evaluator`.
    """

    def __init__(
        self, *arguments: Any, iterations: int, tolerances: Sequence[float], rounds: int = 5, **more: Any
    ) -> None:
        super().__init__(*arguments, **more)
        self.iterations = iterations
        self.ways = (None, *tolerances)
        self.rounds = rounds

    def __call__(self, composites: Sequence[Composite]) -> list[Row]:
        """Time the network on composites that can be decoded.

        Returns:
            A row for each way, the full run first: its ``tolerance``, the ``seconds`` an image took (the median over
            the rounds), and ``saved``, the share of the full run's time of the same round (likewise).
        """
        batches = []
        for read in self._batches(composites):
            good = [example for example in read if isinstance(example, Example)]
            batches.append(self.tensors(good)[0])
        seconds = [[0.0] * self.rounds for _ in self.ways]
        for number in range(-1, self.rounds):
            for shift in range(len(self.ways)):
                way = (number + shift) % len(self.ways)
                taken = self._time(batches, self.ways[way])
                if number >= 0:
                    seconds[way][number] = taken
        count = sum(map(len, batches))
        return [
            {
                "tolerance": tolerance,
                "seconds": median(times) / count,
                "saved": median(1 - time / full for time, full in zip(times, seconds[0], strict=True)),
            }
            for tolerance, times in zip(self.ways, seconds, strict=True)
        ]

    @torch.inference_mode()
    def _time(self, batches: Sequence[Tensor], tolerance: float | None) -> float:
        """Seconds that the network takes for all batches."""
        self._wait()
        began = time.perf_counter()
        for images in batches:
            with autocast(self.device, self.precision):
                self.model(images, self.iterations, tolerance, every_mask=False)
        self._wait()
        return time.perf_counter() - began

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
