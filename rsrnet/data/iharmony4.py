"""The reader of iHarmony4 and of every dataset in its layout, as a folder or packed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from rsrnet.data.naming import Composite
from rsrnet.data.source import open_source
from rsrnet.data.transforms import Transform


class Item(TypedDict):
    """One composite as the network takes it."""

    image: Tensor
    """(3, S, S) float32 RGB in [0, 1]."""

    mask: Tensor
    """(1, S, S) float32, 1 where the image is inharmonious, else 0."""

    index: int
    """Position of the composite in the dataset."""


class IHarmony4(Dataset[Item]):
    """Composites with their masks, read from a folder in the published layout or from a pack.

    ``dataset[i]`` is composite i as in epoch 0; ``dataset[epoch, i]``, which samplers ask for, draws that
    epoch's augmentation. The draw depends on the seed, the epoch and the index alone, so it is the same in
    every process.

    Args:
        root: folder of the dataset, or a pack.
        composites: the composites to read, see :func:`rsrnet.data.lists.read_list`.
        transform: makes tensors of a decoded image and mask.
        seed: seed of the augmentation.
    """

    def __init__(
        self, root: str | Path, composites: Sequence[Composite], transform: Transform, seed: int = 0
    ) -> None:
        self.source = open_source(root)
        self.composites = composites
        self.transform = transform
        self.seed = seed

    @property
    def blocks(self) -> NDArray[np.int64] | None:
        """The first index of each run of composites that are best read together, ascending; None: any order does."""
        return self.source.blocks(self.composites)

    def __len__(self) -> int:
        return len(self.composites)

    def __getitem__(self, key: int | tuple[int, int]) -> Item:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        index = range(len(self))[index]
        image, mask = self.source.open_pair(self.composites[index])
        rng = np.random.default_rng([self.seed, epoch, index])
        image_tensor, mask_tensor = self.transform(to_tensor(image), to_tensor(mask), rng)
        return Item(image=image_tensor, mask=mask_tensor, index=index)


Sample = IHarmony4
"""Composites made by ``rsrnet data sample``: same layout, same reader."""


def open_pair(root: str | Path, composite: Composite) -> tuple[Image.Image, Image.Image]:
    """Decode a composite and its mask, upright by their EXIF orientation; of a pack, at the size it holds.

    Args:
        root: folder of the dataset, or a pack.
        composite: one of it.

    Returns:
        The image in mode RGB and its mask in mode L, of equal size.

    Raises:
        BadDataError: if a file is missing, cannot be decoded, or the sizes differ.
    """
    return open_source(root).open_pair(composite)


def to_tensor(image: Image.Image) -> Tensor:
    """Return the pixels of an image of :func:`open_pair`, (C, H, W) uint8."""
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
