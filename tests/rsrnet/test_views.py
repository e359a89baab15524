"""The whole image and sliding windows: every pixel is seen, and a mask finds its way back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rsrnet.data.transforms import resize_image
from rsrnet.views import Views


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_the_first_view_is_the_image_resized() -> None:
    image = picture(50, 80)
    expected = resize_image(torch.from_numpy(image).permute(2, 0, 1), 32)
    for window in (None, 80, 40):
        torch.testing.assert_close(Views(32, window).split(image)[0], expected, atol=0, rtol=0)


def test_only_images_larger_than_the_window_get_windows() -> None:
    assert len(Views(32, 64).split(picture(64, 64))) == 1
    assert len(Views(32, 64).split(picture(64, 65))) == 3  # the whole, and two windows for one pixel more
    assert len(Views(32, 64).split(picture(128, 128))) == 10


def test_a_window_of_the_network_s_size_is_cut_out_unchanged() -> None:
    image = picture(32, 48)
    views = Views(32, 32).split(image)
    assert len(views) == 3
    cut = [views[1], views[2]]
    for start, view in zip((0, 16), cut, strict=True):
        np.testing.assert_allclose(
            view.permute(1, 2, 0).numpy() * 255, image[:, start : start + 32], atol=1e-4
        )


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 80), st.floats(0, 1))
def test_equal_masks_give_that_mask_at_every_pixel(height, width, window, value) -> None:
    """Weights add up to one everywhere, so no pixel is left out, and none counts twice."""
    views = Views(8, window)
    masks = torch.full((len(views.split(picture(height, width))), 1, 8, 8), value)
    mask = views.join(masks, height, width)
    assert (mask.shape, mask.dtype) == ((height, width), np.float32)
    np.testing.assert_allclose(mask, value, atol=1e-5)


def test_windows_put_their_masks_where_they_were_cut() -> None:
    """Brightness as the "mask": splitting and joining gives the image back where windows are not resized."""
    image = np.repeat(np.linspace(0, 255, 96).astype(np.uint8)[None, :, None], 64, axis=0).repeat(3, axis=2)
    views = Views(32, 32)
    brightness = views.split(image)[:, :1]
    whole = Views(32).join(brightness[:1], 64, 96)
    local = 2 * views.join(brightness, 64, 96) - whole
    np.testing.assert_allclose(local, image[..., 0] / 255, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1)])
def test_tiny_and_thin_images(shape) -> None:
    views = Views(16, 10)
    assert views.join(views.split(picture(*shape))[:, :1], *shape).shape == shape
