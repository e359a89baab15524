"""Small datasets in the published layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rsrnet.data.naming import Composite
from tests.rsrnet.data.planted import TEST, TRAIN, plant, write_list


def composite_pixels(size: tuple[int, int], seed: int) -> Image.Image:
    """A smooth colour image of (width, height), so that JPEG keeps its pixels nearly as they are."""
    corners = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    return Image.fromarray(corners).resize(size, Image.Resampling.BILINEAR)


def mask_pixels(size: tuple[int, int]) -> Image.Image:
    """A mask of (width, height) whose upper left quarter is foreground."""
    mask = np.zeros((size[1], size[0]), dtype=np.uint8)
    mask[: size[1] // 2, : size[0] // 2] = 255
    return Image.fromarray(mask)


@pytest.fixture
def add(tmp_path: Path) -> Callable[..., Composite]:
    """Write a composite and its mask under ``tmp_path`` and return its record."""

    def write(path: str, size: tuple[int, int] = (40, 30)) -> Composite:
        composite = Composite.parse(path)
        for folder in ("composite_images", "masks"):
            (tmp_path / composite.folder / folder).mkdir(parents=True, exist_ok=True)
        composite_pixels(size, composite.k).save(tmp_path / composite.path, quality=95)
        mask_pixels(size).save(tmp_path / composite.mask_path)
        return composite

    return write


@pytest.fixture
def add_many(add: Callable[..., Composite]) -> Callable[[int], list[Composite]]:
    """Write this many composites of as many photographs."""
    return lambda count: [add(f"HCOCO/composite_images/c{i}_7_{i + 1}.jpg") for i in range(count)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small, sound dataset of all four sub-datasets of iHarmony4."""
    dataset = tmp_path / "dataset"
    plant(dataset, (*TRAIN, *TEST))
    write_list(dataset, "le50_train.txt", TRAIN)
    write_list(dataset, "le50_test.txt", TEST)
    return dataset
