"""What of a job is done: one small file a batch, which appears whole or not at all, merged into a table at times.

A batch is done when its rows are committed, and its rows are committed when its pictures are written. So a job that
was killed has lost the batches that its workers held, and nothing else.
"""

from __future__ import annotations

import heapq
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

from rsrnet.data.storage import Storage
from rsrnet_platform.prediction import table
from rsrnet_platform.prediction.table import STAMP, Row

if TYPE_CHECKING:
    import pyarrow as pa

HIDDEN = ".rsrnet"
"""Folder of the output that holds what a job needs to go on."""

PARTS = f"{HIDDEN}/parts"
ROWS = f"{HIDDEN}/rows.parquet"
TOLD = f"{HIDDEN}/told"
"""Empty file: there while the table for people has the rows of ``ROWS``."""

MASKS, OVERLAYS = "masks", "overlays"

_path = itemgetter("path")
_READERS = 16
"""Threads that read parts: in an object store each takes as long as a hundred of a disk."""


def picture_of(folder: str, name: str) -> str:
    """Where a picture of an image is, in the output; the folder is that of the masks or of the overlays."""
    return f"{folder}/{name}.png"


def commit(output: Storage, number: int, rows: Sequence[Row]) -> None:
    """Record that a batch is done.

    Args:
        output: of the job.
        number: of the batch.
        rows: one for each of its images, with the image's stamp.
    """
    output.write(f"{PARTS}/{number:09d}.json", io.BytesIO(json.dumps(list(rows)).encode()))


def merge(output: Storage) -> None:
    """Bring the rows of all batches into one table; of two rows of an image the later one stays.

    May be killed at any point: what was merged already is merged again.
    """
    parts = sorted(name for name, _ in output.files(PARTS) if name.endswith(".json"))
    if parts:
        both = heapq.merge(rows(output), _rows_of(output, parts), key=_path)
        newest = (list(same)[-1] for _, same in groupby(both, key=_path))
        _replace(output, newest)
        output.delete_folder(PARTS)


def rows(output: Storage) -> Iterator[Row]:
    """The merged rows, by path."""
    if _is_file(output, ROWS):
        yield from table.read(output, ROWS)


def keep_done(output: Storage, images: pa.Table, *, overlays: bool) -> pa.Array:
    """Find which images are done, and forget every other row.

    Done is an image whose file is the one that was read, that was no error, and whose pictures are there.

    Args:
        output: of the job, merged.
        images: the job's list.
        overlays: whether overlays are asked for.

    Returns:
        Which of the images are done.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    if not _is_file(output, ROWS):
        return pa.repeat(pa.scalar(False), images.num_rows)
    with output.open(ROWS) as file:
        known = pq.read_table(file, columns=["path", STAMP, "mask", "overlay", "status"])
    index = pc.index_in(images["path"], value_set=known["path"])
    found = known.take(index)
    conditions = [
        pc.equal(found[STAMP], images["stamp"]),
        pc.equal(found["status"], "ok"),
        *_there(output, MASKS, images, found["mask"]),
        *(_there(output, OVERLAYS, images, found["overlay"]) if overlays else ()),
    ]
    done = conditions[0]
    for condition in conditions[1:]:
        done = pc.and_(done, condition)
    done = pc.fill_null(done, False).combine_chunks()
    kept = set(index.filter(done).to_pylist())
    if len(kept) < known.num_rows:
        _replace(output, (row for i, row in enumerate(rows(output)) if i in kept))
    return done


def _replace(output: Storage, newest: Iterable[Row]) -> None:
    # First, so that a job that is killed before its table is written writes it when it is started again.
    if _is_file(output, TOLD):
        output.delete(TOLD)
    table.write(output, ROWS, newest, stamped=True)


def _there(output: Storage, folder: str, images: pa.Table, files: pa.ChunkedArray) -> list[pa.Array]:
    """Whether each file has the name that it would have now, and exists."""
    import pyarrow as pa
    import pyarrow.compute as pc

    names = pc.binary_join_element_wise(f"{folder}/", images["name"], ".png", "")
    existing = pa.array((name for name, _ in output.files(folder)), pa.string())
    return [pc.equal(files, names), pc.is_in(files, value_set=existing)]


def _is_file(output: Storage, name: str) -> bool:
    from pyarrow.fs import FileType

    return output.infos([name])[0].type == FileType.File


def _rows_of(output: Storage, parts: Sequence[str]) -> Iterator[Row]:
    with ThreadPoolExecutor(_READERS) as readers:
        for start in range(0, len(parts), 4 * _READERS):
            for content in readers.map(output.read, parts[start : start + 4 * _READERS]):
                yield from json.loads(content)
