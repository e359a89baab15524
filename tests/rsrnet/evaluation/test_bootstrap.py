"""The paired bootstrap over photographs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rsrnet.evaluation.bootstrap import LEVEL, paired_difference
from rsrnet.evaluation.uncertainty import standard_error

SCORES = st.lists(
    st.tuples(st.floats(0, 1), st.floats(0, 1), st.sampled_from("abcd")), min_size=2, max_size=12
)


def test_spread_is_that_of_scipy_where_every_image_is_of_a_photograph_of_its_own() -> None:
    random = np.random.default_rng(3)
    first, second = random.beta(5, 2, 80), random.beta(4, 2, 80)
    found = paired_difference(first, second, [str(number) for number in range(80)])
    interval = stats.bootstrap(
        (first - second,), np.mean, confidence_level=LEVEL, n_resamples=20_000, method="percentile", rng=1
    ).confidence_interval
    assert found.difference == pytest.approx(np.mean(first) - np.mean(second))
    assert found.spread == pytest.approx((interval.high - interval.low) / 2, rel=0.05)
    assert (found.images, found.photographs) == (80, 80)


def test_spread_of_two_photographs_is_half_the_way_between_them() -> None:
    # A draw has the first photograph twice (1/4), both (1/2) or the second twice (1/4).
    found = paired_difference([0.9, 0.8, 0.6], [0.5, 0.5, 0.5], ["a", "a", "b"])
    assert found.difference == pytest.approx(0.8 / 3)
    assert found.spread == pytest.approx((0.35 - 0.1) / 2)


def test_composites_of_one_photograph_are_no_independent_draws() -> None:
    random = np.random.default_rng(0)
    by_photograph = random.normal(0, 0.1, 60)
    values = np.repeat(by_photograph, 10) + random.normal(0, 0.01, 600)
    zeros = np.zeros(600)
    photographs = np.repeat(np.arange(60), 10).astype(str)
    together = paired_difference(values, zeros, photographs)
    apart = paired_difference(values, zeros, np.arange(600).astype(str))
    # The normal approximation of both, from the sandwich estimator.
    assert together.spread == pytest.approx(1.96 * float(standard_error(values, photographs)), rel=0.05)
    assert together.spread > 2.5 * apart.spread


def test_what_is_hard_for_both_does_not_count() -> None:
    hard = np.random.default_rng(0).uniform(0, 0.9, 50)
    found = paired_difference(hard + 0.01, hard, np.arange(50).astype(str))
    assert found.difference == pytest.approx(0.01)
    assert found.spread < 1e-9
    assert found.beats


@given(SCORES)
def test_swapping_the_models_turns_the_sign(rows: list[tuple[float, float, str]]) -> None:
    first, second, photographs = zip(*rows, strict=True)
    one = paired_difference(first, second, photographs)
    other = paired_difference(second, first, photographs)
    assert other.difference == pytest.approx(-one.difference, abs=1e-12)
    assert other.spread == pytest.approx(one.spread, abs=1e-12, nan_ok=True)
    assert not (one.beats and other.beats)


@given(SCORES, st.randoms(use_true_random=False))
def test_order_and_copies_of_all_images_change_nothing(
    rows: list[tuple[float, float, str]], random: object
) -> None:
    found = paired_difference(*zip(*rows, strict=True))
    shuffled = [*rows, *rows]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    again = paired_difference(*zip(*shuffled, strict=True))
    assert again.difference == pytest.approx(found.difference, abs=1e-12)
    assert again.spread == pytest.approx(found.spread, abs=1e-12, nan_ok=True)
    assert again.photographs == found.photographs


@given(SCORES, st.floats(-1, 1))
def test_a_constant_gain_moves_the_difference_and_not_the_spread(
    rows: list[tuple[float, float, str]], gain: float
) -> None:
    first, second, photographs = map(list, zip(*rows, strict=True))
    found = paired_difference(first, second, photographs)
    better = paired_difference(np.array(first) + gain, second, photographs)
    assert better.difference == pytest.approx(found.difference + gain, abs=1e-12)
    assert better.spread == pytest.approx(found.spread, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize(
    ("first", "photographs"), [([0.9, float("nan")], ["a", "b"]), ([0.9, 0.8], ["a", "a"]), ([0.9], ["a"])]
)
def test_nothing_is_beaten_without_a_number_or_a_second_photograph(
    first: list[float], photographs: list[str]
) -> None:
    found = paired_difference(first, [0.0] * len(first), photographs)
    assert np.isnan(found.spread)
    assert not found.beats


def test_equal_models_do_not_beat_each_other() -> None:
    found = paired_difference([0.5, 0.6], [0.5, 0.6], ["a", "b"])
    assert (found.difference, found.spread, found.beats) == (0.0, 0.0, False)


def test_draws_of_many_photographs_are_those_of_a_seed() -> None:
    random = np.random.default_rng(0)
    first, second = random.random((2, 3000))
    photographs = np.arange(3000).astype(str)
    found = paired_difference(first, second, photographs)
    assert paired_difference(first, second, photographs) == found
    other = paired_difference(first, second, photographs, seed=1)
    assert other.spread != found.spread
    assert other.spread == pytest.approx(found.spread, rel=0.05)


@pytest.mark.parametrize("lengths", [(0, 0, 0), (1, 2, 2), (2, 2, 1)])
def test_scores_of_other_images_are_refused(lengths: tuple[int, int, int]) -> None:
    first, second, photographs = lengths
    with pytest.raises(ValueError, match="the same images"):
        paired_difference([0.5] * first, [0.5] * second, ["a"] * photographs)
