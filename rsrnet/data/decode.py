"""The one place where image files are decoded: upright, 8 bits a channel, or refused with the reason.

What is read: BMP, GIF, JPEG, PNG, TIFF and WebP, recognised by content, not by name. Of several frames or pages
the first. Every pixel mode (see :mod:`rsrnet.data.pixel_modes`). The orientation that EXIF (or XMP) records is
applied. Colour profiles are not: the published protocol takes the numbers as they are.

What is refused, before any pixel is decoded where the header tells: what is none of these formats, an empty file,
an image without pixels or with too many (``MAX_PIXELS``, ``MAX_SIDE``), and a file that is damaged or cut short.
Nothing is written to the standard error. Not noticed, because JPEG has no checksum: changed bytes inside its coded
pixels.
"""

from __future__ import annotations

import io
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import BinaryIO, TypeAlias

from PIL import ExifTags, Image, UnidentifiedImageError

from rsrnet.data.errors import DecodeError, ReadError
from rsrnet.data.pixel_modes import prepare, to_grey, to_rgb
from rsrnet.data.quiet import without_libtiff_messages, without_warnings
from rsrnet.data.tiff_bounds import require_whole_tiff

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""Pillow's names of the formats that are read. In others a file that was cut short can pass for a whole one (PPM,
JPEG 2000), or a program runs to decode it (EPS)."""

MAX_PIXELS = 2**27
"""Larger images (over 134 million pixels, 0.5 GB in memory) are refused: a few bytes can claim any size."""

MAX_SIDE = 65_535
"""Longer images are refused, as no JPEG can be: libraries take minutes for a row of millions of pixels."""

FOREGROUND = 128
"""Grey level, of 255, from which a pixel of a mask is foreground."""

_LIMITS = f"the most are {MAX_PIXELS:,} pixels, {MAX_SIDE:,} on a side"

Source: TypeAlias = str | PathLike[str] | bytes | Image.Image
"""A path, the bytes of a file, or an image that Pillow opened or made."""

_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings an image of each EXIF orientation upright."""


@dataclass(frozen=True)
class Picture:
    """A decoded image, upright."""

    pixels: Image.Image
    """In mode RGB, or L for a mask; detached from the file."""

    size: tuple[int, int]
    """Width and height of the upright image; those of ``pixels``, unless they were decoded at a fraction."""

    orientation: int
    """EXIF orientation of the file, 1 to 8; from 5 on, width and height are stored the other way round."""


def read_rgb(source: Source, at_least: int | None = None) -> Picture:
    """Decode an image as RGB; what is transparent shows white.

    Args:
        source: what to decode.
        at_least: decode a JPEG at a half, a quarter or an eighth of its size, which is faster, as long as no
            side becomes shorter than this, in pixels; none: at full size.

    Raises:
        DecodeError: if the file is no image that can be read, with the reason.
        FileNotFoundError: if there is no such file.
    """
    return _read(source, at_least, to_rgb)


def read_mask(source: Source, at_least: int | None = None) -> Picture:
    """Decode a mask as grey levels: foreground from 128 on. What is transparent is background.

    Args:
        source: what to decode.
        at_least: as in :func:`read_rgb`.

    Raises:
        DecodeError: if the file is no image that can be read, or a coloured one, with the reason.
        FileNotFoundError: if there is no such file.
    """
    return _read(source, at_least, to_grey)


def _read(source: Source, at_least: int | None, convert: Callable[[Image.Image], Image.Image]) -> Picture:
    with _reasons(), without_warnings:
        if isinstance(source, Image.Image):
            return _picture(source, at_least, convert)
        file = io.BytesIO(source) if isinstance(source, bytes) else open_file(source)
        with file, _open_image(file) as image:
            return _picture(image, at_least, convert)


def open_file(path: str | PathLike[str]) -> BinaryIO:
    """Open a file to be read.

    Raises:
        DecodeError: if it is a folder, a pipe or another thing that is no file.
        OSError: if the system refuses.
    """
    path = Path(path)
    mode = path.stat().st_mode
    # Opening a pipe would wait for somebody to write into it.
    if not stat.S_ISREG(mode):
        raise DecodeError("it is a folder" if stat.S_ISDIR(mode) else "it is not a regular file")
    return path.open("rb")


def _open_image(file: BinaryIO) -> Image.Image:
    """Read the header, and check the structure of those formats that Pillow may read in part."""
    start = file.read(4)
    if not start:
        raise DecodeError("the file is empty")
    if start[:2] in (b"II", b"MM"):
        require_whole_tiff(file)
    image = Image.open(file, formats=FORMATS)
    if image.format == "PNG":
        # Looks for the end and at the checksums of all chunks, which decoding does not.
        image.verify()
        image = Image.open(file, formats=FORMATS)
    return image


def _picture(
    image: Image.Image, at_least: int | None, convert: Callable[[Image.Image], Image.Image]
) -> Picture:
    _require_size(image)
    prepare(image)
    whole = image.size
    drafted = at_least is not None and image.draft(None, (at_least, at_least)) is not None
    # Pillow brings a TIFF upright while it loads it, and then forgets the orientation.
    turned = _known(getattr(image, "tag_v2", {}).get(ExifTags.Base.Orientation))
    with without_libtiff_messages() if image.format == "TIFF" else nullcontext():
        image.load()
    orientation = _orientation(image)
    pixels = convert(image)
    if orientation > 1:
        pixels = pixels.transpose(_TRANSPOSITIONS[orientation])
    size = (whole[::-1] if orientation >= 5 else whole) if drafted else pixels.size
    return Picture(pixels, size, max(turned, orientation))


def _require_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height == 0:
        raise DecodeError(f"{width} x {height}: it has no pixels")
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise DecodeError(f"{width} x {height} pixels are too many; {_LIMITS}")


def _orientation(image: Image.Image) -> int:
    try:
        return _known(image.getexif().get(ExifTags.Base.Orientation))
    # A damaged EXIF block, of which cameras and editors make many, says nothing about the pixels.
    except Exception:
        return 1


def _known(orientation: object) -> int:
    """The orientation if it is one of the eight there are, else upright."""
    return orientation if isinstance(orientation, int) and orientation in _TRANSPOSITIONS else 1


@contextmanager
def _reasons() -> Iterator[None]:
    """Turn what Pillow raises into one kind of error with a reason."""
    try:
        yield
    except (DecodeError, FileNotFoundError):
        raise
    except UnidentifiedImageError as error:
        raise DecodeError(f"no image, or its header is damaged; {', '.join(FORMATS)} are read") from error
    except Image.DecompressionBombError as error:
        raise DecodeError(f"its pixels are too many; {_LIMITS}") from error  # Pillow's own limit is higher
    except MemoryError as error:
        raise ReadError("not enough memory") from error
    # Damaged files make Pillow raise nearly anything, from OSError to SyntaxError.
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's, not Pillow's
            raise ReadError(error.strerror) from error
        raise DecodeError(f"damaged or cut short: {error or type(error).__name__}") from error
