"""Reading the bytes of images and masks: mapped into memory from a folder, by row group from an object store."""

from __future__ import annotations

import mmap
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rsrnet.data.errors import BadDataError
from rsrnet.data.pack.layout import Shard
from rsrnet.data.storage import Storage

Part: TypeAlias = tuple[int, int]
"""Where something begins in a shard, and its bytes."""

_OPEN_SHARDS = 128
"""Shards that are mapped at a time. What is mapped is the system's to keep or to drop."""

CACHE_BYTES = 2**26
"""Row groups of an object store that a process keeps, in bytes; at least one."""


class Blobs(Protocol):
    """What reads bytes of a pack."""

    def read(self, row: int, shard: Shard, image: Part, mask: Part) -> tuple[bytes, bytes]:
        """The bytes of a row's image and mask, which lie at these parts of a shard."""


class MappedBlobs:
    """Reads from a folder. Nothing is kept in this process's own memory.

    Args:
        folder: the pack.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mapped = lru_cache(_OPEN_SHARDS)(self._map)

    def read(self, row: int, shard: Shard, image: Part, mask: Part) -> tuple[bytes, bytes]:
        """See :class:`Blobs`."""
        mapped = self._mapped(shard.file)
        return _cut(mapped, image), _cut(mapped, mask)

    def _map(self, file: str) -> mmap.mmap:
        try:
            with (self._folder / file).open("rb") as opened:
                return mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise BadDataError(f"{self._folder / file}: cannot be read ({error})") from error


class RemoteBlobs:
    """Reads the images and masks of a whole row group at once, and keeps the last few.

    Args:
        storage: the pack.
        index: its index.
        group_starts: the first row of each row group and, last, the number of rows.
    """

    def __init__(self, storage: Storage, index: NDArray[np.void], group_starts: Sequence[int]) -> None:
        self._storage = storage
        self._index = index
        self._starts = group_starts
        total = int(index["image_bytes"].sum(dtype=np.int64) + index["mask_bytes"].sum(dtype=np.int64))
        kept = max(1, CACHE_BYTES * (len(group_starts) - 1) // max(1, total))
        self._fetched = lru_cache(kept)(self._fetch)

    def read(self, row: int, shard: Shard, image: Part, mask: Part) -> tuple[bytes, bytes]:
        """See :class:`Blobs`."""
        group = bisect_right(self._starts, row) - 1
        start, content = self._fetched(shard.file, group)
        return _cut(content, image, start), _cut(content, mask, start)

    def _fetch(self, file: str, group: int) -> tuple[int, bytes]:
        rows = self._index[self._starts[group] : self._starts[group + 1]]
        start = int(min(rows["image_at"].min(), rows["mask_at"].min()))
        image_end, mask_end = (
            (rows[f"{kind}_at"] + rows[f"{kind}_bytes"]).max() for kind in ("image", "mask")
        )
        return start, self._storage.read(file, start, int(max(image_end, mask_end)) - start)


def _cut(content: bytes | mmap.mmap, part: Part, start: int = 0) -> bytes:
    """A part of a shard, of which ``content`` is everything from ``start`` on."""
    at, size = part
    return content[at - start : at - start + size]
