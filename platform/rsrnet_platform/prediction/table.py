"""The table of predictions: its columns, and how it is read and written without holding all of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from rsrnet.data.storage import Storage

if TYPE_CHECKING:
    import pyarrow as pa

Row = dict[str, Any]

STAMP = "stamp"
"""Column that the ledger has beyond the table: see :class:`rsrnet_platform.prediction.listing.Item`."""

GROUP = 4096
"""Rows that are held at once."""


def schema(*, stamped: bool = False) -> pa.Schema:
    """The columns of the table, in order; of the ledger where ``stamped``."""
    import pyarrow as pa

    text, whole, number = pa.string(), pa.int32(), pa.float64()
    sides = [pa.field(side, whole) for side in ("left", "top", "right", "bottom")]
    box = pa.struct([*sides, pa.field("area", pa.int64()), pa.field("confidence", number)])
    columns = {
        "path": text,
        "sha256": text,
        "width": whole,
        "height": whole,
        "score": number,
        "score_threshold": number,
        "inharmonious": pa.bool_(),
        "area_fraction": number,
        "confidence": number,
        "regions": whole,
        "boxes": pa.list_(box),
        "model": text,
        "model_name": text,
        "model_version": whole,
        "model_sha256": text,
        "mask": text,
        "overlay": text,
        "status": text,
        "error": text,
    }
    return pa.schema([*columns.items(), *([(STAMP, text)] if stamped else [])])


def write(storage: Storage, name: str, rows: Iterable[Row], *, stamped: bool = False) -> None:
    """Write rows as they come; the file appears whole or not at all.

    Raises:
        DataError: if it cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns, remaining = schema(stamped=stamped), iter(rows)
    with storage.writing(name) as file, pq.ParquetWriter(file, columns) as writer:
        while some := list(islice(remaining, GROUP)):
            writer.write_table(pa.Table.from_pylist(some, schema=columns))


def read(storage: Storage, name: str) -> Iterator[Row]:
    """The rows of a table, one after the other."""
    import pyarrow.parquet as pq

    with storage.open(name) as file:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=GROUP):
            yield from batch.to_pylist()
