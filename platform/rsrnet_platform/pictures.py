"""Pictures for the tracking server: what a network makes of a few images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rsrnet.data.iharmony4 import IHarmony4
from rsrnet.data.naming import Composite
from rsrnet.data.transforms import EvalTransform
from rsrnet.model.network import RSRNet
from rsrnet.visualize import comparison, iteration_strip

T = TypeVar("T")

TITLES = ("input", "truth", "M_rsr", "M_dec", "M_fnl")
IMAGES = 6
"""Rows of the grid of a training."""


def evenly(items: Sequence[T], number: int = IMAGES) -> list[T]:
    """A few of many, evenly spaced, the first and the last among them."""
    places = np.linspace(0, len(items) - 1, min(number, len(items))).round().astype(int)
    return [items[place] for place in places]


def by_rank(items: Sequence[T], score: Callable[[T], float], number: int) -> list[T]:
    """A few of many, from the best to the worst by their score, each in the middle of an equal share."""
    ranked = sorted(items, key=score, reverse=True)
    number = min(number, len(ranked))
    return [ranked[int((place + 0.5) * len(ranked) / number)] for place in range(number)]


class Pictures:
    """Draws the same images with any network.

    Args:
        root: folder of the dataset.
        composites: what to draw, at least one.
        size: side of the network's input in pixels.
    """

    def __init__(self, root: str | Path, composites: Sequence[Composite], size: int) -> None:
        dataset = IHarmony4(root, composites, EvalTransform(size))
        items = [dataset[index] for index in range(len(dataset))]
        self.images = torch.stack([item["image"] for item in items])
        self.truth = torch.stack([item["mask"] for item in items])

    @torch.no_grad()
    def draw(self, model: RSRNet, device: torch.device, labels: Sequence[str] = ()) -> dict[str, Image.Image]:
        """Pictures by file name: the grid of masks and, where there is an RSR module, the strip of K masks.

        Args:
            model: put into evaluation mode.
            device: where it lives.
            labels: one for each image, or none.
        """
        model.eval()
        output = model(self.images.to(device))
        inputs = pixels(self.images)
        masks = [planes(mask) for mask in (self.truth, output.m_rsr, output.m_dec, output.m_fnl)]
        rows = [[inputs[i], *(column[i] for column in masks)] for i in range(len(inputs))]
        pictures = {"masks.png": comparison(rows, TITLES, labels=labels)}
        if output.masks.shape[1]:
            pictures["iterations.png"] = iteration_strip(inputs[0], list(output.masks[0].cpu().numpy()))
        return pictures


def pixels(images: Tensor) -> np.ndarray:
    """(B, 3, H, W) in [0, 1] to (B, H, W, 3) uint8."""
    return (images * 255).round().byte().permute(0, 2, 3, 1).numpy()


def planes(masks: Tensor) -> np.ndarray:
    """(B, 1, H, W) to (B, H, W)."""
    return masks[:, 0].cpu().numpy()
