"""From decoded images of any size to the square tensors the network trains and is tested on.

Resizing is bilinear with half-pixel centres and without antialiasing, as in the published protocol
(there OpenCV's INTER_LINEAR): large photographs alias, but results stay comparable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

SCALE = (0.9, 1.0)
"""Least and greatest share of the area in a training crop."""

RATIO = (3 / 4, 4 / 3)
"""Least and greatest width of a training crop over its height."""

MIN_FOREGROUND = 10
"""A crop with no more foreground than this, in pixels after resizing, is drawn again ..."""

KEEP_WITHOUT_FOREGROUND = 0.05
"""... except with this probability ..."""

MAX_DRAWS = 20
"""... and at most so often: some masks have no more foreground in any crop."""

_WORTH_GATHERING = 2**20
"""Pixels from which on an image is not converted whole to be resized; smaller ones are faster with torch alone."""

Transform = Callable[[Tensor, Tensor, np.random.Generator], tuple[Tensor, Tensor]]
"""What makes network input. It takes an image, (3, H, W) uint8 RGB, its mask, (1, H, W) uint8 with foreground
from 128 on, and the only source of randomness. It returns the image, (3, S, S) float32 in [0, 1], and the
mask, (1, S, S) float32 of zeros and ones."""


class Box(NamedTuple):
    """A rectangle in pixels."""

    top: int
    left: int
    height: int
    width: int

    def crop(self, pixels: Tensor) -> Tensor:
        """Return the rectangle of an image, (C, H, W), as a view."""
        return pixels[:, self.top : self.top + self.height, self.left : self.left + self.width]


class EvalTransform:
    """Plain resize to a square; the aspect ratio is lost."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: Tensor, mask: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Resize both; see ``Transform``."""
        return resize_image(image, self.size), resize_mask(mask, self.size)


class TrainTransform:
    """Random resized crop and horizontal flip, the same for the image and its mask.

    The crop has 90 to 100 % of the area and an aspect ratio of 3/4 to 4/3. A crop with at most 10 pixels of
    foreground left is drawn again, except with probability 0.05.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: Tensor, mask: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Crop, resize and perhaps flip both; see ``Transform``."""
        box, square_mask = self._crop_with_foreground(mask, rng)
        square = resize_image(box.crop(image), self.size)
        if rng.random() < 0.5:
            return square.flip(-1), square_mask.flip(-1)
        return square, square_mask

    def _crop_with_foreground(self, mask: Tensor, rng: np.random.Generator) -> tuple[Box, Tensor]:
        """Draw a crop, and return it with the mask in it, (1, S, S)."""
        for _ in range(MAX_DRAWS):
            box = draw_crop(mask.shape[-2], mask.shape[-1], rng)
            square_mask = resize_mask(box.crop(mask), self.size)
            if square_mask.sum() > MIN_FOREGROUND or rng.random() < KEEP_WITHOUT_FOREGROUND:
                break
        return box, square_mask


def draw_crop(height: int, width: int, rng: np.random.Generator) -> Box:
    """Draw a rectangle of 90 to 100 % of an image's area and an aspect ratio of 3/4 to 4/3.

    If ten drawn shapes do not fit, as in long images, take the largest central one of an allowed ratio.

    Args:
        height: of the image, in pixels.
        width: of the image, in pixels.
        rng: source of randomness.
    """
    for _ in range(10):
        area = height * width * rng.uniform(*SCALE)
        ratio = np.exp(rng.uniform(*np.log(RATIO)))
        h, w = round(np.sqrt(area / ratio)), round(np.sqrt(area * ratio))
        if 0 < h <= height and 0 < w <= width:
            return Box(int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w)
    h, w = min(height, max(1, round(width / RATIO[0]))), min(width, max(1, round(height * RATIO[1])))
    return Box((height - h) // 2, (width - w) // 2, h, w)


def resize_image(image: Tensor, size: int) -> Tensor:
    """Resize an image, (C, H, W) uint8, to (C, size, size) float32 in [0, 1]."""
    return _bilinear(image, size) / 255


def resize_mask(mask: Tensor, size: int) -> Tensor:
    """Resize a mask, (1, H, W) uint8, to (1, size, size) float32, 1 where the interpolation is above 0.5."""
    return (_bilinear(mask, size) > 127.5).float()


def _bilinear(pixels: Tensor, size: int) -> Tensor:
    """Interpolate (C, H, W) uint8 to (C, size, size) float32, in grey levels."""
    if pixels[0].numel() > _WORTH_GATHERING:
        return _bilinear_of_large(pixels, size)
    # In float: torch's path for uint8 rounds twice and fails on images one pixel wide.
    return interpolate(pixels[None].float(), (size, size), mode="bilinear", align_corners=False)[0]


def _bilinear_of_large(pixels: Tensor, size: int) -> Tensor:
    """The same to rounding, but only those pixels that count, two rows and two columns for each, become floats."""
    channels, height, width = pixels.shape
    rows, down = _neighbours(height, size)
    columns, right = _neighbours(width, size)
    # Channels lie innermost in a decoded image, so its rows are copied whole, and then every byte chosen by itself.
    lines = pixels.permute(1, 2, 0).numpy()[rows].reshape(2 * size, -1)
    chosen = (columns * channels + np.arange(channels)[:, None]).ravel()
    near = torch.from_numpy(lines.take(chosen, axis=1)).view(2 * size, channels, 2 * size)
    corners = near.transpose(0, 1).float()
    above_and_below = torch.lerp(corners[..., :size], corners[..., size:], right)
    return torch.lerp(above_and_below[:, :size], above_and_below[:, size:], down[:, None])


def _neighbours(length: int, size: int) -> tuple[NDArray[np.int64], Tensor]:
    """The pixels before each of ``size`` half-pixel centres, then those behind; and how near the latter are, 0 to 1."""
    # In float32, as torch computes them.
    centres = ((torch.arange(size) + 0.5) * (torch.tensor(float(length)) / size) - 0.5).clamp(min=0)
    before = centres.long().clamp(max=length - 1)
    behind = (before + 1).clamp(max=length - 1)
    return torch.cat([before, behind]).numpy(), centres - before
