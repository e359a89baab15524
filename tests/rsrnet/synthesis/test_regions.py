"""Random regions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from rsrnet.synthesis.regions import draw_region


def two_tone(height: int = 96, width: int = 96) -> np.ndarray:
    image = np.full((height, width, 3), (200, 60, 40), dtype=np.uint8)
    image[:, width // 2 :] = (30, 90, 200)
    return image


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(16, 90),
    width=st.integers(16, 90),
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(["constant", "noise", "two-tone"]),
)
def test_a_region_covers_1_to_50_percent_of_any_image(height, width, seed, kind):
    images = {
        "constant": np.full((height, width, 3), 128, dtype=np.uint8),
        "noise": np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8),
        "two-tone": two_tone(height, width),
    }
    region = draw_region(images[kind], np.random.default_rng(seed))
    assert region.dtype == np.bool_
    assert region.shape == (height, width)
    assert 0.01 <= region.mean() <= 0.5


def test_same_seed_gives_same_region():
    first, second, other = (draw_region(two_tone(), np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


@pytest.fixture(scope="module")
def regions() -> list[np.ndarray]:
    return [draw_region(two_tone(), np.random.default_rng(seed)) for seed in range(120)]


def test_most_regions_are_connected_and_none_is_scattered(regions):
    parts = [ndimage.label(region)[1] for region in regions]
    assert np.mean(np.array(parts) == 1) > 0.7
    assert max(parts) <= 4


def test_regions_vary_in_area_and_place(regions):
    shares = np.array([region.mean() for region in regions])
    assert (shares < 0.08).mean() > 0.1
    assert (shares > 0.25).mean() > 0.1
    assert np.mean(regions, axis=0).max() < 0.5


def test_many_regions_follow_the_edges_of_the_image(regions):
    left = np.zeros((96, 96), dtype=bool)
    left[:, :48] = True
    shares = [(region & left).sum() / region.sum() for region in regions]
    one_sided = [share < 0.03 or share > 0.97 for share in shares]
    assert np.mean(one_sided) > 0.35
