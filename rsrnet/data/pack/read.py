"""Reads a pack: a source of composites like a folder."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path, PurePath
from tempfile import NamedTemporaryFile
from typing import TypeAlias, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rsrnet.data.decode import read_mask, read_rgb
from rsrnet.data.errors import BadDataError, DataError, DecodeError
from rsrnet.data.naming import Composite
from rsrnet.data.pack.blobs import Blobs, MappedBlobs, RemoteBlobs
from rsrnet.data.pack.layout import INDEX, MANIFEST, PLAN, Manifest, checksum, index_type
from rsrnet.data.selection import of_subsets
from rsrnet.data.storage import open_storage
from rsrnet.uris import is_uri

_KINDS = ("image", "mask")


class Pack:
    """A pack as a source of composites; see :class:`rsrnet.data.source.Source`.

    The index is mapped into memory, so opening a pack reads next to nothing, and processes share it.

    Args:
        where: the pack's folder, or its URI.

    Raises:
        DataError: if there is no pack, it is unfinished, a file has changed, or it is of a newer version.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self._manifest, self._index, self._blobs = (_open_uri if is_uri(where) else _open_folder)(where)
        self._names, self._by_name = self._index["name"], self._index["by_name"]
        self._shards = self._manifest.shards
        self._shard_starts = list(accumulate((shard.rows for shard in self._shards), initial=0))

    def __reduce__(self) -> tuple[type[Pack], tuple[str]]:
        return type(self), (self.where,)

    @property
    def start_method(self) -> str | None:
        """``spawn`` for an object store: its connections do not survive a fork."""
        return "spawn" if is_uri(self.where) else None

    def read_list(self, name: str | Path, subsets: Sequence[str]) -> Sequence[Composite]:
        """See :func:`rsrnet.data.lists.read_list`."""
        listed = PurePath(name).name
        try:
            rows = self._manifest.rows_of(listed)
        except KeyError:
            held = ", ".join(self._manifest.lists)
            raise DataError(
                f"the pack {self.where} has no list {listed}: it holds {held}; name one of these, or pack the dataset"
                " with --list"
            ) from None
        return of_subsets(f"{self.where}/{listed}", PackedComposites(self, rows), subsets)

    def open_pair(self, composite: Composite) -> tuple[Image.Image, Image.Image]:
        """See :func:`rsrnet.data.iharmony4.open_pair`."""
        image, mask = self.check(composite)
        try:
            return read_rgb(image).pixels, read_mask(mask).pixels
        except DecodeError as error:
            raise BadDataError(f"{composite.path}: cannot be decoded ({error})") from error

    def check(self, composite: Composite) -> tuple[bytes, bytes]:
        """The bytes of the image and of the mask.

        Raises:
            BadDataError: if the pack has no such composite, or the bytes are not those that were written.
        """
        row = self._row(composite)
        entry = self._index[row]
        shard = self._shards[bisect_right(self._shard_starts, row) - 1]
        image_part, mask_part = ((int(entry[f"{kind}_at"]), int(entry[f"{kind}_bytes"])) for kind in _KINDS)
        image, mask = self._blobs.read(row, shard, image_part, mask_part)
        if checksum(image, mask) != bytes(entry["sha256"]):
            raise BadDataError(
                f"{composite.path}: {self.where}/{shard.file} is damaged (another checksum); copy the file again, or"
                " delete it and pack the dataset again"
            )
        return image, mask

    def state(self, composite: Composite) -> str:
        """The checksum."""
        return bytes(self._index[self._row(composite)]["sha256"]).hex()

    def blocks(self, composites: Sequence[Composite]) -> NDArray[np.int64] | None:
        """Where the row groups begin among composites of this pack; None for others."""
        if not isinstance(composites, PackedComposites):
            return None
        places = np.unique([bisect_left(composites.rows, start) for start in self._manifest.group_starts])
        return places[places < len(composites)]

    def name(self, row: int) -> str:
        """The file name of a row's composite."""
        return bytes(self._names[row]).decode()

    def _row(self, composite: Composite) -> int:
        name = composite.name.encode()
        place = bisect_left(
            range(len(self._names)), name, key=lambda place: self._names[self._by_name[place]]
        )
        if place == len(self._names) or self._names[row := int(self._by_name[place])] != name:
            raise BadDataError(f"{composite.path}: not in the pack {self.where}")
        return row


class PackedComposites(Sequence[Composite]):
    """Composites of a pack, made when they are asked for: none takes memory before.

    Args:
        pack: the pack.
        rows: which, ascending.
    """

    def __init__(self, pack: Pack, rows: range | NDArray[np.uint32]) -> None:
        self.pack = pack
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, place: int) -> Composite: ...

    @overload
    def __getitem__(self, place: slice) -> PackedComposites: ...

    def __getitem__(self, place: int | slice) -> Composite | PackedComposites:
        if isinstance(place, slice):
            return PackedComposites(self.pack, self.rows[place])
        return Composite.parse(self.pack.name(int(self.rows[place])))

    def __iter__(self) -> Iterator[Composite]:
        return (Composite.parse(self.pack.name(row)) for row in self.rows)

    def at(self, places: NDArray[np.uint32]) -> PackedComposites:
        """See :class:`rsrnet.data.selection.Selectable`."""
        if len(places) == len(self):
            return self
        return PackedComposites(self.pack, np.asarray(self.rows, np.uint32)[places])


_Opened: TypeAlias = tuple[Manifest, NDArray[np.void], Blobs]


def _open_folder(where: str) -> _Opened:
    folder = Path(where)
    try:
        manifest = Manifest.from_json(where, (folder / MANIFEST).read_bytes())
    except OSError as error:
        raise _no_pack(where, (folder / PLAN).exists(), error.strerror or "") from error
    files = [INDEX, *(shard.file for shard in manifest.shards)]
    there = {file: (folder / file).stat().st_size for file in files if (folder / file).is_file()}
    _require_whole(where, manifest, there)
    return manifest, _index(where, folder / INDEX, manifest), MappedBlobs(folder)


def _open_uri(where: str) -> _Opened:
    storage = open_storage(where)
    there = storage.sizes()
    if MANIFEST not in there:
        raise _no_pack(where, PLAN in there, f"there is no {MANIFEST}")
    manifest = Manifest.from_json(where, storage.read(MANIFEST))
    _require_whole(where, manifest, there)
    with NamedTemporaryFile() as file:  # stays readable as long as it is mapped
        file.write(storage.read(INDEX))
        file.flush()
        index = _index(where, Path(file.name), manifest)
    return manifest, index, RemoteBlobs(storage, index, manifest.group_starts)


def _no_pack(where: str, unfinished: bool, reason: str) -> DataError:
    if unfinished:
        return DataError(
            f"{where}: packing was not finished; run `rsrnet data pack` again with the same settings"
        )
    return DataError(f"{where} is no pack: {reason}; write one with `rsrnet data pack`")


def _require_whole(where: str, manifest: Manifest, there: Mapping[str, int]) -> None:
    if changed := manifest.changed(there):
        more = f" (and {len(changed) - 1} more files)" if len(changed) > 1 else ""
        raise DataError(
            f"{where} is not whole: {changed[0]}{more}; copy the pack again, or run `rsrnet data pack` again with the"
            " same settings"
        )


def _index(where: str, file: Path, manifest: Manifest) -> NDArray[np.void]:
    try:
        index: NDArray[np.void] = np.asarray(np.load(file, mmap_mode="r"))
        if len(index) == manifest.group_starts[-1] and index.dtype == index_type(
            index.dtype["name"].itemsize
        ):
            return index
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise DataError(
        f"{where}/{INDEX} is damaged; copy the pack again, or delete the file and pack the dataset again"
    )
