"""What a pack consists of; see :mod:`rsrnet.data.pack`."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import accumulate, chain
from typing import Any, Literal

import numpy as np

from rsrnet.config import require
from rsrnet.data.errors import DataError

VERSION = 1
"""Version of what is described here. A pack of a newer one is refused, so that nothing is misread."""

MANIFEST = "pack.json"
INDEX = "index.npy"

PLAN = "packing.json"
"""Instead of the manifest as long as packing is not finished."""

ROWS_A_GROUP = 64
"""Composites that are read together from an object store; about 3 MB at the default settings."""

ROWS_A_SHARD = 2048
"""Composites of a file; about 100 MB at the default settings. An interrupted packing loses no more than one file."""


_SHARD = re.compile(r"(?!\.\.?/)[^/\0]+/[0-9]{5}\.parquet")
"""Names of shards. A manifest may come from anywhere: no other name leads to a file."""


@dataclass(frozen=True)
class PackConfig:
    """How images are packed."""

    side: int = 256
    """Length of the shorter side in pixels; smaller images are packed as they are. With 256, a training crop, which is
    then resized to 224, is hardly ever enlarged."""

    format: Literal["jpeg", "png"] = "jpeg"
    """How images are encoded: `png` keeps every pixel and takes about three times the room. Masks are PNG."""

    quality: int = 95
    """Of JPEG, 1 to 100; colours are not subsampled."""

    def __post_init__(self) -> None:
        require(
            self,
            side=(32 <= self.side <= 4096, "a whole number from 32 to 4096"),
            format=(self.format in ("jpeg", "png"), "jpeg or png"),
            quality=(1 <= self.quality <= 100, "a whole number from 1 to 100"),
        )


@dataclass(frozen=True)
class Shard:
    """One file of a pack."""

    file: str
    """Path within the pack, with forward slashes."""

    bytes: int
    row_groups: tuple[int, ...]
    """Composites in each row group."""

    sources: str
    """Fingerprint of the files that it was made of, with those left out."""

    skipped: tuple[str, ...] = ()
    """Why composites were left out, each by its path."""

    @property
    def rows(self) -> int:
        """Composites in it."""
        return sum(self.row_groups)


@dataclass(frozen=True)
class Manifest:
    """What a pack says about itself."""

    config: PackConfig
    lists: Mapping[str, tuple[Shard, ...]]
    """The shards of each list, under the name of the list's file. The index has their rows in this order."""

    index_bytes: int

    @property
    def shards(self) -> tuple[Shard, ...]:
        """All shards."""
        return tuple(chain.from_iterable(self.lists.values()))

    def rows_of(self, name: str) -> range:
        """The rows of a list."""
        first = 0
        for listed, shards in self.lists.items():
            rows = sum(shard.rows for shard in shards)
            if listed == name:
                return range(first, first + rows)
            first += rows
        raise KeyError(name)

    @property
    def group_starts(self) -> list[int]:
        """The first row of each row group and, last, the number of all rows."""
        return list(accumulate(chain.from_iterable(shard.row_groups for shard in self.shards), initial=0))

    def changed(self, there: Mapping[str, int]) -> list[str]:
        """Files that are missing, or not of the size that was written, each with what is wrong.

        Args:
            there: the bytes of each file that is there.
        """
        expected = {INDEX: self.index_bytes} | {shard.file: shard.bytes for shard in self.shards}
        return [
            f"{file} is missing" if file not in there else f"{file} has {there[file]:,} bytes, not {size:,}"
            for file, size in expected.items()
            if there.get(file) != size
        ]

    def to_json(self) -> bytes:
        """As it is stored."""
        lists = {name: [asdict(shard) for shard in shards] for name, shards in self.lists.items()}
        values = {
            "rsrnet-pack": VERSION,
            **asdict(self.config),
            "index_bytes": self.index_bytes,
            "lists": lists,
        }
        return json.dumps(values).encode()

    @classmethod
    def from_json(cls, where: str, text: bytes) -> Manifest:
        """Read what :meth:`to_json` wrote.

        Args:
            where: the pack, to be named in errors.
            text: the content of the file.

        Raises:
            DataError: if it is damaged, or of a newer version.
        """
        values = versioned(f"{where}/{MANIFEST}", text)
        try:
            return cls(
                config_of(values),
                {name: tuple(map(_shard, shards)) for name, shards in values["lists"].items()},
                values["index_bytes"],
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{where}/{MANIFEST}: damaged ({error!r}); pack the dataset again, into another folder"
            ) from error


def versioned(file: str, text: bytes) -> dict[str, Any]:
    """Read a JSON file of a pack.

    Raises:
        DataError: if it is damaged, or of a newer version.
    """
    try:
        values = json.loads(text)
        version = values["rsrnet-pack"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{file}: not a file of a pack, or damaged; pack the dataset again, into another folder"
        ) from error
    if version != VERSION:
        raise DataError(
            f"{file}: a pack of version {version}, but this rsrnet reads version {VERSION}; take the rsrnet that"
            " made it, or pack the dataset again"
        )
    return dict(values)


def config_of(values: Mapping[str, Any]) -> PackConfig:
    """The settings that a JSON file of a pack names."""
    return PackConfig(values["side"], values["format"], values["quality"])


def checksum(image: bytes, mask: bytes) -> bytes:
    """SHA-256 of a row: over the image and then the mask, as they are stored."""
    return hashlib.sha256(image + mask).digest()


def index_type(name_bytes: int) -> np.dtype[np.void]:
    """The type of a row of the index.

    Args:
        name_bytes: length of the longest file name, in UTF-8.
    """
    return np.dtype(
        [
            ("name", f"S{name_bytes}"),
            ("image_at", "<u8"),
            ("image_bytes", "<u4"),
            ("mask_at", "<u8"),
            ("mask_bytes", "<u4"),
            ("sha256", "V32"),
            # Of all rows in the order of their names, the one whose turn it is here: to find a name by bisection.
            ("by_name", "<u4"),
        ]
    )


def parquet_schema() -> Any:
    """The columns of a shard, as a ``pyarrow.Schema``; none may be null."""
    import pyarrow as pa

    columns = {
        "name": pa.string(),
        "subset": pa.string(),
        "real_id": pa.string(),
        "mask_id": pa.string(),
        "k": pa.int32(),
        "width": pa.int32(),
        "height": pa.int32(),
        "area_fraction": pa.float32(),
        "sha256": pa.binary(32),
        "image": pa.binary(),
        "mask": pa.binary(),
    }
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns.items()])


def _shard(values: Mapping[str, Any]) -> Shard:
    if not _SHARD.fullmatch(values["file"]):
        raise ValueError(f"{values['file']!r} is not the name of a shard")
    return Shard(
        values["file"],
        values["bytes"],
        tuple(values["row_groups"]),
        values["sources"],
        tuple(values["skipped"]),
    )
