"""The photographs composites are made from: those inside scikit-image and scikit-learn, or a user's own."""

from __future__ import annotations

import functools
import importlib.resources
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from PIL import Image as PillowImage

from rsrnet.data.decode import Picture, read_rgb
from rsrnet.data.decode import read_mask as read_grey
from rsrnet.data.errors import DecodeError
from rsrnet.synthesis.transfers import Image, Mask

Split: TypeAlias = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
_SHOWN_PROBLEMS = 10
_SHORTEST_SIDE = 16

_LONGEST_SIDE = 1024
"""Larger photographs are shrunk to this when read: crops are much smaller anyway."""


class PhotographError(ValueError):
    """Raised when a folder of photographs cannot be used; the message names every file and the reason."""


@dataclass(frozen=True)
class Photograph:
    """A photograph on disk and, if it has one, the mask of its foreground."""

    slug: str
    """Its name within the names of its composites: lower-case letters and digits."""

    path: Path
    """The image file."""

    mask: Path | None = None
    """The mask file, or none: regions are drawn at random."""

    credit: str = ""
    """Who made it and on what terms, where known."""


@dataclass(frozen=True)
class _BuiltIn:
    split: Split
    package: str
    file: str
    credit: str


_BUILT_IN = {
    "astronaut": _BuiltIn("train", "skimage.data", "astronaut.png", "NASA, public domain; in scikit-image"),
    "chelsea": _BuiltIn("test", "skimage.data", "chelsea.png", "Stefan van der Walt, CC0; in scikit-image"),
    "motorcycle": _BuiltIn(
        "train",
        "skimage.data",
        "motorcycle_left.png",
        "Middlebury Stereo 2014, no licence given; in scikit-image",
    ),
    "china": _BuiltIn(
        "val", "sklearn.datasets.images", "china.jpg", "danielbuechele, CC BY 2.0; in scikit-learn"
    ),
    "hubble": _BuiltIn(
        "train", "skimage.data", "hubble_deep_field.jpg", "NASA, public domain; in scikit-image"
    ),
    "tissue": _BuiltIn("train", "skimage.data", "ihc.png", "no known restrictions; in scikit-image"),
    "coffee": _BuiltIn("test", "skimage.data", "coffee.png", "Rachel Michetti, CC0; in scikit-image"),
    "rocket": _BuiltIn("train", "skimage.data", "rocket.jpg", "SpaceX, public domain; in scikit-image"),
    "flower": _BuiltIn(
        "train", "sklearn.datasets.images", "flower.jpg", "vultilion, CC BY 2.0; in scikit-learn"
    ),
}


def built_in_photographs() -> dict[Split, tuple[Photograph, ...]]:
    """Find the photographs that scikit-image and scikit-learn install.

    Returns:
        The photographs of each split. No photograph is in two.

    Raises:
        PhotographError: if an installed package lacks one of them.
    """
    found: dict[Split, tuple[Photograph, ...]] = {}
    for split in SPLITS:
        chosen = [(slug, entry) for slug, entry in _BUILT_IN.items() if entry.split == split]
        found[split] = tuple(_installed(slug, entry) for slug, entry in chosen)
    return found


def folder_photographs(images: Path, masks: Path | None = None) -> tuple[Photograph, ...]:
    """Find the photographs of a folder and, in another one, a mask for each.

    Args:
        images: a folder of image files.
        masks: a folder with a mask file of the same stem for each image; none: regions are drawn.

    Returns:
        The photographs, sorted by stem.

    Raises:
        PhotographError: if a folder is missing or empty, two images share a stem, or a mask is missing.
    """
    image_files = _files_by_stem(images)
    mask_files = _files_by_stem(masks) if masks is not None else {}
    if masks is not None:
        missing = [
            f"{image_files[stem].name} has no mask" for stem in sorted(image_files.keys() - mask_files.keys())
        ]
        raise_problems(
            missing, f"give each a file of the same stem in {masks}, or take the image out of {images}"
        )
    slugs = _slugs(sorted(image_files))
    return tuple(
        Photograph(slugs[stem], image_files[stem], mask_files.get(stem), credit="")
        for stem in sorted(image_files)
    )


def problem_of(photograph: Photograph) -> str | None:
    """Say in one line what makes a photograph unusable, if anything does.

    Both files must be readable. A mask must have its image's size and select something, at most half of it.
    """
    name = photograph.path.name
    try:
        _, size = _image(photograph.path)
    except PhotographError as error:
        return str(error)
    if min(size) < _SHORTEST_SIDE:
        return f"{name} is {size[0]} x {size[1]}, smaller than {_SHORTEST_SIDE} pixels"
    return None if photograph.mask is None else _mask_problem(photograph.mask, size, name)


def raise_problems(problems: Sequence[str], remedy: str) -> None:
    """Raise one error for all problems, if there are any.

    Raises:
        PhotographError: naming the first ten problems, how many more there are, and the remedy.
    """
    if problems:
        more = len(problems) - _SHOWN_PROBLEMS
        shown = [*problems[:_SHOWN_PROBLEMS], *([f"and {more} more"] if more > 0 else [])]
        raise PhotographError(f"{'; '.join(shown)}: {remedy}")


def read_image(path: Path) -> Image:
    """Read an image upright, as RGB, at most 1024 pixels long.

    Returns:
        uint8, (H, W, 3). Shared between calls: do not write to it.

    Raises:
        PhotographError: if it cannot be read.
    """
    return _image(path)[0]


def read_mask(path: Path) -> Mask:
    """Read a mask upright, at most 1024 pixels long: true where its grey level is at least 128 of 255.

    Returns:
        bool, (H, W). Shared between calls: do not write to it.

    Raises:
        PhotographError: if it cannot be read.
    """
    return _mask(path)[0]


@functools.lru_cache(maxsize=32)
def _image(path: Path) -> tuple[Image, tuple[int, int]]:
    """The pixels of an image, and its width and height before it was shrunk."""
    picture = _decode(path, read_rgb, path.name)
    picture.pixels.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), PillowImage.Resampling.LANCZOS)
    return np.asarray(picture.pixels), picture.size


@functools.lru_cache(maxsize=32)
def _mask(path: Path) -> tuple[Mask, tuple[int, int]]:
    """The foreground of a mask, and its width and height before it was shrunk."""
    picture = _decode(path, read_grey, f"mask {path.name}")
    picture.pixels.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), PillowImage.Resampling.BOX)
    return np.asarray(picture.pixels) >= 128, picture.size


def _decode(path: Path, read: Callable[[Path, int], Picture], name: str) -> Picture:
    try:
        # A JPEG is decoded at a fraction of its size where that is enough, which is many times faster.
        return read(path, _LONGEST_SIDE)
    except (DecodeError, FileNotFoundError) as error:
        raise PhotographError(f"{name} cannot be read as an image ({error})") from error


def _installed(slug: str, entry: _BuiltIn) -> Photograph:
    file = Path(str(importlib.resources.files(entry.package) / entry.file))
    if not file.is_file():
        package = entry.package.split(".")[0]
        raise PhotographError(f"the photograph {entry.file} is missing from {package}: reinstall the package")
    return Photograph(slug, file, credit=entry.credit)


def _files_by_stem(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise PhotographError(f"{folder} is not a folder: give an existing one")
    files: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() not in _SUFFIXES or file.name.startswith("."):
            continue
        if file.stem in files:
            raise PhotographError(
                f"{files[file.stem].name} and {file.name} in {folder} have the same stem: rename one of them"
            )
        files[file.stem] = file
    if not files:
        raise PhotographError(f"{folder} holds no image: it needs files ending in {', '.join(_SUFFIXES)}")
    return files


def _slugs(stems: Sequence[str]) -> dict[str, str]:
    """A different slug for each stem: its letters and digits, numbered where two would be the same."""
    slugs: dict[str, str] = {}
    taken: set[str] = set()
    for stem in stems:
        base = slug = re.sub(r"[^a-z0-9]", "", stem.lower()) or "photo"
        number = 1
        while slug in taken:
            number += 1
            slug = f"{base}x{number}"
        taken.add(slug)
        slugs[stem] = slug
    return slugs


def _mask_problem(path: Path, image_size: tuple[int, int], image_name: str) -> str | None:
    try:
        mask, size = _mask(path)
    except PhotographError as error:
        return str(error)
    if size != image_size:
        sizes = f"{size[0]} x {size[1]}, but {image_name} is {image_size[0]} x {image_size[1]}"
        return f"mask {path.name} is {sizes}"
    if not mask.any():
        return f"mask {path.name} is empty (no pixel is 128 or brighter)"
    if mask.mean() > 0.5:
        return f"mask {path.name} covers {mask.mean():.0%} of its image, more than half"
    return None
