"""The images of a job, as a table: columns take a tenth of what an object for each image would."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import pyarrow as pa

Found: TypeAlias = tuple[str, str, str, str, str, int]
"""The fields of an :class:`Item` where ``name`` is the relative path of the image, with its suffix."""

CHUNK = 4096
"""Rows that become objects at a time."""


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

    Raises:
        UnicodeEncodeError: if a path is no UTF-8, which no table can hold.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    unique = {item[0]: item for item in items}
    ordered = [unique[path] for path in sorted(unique)]
    names = result_names([item[1] for item in ordered])
    columns = [list(column) for column in zip(*ordered, strict=True)] or [[] for _ in range(6)]
    columns[1] = names
    arrays = [pa.array(column, pa.string()) for column in columns[:5]]
    # One string for a folder, not one an image.
    arrays[3] = pc.dictionary_encode(arrays[3])
    arrays.append(pa.array(columns[5], pa.int64()))
    return pa.table(arrays, names=["path", "name", "stamp", "root", "file", "row"])


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
        For each the path without suffix; with it (``a.jpg`` and ``a.png``) where two would be alike.
    """
    inside = [_inside(path) for path in paths]
    # Two different paths, such as x/../up/a.jpg and up/a.jpg, may still lie inside at the same place.
    taken = Counter(inside)
    inside = [f"{name}-{index}" if taken[name] > 1 else name for index, name in enumerate(inside)]
    names = [posixpath.splitext(name)[0] for name in inside]
    while True:
        count = Counter(names)
        alike = [count[name] > 1 for name in names]
        if not any(alike):
            return names
        names = [whole if same else name for name, whole, same in zip(names, inside, alike, strict=True)]


def _inside(path: str) -> str:
    scheme, separator, rest = path.partition("://")
    parts = (rest if separator else scheme).split("/")
    return "/".join("up" if part == ".." else part for part in parts if part not in ("", "."))
