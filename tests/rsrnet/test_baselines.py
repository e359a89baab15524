from __future__ import annotations

import numpy as np
import pytest

from rsrnet.baselines import all_foreground, two_means


def two_coloured(share: float, height: int = 20, width: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """A noisy greenish image with a reddish part at its top, and the mask of that part."""
    generator = np.random.default_rng(0)
    mask = np.zeros((height, width), dtype=np.float32)
    mask[: round(height * share)] = 1
    image = np.where(mask[..., None] == 1, [200, 60, 50], [60, 150, 70]) + generator.integers(
        -20, 21, (height, width, 3)
    )
    return image.astype(np.uint8), mask


def test_all_foreground_marks_every_pixel() -> None:
    mask = all_foreground(np.zeros((4, 7, 3), dtype=np.uint8))
    assert mask.dtype == np.float32
    assert mask.shape == (4, 7)
    assert (mask == 1).all()


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_two_means_finds_the_smaller_colour(share: float) -> None:
    image, mask = two_coloured(share)
    found = two_means(image)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, mask)


def test_two_means_marks_the_smaller_colour_even_if_it_surrounds_the_other() -> None:
    image, mask = two_coloured(0.8)
    np.testing.assert_array_equal(two_means(image), 1 - mask)


def test_two_means_accepts_any_range() -> None:
    image, mask = two_coloured(0.2)
    np.testing.assert_array_equal(two_means(image.astype(np.float32) / 255), mask)


def test_two_means_is_repeatable() -> None:
    image = np.random.default_rng(1).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    np.testing.assert_array_equal(two_means(image, seed=3), two_means(image, seed=3))


@pytest.mark.filterwarnings("error")
def test_two_means_marks_nothing_in_an_image_of_one_colour() -> None:
    assert two_means(np.full((6, 5, 3), 80, dtype=np.uint8)).sum() == 0
