"""The paired bootstrap over photographs, against SciPy and against plain formulas."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap

from rsrnet.evaluation.bootstrap import paired_difference

scores = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(0, 6)), min_size=1, max_size=30)


def drawn(seed: int, count: int = 120) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    second = rng.uniform(0, 1, count)
    return second + rng.normal(0.02, 0.2, count), second


def test_with_one_image_a_photograph_it_is_scipys_percentile_interval() -> None:
    first, second = drawn(0)
    found = paired_difference(first, second, [str(number) for number in range(len(first))])
    oracle = bootstrap(
        (first - second,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert found.difference == pytest.approx((first - second).mean())
    assert found.spread == pytest.approx((oracle.high - oracle.low) / 2, rel=0.03)


def test_composites_of_one_photograph_are_no_independent_draws() -> None:
    """Copies of an image tell nothing new, so the spread must stay what it was."""
    first, second = drawn(1)
    names = [str(number) for number in range(len(first))]
    alone = paired_difference(first, second, names)
    copied = paired_difference(np.tile(first, 9), np.tile(second, 9), names * 9)
    assert copied.spread == pytest.approx(alone.spread, rel=0.03)
    assert (copied.images, copied.photographs) == (9 * len(first), len(first))
    as_if_independent = paired_difference(
        np.tile(first, 9), np.tile(second, 9), [str(number) for number in range(9 * len(first))]
    )
    assert as_if_independent.spread == pytest.approx(alone.spread / 3, rel=0.1)


@settings(max_examples=50, deadline=None)
@given(scores, st.permutations(range(30)))
def test_the_order_of_images_does_not_matter_and_swapping_turns_the_sign(rows, order) -> None:
    shuffled = [rows[place] for place in order if place < len(rows)]
    found = paired_difference(*zip(*rows, strict=True))
    again = paired_difference(*zip(*shuffled, strict=True))
    assert again.difference == pytest.approx(found.difference, abs=1e-12)
    assert again.spread == pytest.approx(found.spread, abs=1e-12, nan_ok=True)
    first, second, names = zip(*rows, strict=True)
    swapped = paired_difference(second, first, names)
    assert swapped.difference == pytest.approx(-found.difference)
    assert swapped.spread == pytest.approx(found.spread, abs=1e-9, nan_ok=True)
    assert not (found.beats and swapped.beats)


def test_what_shows_no_difference_beats_nothing() -> None:
    equal = paired_difference([0.5, 0.6], [0.5, 0.6], ["a", "b"])
    assert (equal.difference, equal.spread, equal.beats) == (0, 0, False)
    single = paired_difference([0.9, 0.8], [0.1, 0.2], ["a", "a"])
    assert np.isnan(single.spread)
    assert not single.beats
    nan = paired_difference([float("nan"), 0.8], [0.1, 0.2], ["a", "b"])
    assert not nan.beats
    assert paired_difference([0.9, 0.8], [0.1, 0.2], ["a", "b"]).beats


def test_scores_of_other_images_are_refused() -> None:
    for first, second, names in (([], [], []), ([1.0], [1.0, 2.0], ["a"]), ([1.0], [1.0], [])):
        with pytest.raises(ValueError, match="on the same images"):
            paired_difference(first, second, names)
