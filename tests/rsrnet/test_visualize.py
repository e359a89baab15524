from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from rsrnet.visualize import comparison, iteration_strip, overlay

HEIGHT, WIDTH = 60, 90


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def box(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.float32)
    mask[top:bottom, left:right] = 1
    return mask


def test_overlay_keeps_size_and_what_is_far_from_the_region(image: np.ndarray) -> None:
    picture = overlay(image, box(20, 40, 30, 60))
    assert (picture.mode, picture.size) == ("RGB", (WIDTH, HEIGHT))
    changed = (np.asarray(picture) != image).any(axis=2)
    assert not changed[:15].any()
    assert changed[22:38, 32:58].mean() > 0.99


def test_overlay_of_an_empty_mask_is_the_image(image: np.ndarray) -> None:
    np.testing.assert_array_equal(np.asarray(overlay(image, np.zeros((HEIGHT, WIDTH)))), image)


@pytest.mark.parametrize("ground", [0, 128, 255])
def test_outline_differs_from_any_ground(ground: int) -> None:
    plain = np.full((HEIGHT, WIDTH, 3), ground, dtype=np.uint8)
    row = np.asarray(overlay(plain, box(20, 40, 30, 60)))[30].astype(int)
    inside, outside = row[30], row[29]
    assert np.abs(inside - outside).max() > 100
    assert np.abs(inside - ground).max() > 60


def test_tint_is_as_strong_as_the_mask() -> None:
    white = np.full((HEIGHT, WIDTH, 3), 255, dtype=np.uint8)
    faint, strong = (np.asarray(overlay(white, np.full((HEIGHT, WIDTH), p)))[30, 45, 1] for p in (0.2, 0.45))
    assert strong < faint < 255


def test_truth_is_outlined_in_its_own_colour_and_not_tinted(image: np.ndarray) -> None:
    truth = box(5, 55, 5, 85)
    with_truth = np.asarray(overlay(image, box(25, 35, 40, 50), truth))
    without = np.asarray(overlay(image, box(25, 35, 40, 50)))
    changed = (with_truth != without).any(axis=2)
    assert changed[5, 40]
    assert tuple(with_truth[5, 40]) != tuple(with_truth[25, 45])
    assert not changed[10:50, 10:80].any()


def test_overlay_refuses_a_mask_of_another_size(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"the truth is \(5, 5\), the image \(60, 90\)"):
        overlay(image, box(1, 2, 1, 2), np.zeros((5, 5)))


def test_overlay_refuses_an_image_in_floats(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8"):
        overlay((image / 255).astype(np.float32), box(1, 2, 1, 2))


def test_comparison_places_rows_and_columns(image: np.ndarray) -> None:
    black, white = np.zeros((HEIGHT, WIDTH)), np.ones((HEIGHT, WIDTH))
    sheet = comparison([[image, white, black], [image, black, white]], ["input", "a", "b"], panel_width=90)
    pixels = np.asarray(sheet.convert("L"))
    right_part = pixels[:, sheet.width // 3 + 3 :]
    half = right_part.shape[1] // 2
    dark = (right_part == 0).sum(axis=1)
    upper, lower = np.flatnonzero(dark >= 90)[[0, -1]]
    assert (right_part[upper, half:] == 0).sum() == 90  # first row: black is the last column
    assert (right_part[lower, :half] == 0).sum() == 90
    assert lower - upper > HEIGHT


def test_comparison_writes_titles(image: np.ndarray) -> None:
    titled, untitled = comparison([[image]], ["M_rsr"]), comparison([[image]], [""])
    assert titled.size == untitled.size
    assert np.asarray(titled)[:20].min() < 128
    assert np.asarray(untitled)[:20].min() == 255


def test_comparison_accepts_pictures_and_images_of_different_shapes(image: np.ndarray) -> None:
    tall = np.zeros((80, 40, 3), dtype=np.uint8)
    sheet = comparison(
        [[image, Image.new("L", (WIDTH, HEIGHT))], [tall, np.zeros((80, 40))]], ["", ""], panel_width=60
    )
    assert sheet.height > 60 * HEIGHT / WIDTH + 60 * 2


def test_comparison_refuses_rows_that_do_not_fit_the_titles(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="row 2 has 1 panels for 2 titles"):
        comparison([[image, image], [image]], ["a", "b"])
    with pytest.raises(ValueError, match="no row"):
        comparison([], ["a"])


def test_iteration_strip_shows_every_mask_once(image: np.ndarray) -> None:
    masks = [np.full((HEIGHT, WIDTH), level) for level in (0.0, 0.25, 0.5, 0.75)]
    strip = iteration_strip(image, masks)
    levels = np.asarray(strip.convert("L"))[strip.height // 2 + 10]
    counts = {level: int((levels == level).sum()) for level in (0, 64, 128, 191)}
    assert min(counts.values()) >= 0.9 * strip.width / 5 - 10
