"""Scores after every iteration and with early exit, against runs of the network that do just that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rsrnet.data.lists import read_list
from rsrnet.data.naming import Composite
from rsrnet.evaluation.iterations import (
    CHANGES,
    COLUMNS,
    PHOTOGRAPH,
    IterationEvaluator,
    Stopwatch,
    early_exit,
    lists_of,
)
from rsrnet.evaluation.measure import Evaluator
from rsrnet.evaluation.uncertainty import standard_error
from rsrnet.model.config import RSRNetConfig
from rsrnet.model.network import RSRNet, RSRNetOutput

K = 7
HOW = {"size": 32, "batch_size": 2, "native": False}


class With(torch.nn.Module):
    """A network whose every call has these options."""

    def __init__(self, model: RSRNet, *options: float | None) -> None:
        super().__init__()
        self.model, self.options = model, options

    def forward(self, images: torch.Tensor, **how: bool) -> RSRNetOutput:
        return self.model(images, *self.options, **how)


@pytest.fixture(scope="module")
def model() -> RSRNet:
    torch.manual_seed(1)
    return RSRNet(RSRNetConfig(depth=18, width=4, iterations=2)).eval()


@pytest.fixture(scope="module")
def composites(squares: Path) -> list[Composite]:
    return read_list(squares, "le50_test.txt")


@pytest.fixture(scope="module")
def lists(model: RSRNet, squares: Path, composites: list[Composite]) -> dict[str, np.ndarray]:
    return lists_of(IterationEvaluator(model, squares, iterations=K, **HOW)(composites))


def scores_of(model: torch.nn.Module, root: Path, composites: list[Composite]) -> dict[str, list[float]]:
    """Scores of a network as `kind: evaluate` makes them, by the names of `COLUMNS`."""
    rows = Evaluator(model, root, **HOW)(composites)  # type: ignore[arg-type]
    names = {column: "{}.published.input.{}".format(*column.split(".")) for column in COLUMNS}
    return {column: [row[name] for row in rows] for column, name in names.items()}


@pytest.mark.parametrize("k", [1, 2, K])
def test_each_iteration_scores_like_a_run_of_that_length(
    model: RSRNet, squares: Path, composites: list[Composite], lists: dict[str, np.ndarray], k: int
) -> None:
    expected = scores_of(With(model, k), squares, composites)
    for column in COLUMNS:
        assert lists[column].shape == (5, K)
        np.testing.assert_allclose(lists[column][:, k - 1], expected[column], atol=1e-6)


def test_early_exit_scores_like_a_network_that_stops_early(
    model: RSRNet, squares: Path, composites: list[Composite], lists: dict[str, np.ndarray]
) -> None:
    ordered = np.unique(lists[CHANGES])
    middle = int(np.diff(ordered[2:-2]).argmax()) + 2
    lists[PHOTOGRAPH] = photographs = np.array([0.0, 0.0, 1.0, 2.0, 3.0])  # they are all of one
    tolerance = float(ordered[middle : middle + 2].mean())  # far from every change
    most = 5
    found = early_exit(lists, tolerance, most)
    expected = scores_of(With(model, most, tolerance), squares, composites)
    full = scores_of(With(model, most), squares, composites)
    for column in COLUMNS:
        assert found.scores[column] == pytest.approx(np.mean(expected[column]), abs=1e-6)
        lost = np.subtract(expected[column], full[column])
        assert found.errors[column] == pytest.approx(float(standard_error(lost, photographs)), abs=1e-6)
    assert found.iterations < most


@given(st.lists(st.lists(st.floats(0, 1), min_size=4, max_size=4), min_size=1, max_size=5), st.floats(0, 1))
def test_iterations_taken_are_those_of_a_plain_loop(changes: list[list[float]], tolerance: float) -> None:
    taken = []
    for image in changes:
        k = 1
        while k < 3 and image[k - 1] > tolerance:
            k += 1
        taken.append(k)
    known = {PHOTOGRAPH: np.arange(len(changes))}
    numbers = np.arange(1.0, 5).repeat(len(changes)).reshape(4, -1).T  # each score is its iteration
    made = early_exit(
        {**known, CHANGES: np.array(changes), **dict.fromkeys(COLUMNS, numbers)}, tolerance, most=3
    )
    assert made.iterations == pytest.approx(np.mean(taken))
    assert all(score == pytest.approx(np.mean(taken)) for score in made.scores.values())


def test_stopwatch_times_every_way_on_the_same_images(
    model: RSRNet, squares: Path, composites: list[Composite]
) -> None:
    seen: list[tuple[int, float | None]] = []

    class Counting(RSRNet):
        def forward(self, images, iterations=None, tolerance=None, **how):  # type: ignore[no-untyped-def]
            assert iterations == K
            seen.append((len(images), tolerance))
            return super().forward(images, iterations, tolerance, **how)

    counting = Counting(model.config).eval()
    watch = Stopwatch(counting, squares, iterations=K, tolerances=(0.9, 0.1), rounds=3, **HOW)
    rows = watch(composites)
    assert [row["tolerance"] for row in rows] == [None, 0.9, 0.1]
    assert rows[0]["saved"] == 0
    assert all(row["seconds"] > 0 and row["saved"] < 1 for row in rows)
    for way in (None, 0.9, 0.1):
        assert sorted(count for count, tolerance in seen if tolerance == way) == [1] * 4 + [2] * 8


def test_no_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="no image"):
        lists_of([])
