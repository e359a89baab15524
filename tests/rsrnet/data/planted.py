"""Small datasets in the published layout that the tests of checking plant, and how these run a check."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from rsrnet.data.check import check
from rsrnet.data.check.findings import Report

FOLDERS = {"c": "HCOCO", "a": "HAdobe5k", "f": "HFlickr", "d": "Hday2night", "s": "Sample"}
TRAIN = ("c1_10_1", "c1_10_2", "c1_11_1", "c2_20_1", "f5_1_1", "d9-20120101-120000_1_1", "a0001_1_1")
TEST = ("c3_30_1", "c4_40_2", "f6_2_1", "d8-7_1_1")
FILES = 11 + 10 + 9
"""Composites, masks and photographs of these names."""

SIZE = (40, 30)
ORIENTATION = 0x0112


def line(name: str) -> str:
    return f"{FOLDERS[name[0]]}/composite_images/{name}.jpg"


def mask_of(name: str) -> str:
    return f"{FOLDERS[name[0]]}/masks/{name.rsplit('_', 1)[0]}.png"


def real_of(name: str) -> str:
    return f"{FOLDERS[name[0]]}/real_images/{name.split('_')[0]}.jpg"


def mask(share: float = 0.25) -> Image.Image:
    """A mask with this part of its pixels white."""
    pixels = np.zeros(SIZE[0] * SIZE[1], np.uint8)
    pixels[: round(share * pixels.size)] = 255
    return Image.fromarray(pixels.reshape(SIZE[1], SIZE[0]))


def write_list(root: Path, name: str, names: Iterable[str]) -> None:
    (root / name).write_text("".join(f"{line(each)}\n" for each in names))


def plant(root: Path, names: Iterable[str], size: tuple[int, int] = SIZE) -> None:
    """Write the composites with their masks and photographs."""
    for name in names:
        for path in (line(name), mask_of(name), real_of(name)):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, "teal").save(root / line(name))
        Image.new("RGB", size, "olive").save(root / real_of(name))
        mask().resize(size, Image.Resampling.NEAREST).save(root / mask_of(name))


def found(report: Report) -> list[tuple[str, str]]:
    """Kinds and files of the findings, but for the counts, which cannot be those of 71,492 composites."""
    return [(each.kind, each.file) for each in report.findings if each.kind != "other_count"]


def run(root: Path, *lists: str, **options: object) -> Report:
    return check(root, lists, processes=1, **options)  # type: ignore[arg-type]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])
