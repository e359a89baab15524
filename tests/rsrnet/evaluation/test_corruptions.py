"""The corruptions on photographs that ship inside scikit-image, and against other libraries' formulas."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage import color, data, exposure
from skimage.transform import resize as skimage_resize

from rsrnet.evaluation.corruptions import CORRUPTIONS, DAYLIGHT, LUMINANCE, STRENGTHS, Corruption, black_body

EACH = pytest.mark.parametrize("corruption", CORRUPTIONS.values(), ids=list(CORRUPTIONS))
PHOTOGRAPHS = {name: getattr(data, name)() for name in ("astronaut", "chelsea", "coffee", "rocket")}

images = st.tuples(st.integers(1, 24), st.integers(1, 24)).flatmap(
    lambda size: arrays(np.uint8, (*size, 3), elements=st.integers(0, 255))
)


def distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.sqrt(np.mean((one.astype(float) - other) ** 2)))


@given(images, st.sampled_from(list(CORRUPTIONS.values())), st.sampled_from(STRENGTHS))
def test_any_image_keeps_its_shape_and_gives_the_same_each_time(
    image: np.ndarray, corruption: Corruption, strength: int
) -> None:
    before = image.copy()
    changed = corruption(image, strength)
    assert (changed.shape, changed.dtype) == (image.shape, np.uint8)
    np.testing.assert_array_equal(corruption(image, strength), changed)
    np.testing.assert_array_equal(image, before)
    if strength == 0:
        np.testing.assert_array_equal(changed, image)


@EACH
@pytest.mark.parametrize("photograph", PHOTOGRAPHS)
def test_every_strength_is_further_from_the_photograph(corruption: Corruption, photograph: str) -> None:
    image = PHOTOGRAPHS[photograph]
    distances = [distance(corruption(image, strength), image) for strength in STRENGTHS]
    assert distances[0] == 0
    assert all(next_ > this for this, next_ in pairwise(distances))


@EACH
def test_levels_go_one_way_and_there_are_as_many_as_strengths(corruption: Corruption) -> None:
    steps = np.diff(corruption.levels)
    assert (steps > 0).all() or (steps < 0).all()
    assert len(corruption.levels) == len(STRENGTHS) - 1
    with pytest.raises(ValueError, match="strength 6"):
        corruption(PHOTOGRAPHS["coffee"], 6)


@pytest.mark.parametrize("strength", STRENGTHS[1:])
def test_gamma_is_scikit_images(strength: int) -> None:
    changed = CORRUPTIONS["gamma"](PHOTOGRAPHS["coffee"], strength)
    wanted = exposure.adjust_gamma(PHOTOGRAPHS["coffee"] / 255, CORRUPTIONS["gamma"].levels[strength - 1])
    np.testing.assert_allclose(changed, wanted * 255, atol=0.51)


def test_a_stop_doubles_the_light() -> None:
    greys = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, axis=2)
    wide = color.rgb2xyz(greys)[0, :, 1]
    brighter = color.rgb2xyz(CORRUPTIONS["exposure"](greys, 2))[0, :, 1]
    np.testing.assert_allclose(brighter, np.minimum(2 * wide, 1), atol=0.01)


def test_white_balance_shows_the_lamps_colour_and_keeps_the_luminance_of_grey() -> None:
    grey = np.full((4, 4, 3), 100, np.uint8)
    light = color.rgb2xyz(grey)[0, 0, 1]
    ratios = []
    for strength in STRENGTHS:
        changed = CORRUPTIONS["white_balance"](grey, strength)
        assert color.rgb2xyz(changed)[0, 0, 1] == pytest.approx(light, rel=0.02)
        ratios.append(changed[0, 0, 0] / changed[0, 0, 2])
    assert ratios[0] == 1
    assert (np.diff(ratios) > 0).all()


@pytest.mark.parametrize(
    ("kelvin", "x", "y"), [(2000, 0.5267, 0.4133), (2856, 0.4476, 0.4074), (5000, 0.3451, 0.3516)]
)
def test_black_body_has_the_tabulated_chromaticity(kelvin: float, x: float, y: float) -> None:
    xyz = np.linalg.inv([[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]])
    found = xyz @ black_body(kelvin)
    np.testing.assert_allclose(found[:2] / found.sum(), [x, y], atol=1e-3)
    assert black_body(DAYLIGHT) @ LUMINANCE == pytest.approx(1, abs=1e-3)


def test_saturation_ends_in_grey() -> None:
    changed = CORRUPTIONS["saturation"](PHOTOGRAPHS["chelsea"], 5)
    assert (np.ptp(changed, axis=2) == 0).all()


def test_jpeg_changes_far_less_the_second_time() -> None:
    for strength in STRENGTHS[1:]:
        once = CORRUPTIONS["jpeg"](PHOTOGRAPHS["rocket"], strength)
        again = CORRUPTIONS["jpeg"](once, strength)
        assert distance(once, again) < 0.5 * distance(once, PHOTOGRAPHS["rocket"])


@pytest.mark.parametrize("strength", [2, 5])
def test_resizing_loses_what_a_small_image_cannot_hold(strength: int) -> None:
    image = PHOTOGRAPHS["astronaut"]
    factor = int(CORRUPTIONS["resize"].levels[strength - 1])
    height, width = (side // factor for side in image.shape[:2])
    small = image.reshape(height, factor, width, factor, 3).mean(axis=(1, 3))
    wanted = skimage_resize(small, image.shape[:2], order=1, mode="edge", anti_aliasing=False)
    assert distance(CORRUPTIONS["resize"](image, strength), wanted) < 1
