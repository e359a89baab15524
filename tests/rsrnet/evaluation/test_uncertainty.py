"""Standard errors over photographs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsrnet.evaluation.uncertainty import error_of_sum, standard_error

SCORES = st.lists(st.floats(0, 1), min_size=2, max_size=30)


@given(SCORES)
def test_of_images_of_different_photographs_it_is_the_usual_one(scores: list[float]) -> None:
    values = np.array(scores)
    usual = values.std(ddof=1) / np.sqrt(len(values))
    assert standard_error(values, [f"HCOCO/{index}" for index in range(len(values))]) == pytest.approx(
        usual, abs=1e-12
    )


@given(SCORES, st.integers(1, 5))
def test_copies_of_images_bring_no_certainty(scores: list[float], copies: int) -> None:
    once = standard_error(np.array(scores), np.arange(len(scores)))
    often = standard_error(np.repeat(scores, copies), np.repeat(np.arange(len(scores)), copies))
    assert often == pytest.approx(once, abs=1e-12)


def test_covers_the_true_mean_as_often_as_it_says() -> None:
    """95 % intervals over 40 photographs with 5 alike composites each, 2,000 times; the naive error covers far less."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 5)
    photographs = rng.normal(size=(40, 2000))
    values = photographs[groups] + 0.3 * rng.normal(size=(200, 2000))
    error = standard_error(values, groups)
    naive = values.std(axis=0, ddof=1) / np.sqrt(200)
    covered, naively = (np.mean(np.abs(values.mean(axis=0)) < 1.96 * each) for each in (error, naive))
    assert 0.92 < covered < 0.97
    assert naively < 0.75


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(0, 4)), min_size=1, max_size=20))
def test_every_column_by_itself(rows: list[tuple[float, float, int]]) -> None:
    values, groups = np.array([row[:2] for row in rows]), np.array([row[2] for row in rows])
    both = standard_error(values, groups)
    each = [float(standard_error(values[:, column], groups)) for column in (0, 1)]
    assert both == pytest.approx(each, nan_ok=True)
    assert np.isnan(both).all() == (len(set(groups.tolist())) < 2)


def test_difference_of_two_means_of_different_images() -> None:
    first, second = np.array([0.0, 1.0, 0.5]), np.array([0.2, 0.4])
    influences = np.concatenate([(first - first.mean()) / 3, -(second - second.mean()) / 2])
    squares = np.square(first - first.mean()).sum() / 9 + np.square(second - second.mean()).sum() / 4
    assert error_of_sum(influences, np.arange(5)) == pytest.approx(np.sqrt(5 / 4 * squares))
