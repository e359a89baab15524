"""Regions of a mask, against scikit-image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage import measure

from rsrnet_platform.prediction.regions import Region, find_regions

masks = arrays(
    np.float32,
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    elements=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]),
)


@given(masks, st.sampled_from([0.25, 0.5, 0.6, 1.0]), st.sampled_from([0.0, 0.05, 0.1, 0.3]))
def test_regions_are_those_of_scikit_image(mask: np.ndarray, threshold: float, least: float) -> None:
    inside, regions = find_regions(mask, threshold, least)
    labels = measure.label(mask >= threshold, connectivity=2)
    wanted = [each for each in measure.regionprops(labels, mask) if each.area >= least * mask.size]
    assert {(r.top, r.left, r.bottom, r.right, r.area) for r in regions} == {
        (*each.bbox, each.area) for each in wanted
    }
    assert [r.area for r in regions] == sorted((r.area for r in regions), reverse=True)
    assert sorted(r.confidence for r in regions) == pytest.approx(sorted(w.intensity_mean for w in wanted))
    np.testing.assert_array_equal(inside, np.isin(labels, [each.label for each in wanted]))


def test_pixels_that_touch_at_a_corner_are_one_region() -> None:
    mask = np.zeros((5, 6), np.float32)
    mask[1, 1], mask[2, 2], mask[4, 5] = 0.5, 1.0, 0.9
    _, regions = find_regions(mask, 0.5)
    assert regions == [Region(1, 1, 3, 3, 2, 0.75), Region(5, 4, 6, 5, 1, pytest.approx(0.9))]
