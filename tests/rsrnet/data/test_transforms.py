"""Resizing as published, and the augmentation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import interpolate

from rsrnet.data.transforms import EvalTransform, TrainTransform, draw_crop, resize_image, resize_mask


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def noise(height: int, width: int, channels: int = 3) -> Tensor:
    return torch.from_numpy(rng(height * width).integers(0, 256, (channels, height, width), dtype=np.uint8))


def bilinear(pixels: Tensor, size: int) -> np.ndarray:
    """Bilinear interpolation at half-pixel centres, borders repeated, no antialiasing: two taps an axis."""

    def taps(length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        centre = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
        low = np.floor(centre).astype(int)
        return low, np.minimum(low + 1, length - 1), centre - low

    values = pixels.numpy().astype(float)
    low, high, weight = taps(values.shape[1])
    rows = values[:, low] * (1 - weight)[:, None] + values[:, high] * weight[:, None]
    low, high, weight = taps(values.shape[2])
    return rows[:, :, low] * (1 - weight) + rows[:, :, high] * weight


@given(height=st.integers(1, 70), width=st.integers(1, 70), size=st.integers(1, 48))
def test_resizing_is_the_published_bilinear(height: int, width: int, size: int) -> None:
    image = noise(height, width)
    resized = resize_image(image, size)
    assert resized.shape == (3, size, size)
    assert resized.dtype == torch.float32
    np.testing.assert_allclose(resized.numpy() * 255, bilinear(image, size), atol=0.01)


@given(height=st.integers(1, 70), width=st.integers(1, 70), size=st.integers(1, 48))
def test_resized_mask_is_the_published_threshold(height: int, width: int, size: int) -> None:
    mask = noise(height, width, channels=1)
    exact = bilinear(mask, size)
    clear = abs(exact - 127.5) > 0.01
    resized = resize_mask(mask, size).numpy()
    assert set(np.unique(resized)) <= {0.0, 1.0}
    np.testing.assert_array_equal(resized[clear], exact[clear] > 127.5)


@given(
    longer=st.integers(1, 1500),
    shorter=st.integers(17, 1500),
    lies=st.booleans(),
    size=st.integers(1, 64),
    channels=st.sampled_from([1, 3]),
    cut=st.tuples(*[st.integers(0, 9)] * 4),
)
@settings(max_examples=25)
def test_large_images_are_resized_like_small_ones(
    longer: int, shorter: int, lies: bool, size: int, channels: int, cut: tuple[int, int, int, int]
) -> None:
    # A crop of a decoded image, as training takes it: channels innermost, rows apart.
    longer = max(longer, 2**20 // shorter + 1)
    height, width = (shorter, longer) if lies else (longer, shorter)
    top, bottom, left, right = cut
    decoded = torch.from_numpy(
        rng(height).integers(0, 256, (height + top + bottom, width + left + right, channels), dtype=np.uint8)
    )
    crop = decoded[top : top + height, left : left + width].permute(2, 0, 1)
    expected = interpolate(crop[None].float(), (size, size), mode="bilinear", align_corners=False)[0]
    # Where a pixel's centre is rounded in float32, by torch's fused products another way, its value moves that much.
    rounding = 0.01 + 255 * float(np.spacing(np.float32(max(height, width))))
    np.testing.assert_allclose(resize_image(crop, size).numpy() * 255, expected.numpy(), atol=rounding)
    clear = abs(expected[:1] - 127.5) > rounding
    np.testing.assert_array_equal(resize_mask(crop[:1], size)[clear], (expected[:1] > 127.5)[clear])


def test_exact_half_is_background() -> None:
    mask = torch.zeros(1, 2, 2, dtype=torch.uint8)
    mask[0, 0] = 255
    assert resize_mask(mask, 1).item() == 0


def test_grey_levels_from_128_on_are_foreground() -> None:
    mask = torch.tensor([[[127, 128], [0, 255]]], dtype=torch.uint8)
    assert resize_mask(mask, 2).tolist() == [[[0, 1], [0, 1]]]


def test_shrinking_does_not_average() -> None:
    lines = torch.zeros(3, 60, 60, dtype=torch.uint8)
    lines[:, :, 1::3] = 255
    assert resize_image(lines, 20).unique().tolist() == [1.0]


def test_evaluation_resizes_and_draws_nothing() -> None:
    image, mask = noise(30, 50), noise(30, 50, channels=1)
    generator = rng()
    before = generator.bit_generator.state
    small_image, small_mask = EvalTransform(24)(image, mask, generator)
    assert generator.bit_generator.state == before
    assert torch.equal(small_image, resize_image(image, 24))
    assert torch.equal(small_mask, resize_mask(mask, 24))


def half_image() -> tuple[Tensor, Tensor]:
    """An image that is white exactly where its mask is foreground."""
    mask = torch.zeros(1, 90, 120, dtype=torch.uint8)
    mask[:, 20:60, 10:50] = 255
    return mask.expand(3, -1, -1).contiguous(), mask


@pytest.mark.parametrize("seed", range(10))
def test_image_and_mask_are_cropped_and_flipped_alike(seed: int) -> None:
    image, mask = TrainTransform(64)(*half_image(), rng(seed))
    assert torch.equal(image[:1] > 0.5, mask > 0.5)
    assert image.shape == (3, 64, 64)
    assert mask.shape == (1, 64, 64)


def test_half_of_the_images_are_flipped() -> None:
    image, mask = half_image()
    left = [TrainTransform(32)(image, mask, rng(seed))[1][..., :16].mean() > 0.2 for seed in range(400)]
    assert np.mean(left) == pytest.approx(0.5, abs=0.1)


def test_same_generator_state_gives_the_same_bytes() -> None:
    image, mask = noise(50, 60), half_image()[1][:, :50, :60]
    first, second = (TrainTransform(32)(image, mask, rng(5)) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], TrainTransform(32)(image, mask, rng(6))[0])


def test_augmentation_leaves_global_generators_alone() -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    TrainTransform(32)(*half_image(), rng())
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


@given(height=st.integers(1, 300), width=st.integers(1, 300), seed=st.integers(0, 2**32 - 1))
def test_crop_lies_in_the_image(height: int, width: int, seed: int) -> None:
    box = draw_crop(height, width, rng(seed))
    assert min(box.top, box.left) >= 0
    assert min(box.height, box.width) >= 1
    assert box.top + box.height <= height
    assert box.left + box.width <= width


@given(height=st.integers(200, 300), seed=st.integers(0, 2**32 - 1))
def test_crop_of_a_photograph_has_the_published_area_and_shape(height: int, seed: int) -> None:
    box = draw_crop(height, 250, rng(seed))
    assert 0.89 <= box.height * box.width / (height * 250) <= 1
    assert 0.74 <= box.width / box.height <= 1.35


@pytest.mark.parametrize(("height", "width"), [(100, 400), (400, 100)])
def test_long_image_gives_its_largest_central_crop(height: int, width: int) -> None:
    box = draw_crop(height, width, rng())
    assert sorted((box.height, box.width)) == [100, 133]
    assert abs(2 * box.top + box.height - height) <= 1
    assert abs(2 * box.left + box.width - width) <= 1


def corner_mask() -> Tensor:
    """Foreground of 3 x 4 pixels in a corner, which many crops cut to ten pixels or fewer."""
    mask = torch.zeros(1, 100, 100, dtype=torch.uint8)
    mask[:, :3, :4] = 255
    return mask


def test_crops_without_foreground_are_drawn_again_but_for_one_in_twenty() -> None:
    mask = corner_mask()
    seeds = range(600)
    plain = [resize_mask(draw_crop(100, 100, rng(seed)).crop(mask), 100).sum() <= 10 for seed in seeds]
    image = mask.expand(3, -1, -1)
    drawn = [TrainTransform(100)(image, mask, rng(seed))[1].sum() <= 10 for seed in seeds]
    p = np.mean(plain)
    assert p > 0.5
    # Accepting an empty crop with probability 0.05 at each draw: p * 0.05 / (1 - p * 0.95).
    assert np.mean(drawn) == pytest.approx(p * 0.05 / (1 - p * 0.95), abs=0.05)


def test_mask_without_foreground_ends() -> None:
    empty = torch.zeros(1, 40, 40, dtype=torch.uint8)
    for seed in range(5):
        assert TrainTransform(32)(noise(40, 40), empty, rng(seed))[1].sum() == 0
