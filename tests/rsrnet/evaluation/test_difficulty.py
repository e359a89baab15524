"""How far a region's colour is from its surroundings, against scikit-image and SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy.ndimage import maximum_filter
from skimage.color import deltaE_cie76, rgb2lab

from rsrnet.evaluation.difficulty import colour_difference

colours = st.tuples(*[st.integers(0, 255)] * 3)
pairs = npst.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=45).flatmap(
    lambda shape: st.tuples(npst.arrays(np.uint8, (*shape, 3)), npst.arrays(bool, shape))
)


def square(
    inside: tuple[int, ...], around: tuple[int, ...], far: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """100 x 140 pixels: a region of 20 x 30 in one colour, the 5 pixels around it and the rest in others."""
    image = np.full((100, 140, 3), far, np.uint8)
    image[35:65, 45:85] = around
    image[40:60, 50:80] = inside
    mask = np.zeros((100, 140), bool)
    mask[40:60, 50:80] = True
    return image, mask


@given(colours, colours, colours)
def test_flat_colours_are_as_far_apart_as_scikit_image_says(
    inside: tuple[int, ...], around: tuple[int, ...], far: tuple[int, ...]
) -> None:
    lab = [rgb2lab(np.array([[colour]], np.uint8))[0, 0] for colour in (inside, around)]
    expected = deltaE_cie76(*lab)
    assert colour_difference(*square(inside, around, far)) == pytest.approx(expected, abs=0.01)


@given(pairs)
def test_any_region_is_compared_with_the_band_around_it(pair: tuple[np.ndarray, np.ndarray]) -> None:
    image, mask = pair
    found = colour_difference(image, mask)
    width = max(1, round(0.05 * min(mask.shape)))
    band = maximum_filter(mask, 2 * width + 1, mode="constant") & ~mask
    if not mask.any() or not band.any():
        assert math.isnan(found)
        return
    means = [image[pixels].mean(axis=0, keepdims=True)[None] / 255 for pixels in (mask, band)]
    assert found == pytest.approx(deltaE_cie76(*map(rgb2lab, means)).item(), abs=0.01)


@given(pairs)
def test_the_distance_does_not_depend_on_how_the_image_is_held(pair: tuple[np.ndarray, np.ndarray]) -> None:
    image, mask = pair
    found = colour_difference(image, mask)
    for turned in (np.flipud, np.fliplr, lambda x: x.swapaxes(0, 1)):
        again = colour_difference(turned(image), turned(mask))
        assert again == pytest.approx(found, abs=1e-9, nan_ok=True)


def test_black_and_white_are_100_apart() -> None:
    image, mask = square((255, 255, 255), (0, 0, 0), (255, 0, 0))
    assert colour_difference(image, mask) == pytest.approx(100, abs=0.01)
    assert colour_difference(image, mask) == colour_difference(*square((0,) * 3, (255,) * 3, (9, 9, 9)))


@pytest.mark.parametrize("value", [True, False])
def test_a_region_without_surroundings_has_no_distance(value: bool) -> None:
    image = np.zeros((7, 9, 3), np.uint8)
    assert math.isnan(colour_difference(image, np.full((7, 9), value)))


def test_sizes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(7, 9, 3\) with a mask of shape \(9, 7\)"):
        colour_difference(np.zeros((7, 9, 3), np.uint8), np.zeros((9, 7), bool))
