"""Whether a TIFF file was cut short.

A TIFF is a directory of tags that points to the pixels and may come after them. Pillow reads what is left of a
directory and then decodes, for example, without the orientation; libtiff writes to the standard error.
"""

from __future__ import annotations

import os
import struct
from typing import BinaryIO

from rsrnet.data.errors import DecodeError

_BYTES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
"""Bytes of a value of each type of tag."""

_UNSIGNED = {3: "H", 4: "L", 13: "L", 16: "Q"}
_SAMPLES_PER_PIXEL = 277
_MOST_SAMPLES = 6
_PIXELS = ((273, 279), (324, 325))
"""Tags of where the strips (or tiles) of pixels lie, and of how many bytes each has."""

_LAST_OF_THE_FORMAT = 700
"""Tags from here on are XMP, EXIF and private ones: a damaged one does not change the picture."""


def require_whole_tiff(file: BinaryIO) -> None:
    """Refuse a TIFF whose first page (its tags, their values, its pixels) does not lie within the file.

    What is no TIFF after all passes.

    Args:
        file: an open file that begins with ``II`` or ``MM``; its position is changed.

    Raises:
        DecodeError: if something lies outside.
    """
    end = file.seek(0, os.SEEK_END)
    order = "<" if _part(file, 0, 2, end) == b"II" else ">"
    (version,) = struct.unpack(order + "H", _part(file, 2, 2, end))
    if version not in (42, 43):
        return
    big = version == 43
    start_at, start, count, entry = (8, "Q", "Q", "HHQ8s") if big else (4, "L", "H", "HHL4s")
    (at,) = struct.unpack(order + start, _part(file, start_at, struct.calcsize(order + start), end))
    length = struct.calcsize(order + count)
    (entries,) = struct.unpack(order + count, _part(file, at, length, end))
    each = struct.calcsize(order + entry)
    # Behind the tags stands where the next page begins.
    directory = _part(file, at + length, entries * each + struct.calcsize(order + start), end)
    values: dict[int, tuple[int, ...]] = {}
    for tag, kind, number, inline in struct.iter_unpack(order + entry, directory[: entries * each]):
        size = _BYTES.get(kind, 0) * number
        if tag >= _LAST_OF_THE_FORMAT or not size:
            continue
        data = inline[:size]
        if size > len(inline):
            data = _part(file, struct.unpack(order + start, inline)[0], size, end)
        if kind in _UNSIGNED:
            values[tag] = struct.unpack(f"{order}{number}{_UNSIGNED[kind]}", data)
    if max(values.get(_SAMPLES_PER_PIXEL, (1,))) > _MOST_SAMPLES:
        raise DecodeError(f"a TIFF of more than {_MOST_SAMPLES} values a pixel")
    for offsets, lengths in _PIXELS:
        for at, size in zip(values.get(offsets, ()), values.get(lengths, ()), strict=False):
            _require_within(at + size, end)


def _part(file: BinaryIO, at: int, size: int, end: int) -> bytes:
    """Bytes of the file, all of them."""
    _require_within(at + size, end)
    file.seek(at)
    return file.read(size)


def _require_within(position: int, end: int) -> None:
    if position > end:
        raise DecodeError(f"cut short: the TIFF needs at least {position:,} bytes and has {end:,}")
