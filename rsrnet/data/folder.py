"""A dataset as a folder in the published layout: list files, and one file for each image and mask."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from rsrnet.data.decode import Picture, read_mask, read_rgb
from rsrnet.data.errors import BadDataError, DataError, DecodeError
from rsrnet.data.naming import Composite
from rsrnet.data.selection import of_subsets


@dataclass(frozen=True)
class Folder:
    """A folder as a source of composites; see :class:`rsrnet.data.source.Source`."""

    root: Path

    start_method = None
    """Processes that read may be started in any way."""

    def read_list(self, name: str | Path, subsets: Sequence[str]) -> list[Composite]:
        """See :func:`rsrnet.data.lists.read_list`."""
        require_folder(self.root)
        path = self.root / name
        listed = _parse_lines(path, read_lines(self.root, path))
        return _with_folders_on_disk(self.root, path, list(of_subsets(path, listed, subsets)))

    def open_pair(self, composite: Composite) -> tuple[Image.Image, Image.Image]:
        """See :func:`rsrnet.data.iharmony4.open_pair`."""
        image = self._open(composite.path, read_rgb)
        mask = self._open(composite.mask_path, read_mask)
        if image.size != mask.size:
            sizes = "{} x {}, its mask {} x {} pixels".format(*image.size, *mask.size)
            raise BadDataError(f"{composite.path}: the image has {sizes}")
        return image.pixels, mask.pixels

    check = open_pair
    """Nothing less than decoding tells whether a file can be read."""

    def blocks(self, composites: Sequence[Composite]) -> None:
        """None: any order of reading is as good."""

    def state(self, composite: Composite) -> str:
        """The sizes of the image's and the mask's file."""
        return f"{self._size(composite.path)} {self._size(composite.mask_path)}"

    def _open(self, path: str, read: Callable[[Path], Picture]) -> Picture:
        try:
            return read(self.root / path)
        except FileNotFoundError as error:
            raise BadDataError(f"{path}: there is no such file") from error
        except DecodeError as error:
            raise BadDataError(f"{path}: cannot be decoded ({error})") from error

    def _size(self, path: str) -> str:
        try:
            return str((self.root / path).stat().st_size)
        except OSError:
            return "missing"


def require_folder(root: Path) -> None:
    """Make sure that a dataset's folder is there and may be read.

    Raises:
        DataError: if it is not.
    """
    try:
        with os.scandir(root):
            # A folder may be listed, and its files still be out of reach.
            os.stat(os.path.join(root, os.curdir))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(
            f"there is no dataset folder {root}; name the folder that holds the sub-datasets and lists"
        ) from error
    except OSError as error:
        raise DataError(f"the dataset folder {root} cannot be read ({error.strerror})") from error


def read_lines(root: Path, path: Path) -> list[str]:
    """Read the lines of a list file, whatever they say.

    Args:
        root: folder of the dataset, whose lists are named if this one is missing.
        path: the list file.

    Raises:
        DataError: if there is no such file, it may not be read, or it is not text.
    """
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        found = ", ".join(sorted(other.name for other in root.glob("*.txt"))) or "no list"
        raise DataError(f"there is no list {path}; {root} holds {found}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a list: it is not UTF-8 text ({error})") from error
    except OSError as error:
        raise DataError(f"the list {path} cannot be read ({error.strerror})") from error


def folders_on_disk(root: Path) -> dict[str, str]:
    """Return the folders in a dataset as spelled on disk, each under its name in lower case."""
    return {entry.name.lower(): entry.name for entry in root.iterdir() if entry.is_dir()}


def _parse_lines(path: Path, lines: list[str]) -> list[Composite]:
    composites = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            composites.append(Composite.parse(line.strip()))
        except DataError as error:
            raise DataError(f"{path}, line {number}: {error}") from error
    return composites


def _with_folders_on_disk(root: Path, path: Path, composites: list[Composite]) -> list[Composite]:
    """Give each composite the spelling its sub-dataset's folder has on disk."""
    on_disk = folders_on_disk(root)
    for folder, count in Counter(composite.folder for composite in composites).items():
        if folder.lower() not in on_disk:
            raise DataError(
                f"{path} lists {count} composites of {folder}, but {root} has no folder {folder};"
                " add it, or choose the sub-datasets that are there"
            )
    exact = set(on_disk.values())
    return [
        composite if composite.folder in exact else composite.in_folder(on_disk[composite.folder.lower()])
        for composite in composites
    ]
