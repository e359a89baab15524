"""What decoding one file of a dataset tells."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np

from rsrnet.data.decode import FOREGROUND, read_mask, read_rgb
from rsrnet.data.errors import DecodeError, ReadError


class File(NamedTuple):
    """A file to look at."""

    path: str
    """Relative to the dataset's folder, with forward slashes."""

    is_mask: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """What a file is."""

    size: tuple[int, int] = (0, 0)
    """Width and height of the upright picture, in pixels; nothing if it cannot be decoded."""

    orientation: int = 1
    """EXIF orientation, 1 to 8."""

    foreground: int = 0
    """Of a mask: pixels of 128 or brighter."""

    brightest: int = 0
    """Of a mask: its highest grey level."""

    error: str | None = None
    """Why it cannot be decoded."""

    passing: bool = False
    """Whether the error may be gone next time."""

    @property
    def stored_size(self) -> tuple[int, int]:
        """Width and height before the EXIF orientation is applied."""
        return self.size[::-1] if self.orientation >= 5 else self.size

    @property
    def share(self) -> float:
        """Of a mask: the part of the image that is foreground."""
        return self.foreground / (self.size[0] * self.size[1])


Stamp: TypeAlias = tuple[int, int]
"""Size in bytes and time of the last change, in nanoseconds: what changes when a file does."""


def look(root: Path, file: File) -> Facts:
    """Decode a file as the reader does. Never raises on account of what the file holds."""
    try:
        if not file.is_mask:
            # Every byte is read and checked; a JPEG's pixels are not all computed, as nobody needs them here.
            picture = read_rgb(root / file.path, at_least=1)
            return Facts(picture.size, picture.orientation)
        picture = read_mask(root / file.path)
        grey = np.asarray(picture.pixels)
        foreground = int(np.count_nonzero(grey >= FOREGROUND))
        return Facts(picture.size, picture.orientation, foreground, int(grey.max()))
    except DecodeError as error:
        return Facts(error=str(error), passing=isinstance(error, ReadError))
    except FileNotFoundError:
        return Facts(error="it was removed during the check", passing=True)


def usable(facts: Facts | None) -> Facts | None:
    """The facts of a file, if it is there and can be decoded."""
    return facts if facts is not None and facts.error is None else None
