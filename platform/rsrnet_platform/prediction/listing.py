"""The images of a job, as a table: columns take a tenth of what an object for each image would."""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import pyarrow as pa

Found: TypeAlias = tuple[str, str, str, str, str, int]
"""The fields of an :class:`Item` where ``name`` is the relative path of the image, with its suffix."""

NOT_UTF8 = "not UTF-8"
"""Stamp of an image whose path is not UTF-8."""

CHUNK = 4096
"""Rows that become objects at a time."""

_MOST_BYTES = 220
"""Of a part of a result's name: file systems take 255, and a suffix, a hash and a temporary suffix come behind it."""

_KEPT_BYTES = 200
"""Of a part that is too long; its hash follows."""


@dataclass(frozen=True)
class Item:
    """One image to localize."""

    path: str
    """What it is called in the table: a path, a URI, or the name that a table of images gives it."""

    name: str
    """Relative path of its results, without the suffix."""

    stamp: str
    """Size and time of change of the file, or the hash of its bytes in a table: another one is another image."""

    root: str
    """The folder or URI to read it from, or the table."""

    file: str
    """The file in that folder; empty in a table."""

    row: int
    """The row in the table; -1 elsewhere."""


def listing(items: Iterable[Found]) -> pa.Table:
    """Make the list of a job: by path, none twice, each with a name for its results that no other has.

    A path that is not UTF-8, which no table can hold, is listed as it can be shown, and cannot be read.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    unique = {item[0]: item for item in map(_showable, items)}
    ordered = [unique[path] for path in sorted(unique)]
    names = result_names([item[1] for item in ordered])
    columns = [list(column) for column in zip(*ordered, strict=True)] or [[] for _ in range(6)]
    columns[1] = names
    arrays = [pa.array(column, pa.string()) for column in columns[:5]]
    # One string for a folder, not one an image.
    arrays[3] = pc.dictionary_encode(arrays[3])
    arrays.append(pa.array(columns[5], pa.int64()))
    return pa.table(arrays, names=["path", "name", "stamp", "root", "file", "row"])


def _showable(item: Found) -> Found:
    path, name, _, root, file, row = item
    try:
        path.encode()
    except UnicodeEncodeError:
        shown = (os.fsencode(part).decode("utf-8", "backslashreplace") for part in (path, name, file))
        path, name, file = shown
        return path, name, NOT_UTF8, root, file, row
    return item


def items_of(table: pa.Table) -> Iterator[Item]:
    """The rows of a list, as objects one after the other."""
    for batch in table.to_batches(max_chunksize=CHUNK):
        for row in batch.to_pylist():
            yield Item(**row)


def result_names(paths: Sequence[str]) -> list[str]:
    """What the results of images are called: no two alike, and none outside the output folder.

    Args:
        paths: the images' own, relative or absolute, all different.

    Returns:
        For each the path without suffix; with it (``a.jpg`` and ``a.png``) where two would be alike, or where a
        folder has the name of the result (``a.jpg`` beside ``a.png/b.jpg``); with a part of the path's hash where
        that is not enough. Parts that are too long for a file system end in their hash.
    """
    folders = _folders(_shortened(_inside(path)) for path in paths)
    choices = [0] * len(paths)
    names = [_name(path, 0) for path in paths]
    while True:
        alike = Counter(names)
        least: dict[str, int] = {}
        for name, choice in zip(names, choices, strict=True):
            if alike[name] > 1 or f"{name}.png" in folders:
                least[name] = min(choice, least.get(name, choice))
        # Of those alike, only what is at the lowest choice gives way.
        yielding = [
            index
            for index, (name, choice) in enumerate(zip(names, choices, strict=True))
            if choice == least.get(name) and choice < _LAST
        ]
        if not yielding:
            return names
        for index in yielding:
            choices[index] += 1
            names[index] = _name(paths[index], choices[index])


_LAST = 2


def _name(path: str, choice: int) -> str:
    """The first, second or third choice of what the result of an image is called."""
    whole = _inside(path)
    if choice == 0:
        return _shortened(posixpath.splitext(whole)[0])
    # Two different paths, such as x/../up/a.jpg and up/a.jpg, may lie inside at the same place.
    return _shortened(whole) if choice == 1 else f"{_shortened(whole)}-{_hash(path)}"


def _folders(names: Iterable[str]) -> set[str]:
    """All folders on the way to names."""
    folders: set[str] = set()
    for name in names:
        while (name := posixpath.dirname(name)) and name not in folders:
            folders.add(name)
    return folders


def _shortened(name: str) -> str:
    """The same with every part short enough for a file of this name with suffixes; equal parts stay equal."""
    if len(name) * 4 <= _MOST_BYTES:
        return name
    return "/".join(
        part
        if len(part.encode()) <= _MOST_BYTES
        else f"{part.encode()[:_KEPT_BYTES].decode(errors='ignore')}-{_hash(part)}"
        for part in name.split("/")
    )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _inside(path: str) -> str:
    scheme, separator, rest = path.partition("://")
    parts = (rest if separator else scheme).replace("\0", "null").split("/")  # no file's name holds one
    return "/".join("up" if part == ".." else part for part in parts if part not in ("", "."))
