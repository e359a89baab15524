"""How an image becomes inputs of the network, and the masks of these one mask again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from rsrnet.data.transforms import Box, resize_image


@dataclass(frozen=True)
class Views:
    """The whole image and, of a large one, a sliding window over it.

    The network compares a region with the rest of what it sees, and a window may see too little of either: so the
    mask is the average of what the whole image says and what the windows say.
    """

    size: int
    """Side S of the network's input, in pixels."""

    window: int | None = None
    """Side of the window, in pixels of the image; images whose longer side is longer get windows. None: none does."""

    def split(self, image: NDArray[np.uint8]) -> Tensor:
        """Return the network's inputs for an image, (H, W, 3) RGB: (V, 3, S, S) float32 in [0, 1], the whole first."""
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        boxes = self._windows(*image.shape[:2])
        return torch.stack(
            [resize_image(part, self.size) for part in (pixels, *(b.crop(pixels) for b in boxes))]
        )

    def join(self, masks: Tensor, height: int, width: int) -> NDArray[np.float32]:
        """Return the mask of an image, (H, W), of the masks of its inputs, (V, 1, S, S) in [0, 1], resized bilinearly.

        Windows overlap by at least half, and count less towards their borders, where they see one side only.
        """
        whole = _resize(masks[0], height, width)
        boxes = self._windows(height, width)
        if not boxes:
            return whole.numpy()
        total, weight = torch.zeros(height, width), torch.zeros(height, width)
        for box, mask in zip(boxes, masks[1:], strict=True):
            inside = slice(box.top, box.top + box.height), slice(box.left, box.left + box.width)
            tent = _tent(box.height)[:, None] * _tent(box.width)
            total[inside] += tent * _resize(mask, box.height, box.width)
            weight[inside] += tent
        return (whole + total / weight).div(2).numpy()

    def _windows(self, height: int, width: int) -> list[Box]:
        if self.window is None or max(height, width) <= self.window:
            return []
        tall, wide = min(height, self.window), min(width, self.window)
        return [
            Box(top, left, tall, wide) for top, left in product(_starts(height, tall), _starts(width, wide))
        ]


def _starts(length: int, window: int) -> list[int]:
    """Where windows begin so that they cover a length evenly, each neighbour by at least half."""
    steps = math.ceil((length - window) / max(1, window // 2))
    return [round(number * (length - window) / max(1, steps)) for number in range(steps + 1)]


def _tent(length: int) -> Tensor:
    """Weights that fall from the middle to both ends, never to 0."""
    places = torch.arange(length) + 0.5
    return torch.minimum(places, length - places)


def _resize(mask: Tensor, height: int, width: int) -> Tensor:
    """(1, S, S) to (H, W)."""
    return F.interpolate(mask[None], (height, width), mode="bilinear", align_corners=False)[0, 0]
