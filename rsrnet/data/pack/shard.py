"""One file of a pack: writing its rows, and finding out at which byte each image and mask begins."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from operator import ne
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from rsrnet.data.errors import DataError
from rsrnet.data.pack.encode import Row
from rsrnet.data.pack.layout import VERSION, Shard, checksum, index_type, parquet_schema

_KEY = b"rsrnet-pack"
"""What the footer keeps the origin under."""


@dataclass(frozen=True)
class Origin:
    """What a shard was made of and how: two shards of equal origin are equal."""

    settings: str
    """The settings of the packing, as JSON."""

    sources: str
    """Fingerprint of the files, with those left out."""

    skipped: tuple[str, ...] = ()
    """Why composites were left out."""


class ShardWriter:
    """Writes a shard row group by row group. As a context, it lets go of the file however it is left.

    Args:
        file: an empty file.
    """

    def __init__(self, file: IO[bytes]) -> None:
        import pyarrow.parquet as pq

        self._schema = parquet_schema()
        # Plain and uncompressed, so that the bytes of an image lie in the file as they are.
        self._writer = pq.ParquetWriter(
            file,
            self._schema,
            compression="none",
            use_dictionary=False,
            write_statistics=["subset", "width", "height", "area_fraction"],
        )

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def add(self, rows: Sequence[Row]) -> None:
        """Add a row group."""
        import pyarrow as pa

        table = pa.Table.from_pylist([asdict(row) for row in rows], schema=self._schema)
        self._writer.write_table(table, row_group_size=len(rows))

    def close(self, origin: Origin) -> None:
        """Finish the file."""
        note = json.dumps({"version": VERSION, **asdict(origin)})
        self._writer.add_key_value_metadata({_KEY.decode(): note})
        self._writer.close()


def origin_of(file: Any) -> Origin | None:
    """What a shard was made of; None if the file is not a whole shard of this version.

    Args:
        file: what ``pyarrow.parquet.ParquetFile`` takes.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        note = json.loads((pq.read_metadata(file).metadata or {})[_KEY])
        if note.pop("version") != VERSION:
            return None
        return Origin(note["settings"], note["sources"], tuple(note["skipped"]))
    except (pa.ArrowInvalid, KeyError, ValueError, TypeError, OSError):
        return None


def describe(file: str, size: int, source: Any, origin: Origin) -> tuple[Shard, NDArray[np.void]]:
    """Find out what a shard holds and where.

    Args:
        file: its path within the pack.
        size: its bytes.
        source: the file, as a ``pyarrow.NativeFile``.
        origin: what it was made of.

    Returns:
        Its entry in the manifest and its part of the index, without ``by_name``.

    Raises:
        DataError: if an image is not stored as it should be, or not what was written.
    """
    import pyarrow.parquet as pq

    parquet = pq.ParquetFile(source)
    groups = [parquet.metadata.row_group(number) for number in range(parquet.metadata.num_row_groups)]
    parts = [_index_part(file, source, parquet, number) for number in range(len(groups))]
    parts = parts or [np.zeros(0, index_type(1))]
    longest = max(part.dtype["name"].itemsize for part in parts)
    index = np.concatenate([part.astype(index_type(longest)) for part in parts])
    row_groups = tuple(group.num_rows for group in groups)
    return Shard(file, size, row_groups, origin.sources, origin.skipped), index


def _index_part(file: str, source: Any, parquet: Any, number: int) -> NDArray[np.void]:
    rows = parquet.read_row_group(number, columns=["name", "sha256", "image", "mask"]).to_pydict()
    if any(map(ne, map(checksum, rows["image"], rows["mask"]), rows["sha256"])):
        raise DataError(f"{file}: damaged; pack the dataset again")
    names = [name.encode() for name in rows["name"]]
    part = np.zeros(len(names), index_type(max(map(len, names))))
    part["name"] = names
    part["sha256"] = np.frombuffer(b"".join(rows["sha256"]), "V32")
    group = parquet.metadata.row_group(number)
    for column in range(group.num_columns):
        chunk = group.column(column)
        if (name := chunk.path_in_schema) in ("image", "mask"):
            stored = source.read_at(chunk.total_compressed_size, chunk.data_page_offset)
            places = _places(file, stored, rows[name])
            part[f"{name}_at"] = [chunk.data_page_offset + place for place in places]
            part[f"{name}_bytes"] = [len(value) for value in rows[name]]
    return part


def _places(file: str, stored: bytes, values: Iterable[bytes]) -> list[int]:
    """Where values lie among the bytes of their column: each behind its length, and page headers between some."""
    places, end = [], 0
    for value in values:
        place = stored.find(len(value).to_bytes(4, "little") + value, end)
        if place < 0:
            raise DataError(f"{file}: an image is not stored plainly; pack the dataset again")
        places.append(place + 4)
        end = place + 4 + len(value)
    return places
