"""The bytes of an image, from wherever its list says that it is."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

from rsrnet.data.decode import open_file
from rsrnet.data.errors import DataError, DecodeError, ReadError
from rsrnet.data.storage import Storage, open_storage
from rsrnet.uris import is_uri
from rsrnet_platform.prediction.inputs import IMAGE, bytes_and_name
from rsrnet_platform.prediction.listing import NOT_UTF8, Item
from rsrnet_platform.prediction.paths import split

MAX_BYTES = 2**31
"""Larger files are refused: no image with a number of pixels that is read needs half of it."""


def content(item: Item) -> bytes:
    """The file of an image, whole.

    Raises:
        DecodeError: with the reason why it cannot be had.
    """
    try:
        if item.row >= 0:
            return _of_table(item)
        if item.stamp == NOT_UTF8:
            raise DecodeError("its name is not UTF-8; rename it")
        if "\0" in item.file:
            raise DecodeError("no such file")
        if is_uri(item.root):
            return _opened(item.root).read(item.file)
        with open_file(os.path.join(item.root, item.file)) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_BYTES:
                raise DecodeError(f"{size:,} bytes are too many; the most are {MAX_BYTES:,}")
            return file.read()
    except FileNotFoundError as error:
        raise ReadError("no such file") from error
    except OSError as error:
        raise ReadError(error.strerror or str(error)) from error
    except DataError as error:
        missing = isinstance(error.__cause__, FileNotFoundError)
        raise ReadError("no such file" if missing else str(error)) from error


def _of_table(item: Item) -> bytes:
    parent, name = split(item.root)
    first, images = 0, None
    info = _opened(parent).infos([name])[0]
    for group, rows in enumerate(_rows_of_groups(item.root, info.mtime_ns)):
        if first <= item.row < first + rows:
            images = _group(item.root, info.mtime_ns, group)
            break
        first += rows
    value = None if images is None else bytes_and_name(images[item.row - first].as_py())[0]
    if value is None:
        raise DecodeError("the table has no bytes for it")
    return value


# What is asked for next is nearly always of the same table, and in the same group of rows. The time of change: a
# process of a cluster may live for longer than a table stays the same.


@lru_cache(maxsize=16)
def _opened(root: str) -> Storage:
    return open_storage(root)


@lru_cache(maxsize=16)
def _rows_of_groups(table: str, _changed: int | None) -> tuple[int, ...]:
    import pyarrow.parquet as pq

    parent, name = split(table)
    with _opened(parent).open(name) as file:
        about = pq.read_metadata(file)
    return tuple(about.row_group(group).num_rows for group in range(about.num_row_groups))


@lru_cache(maxsize=1)
def _group(table: str, _changed: int | None, group: int) -> Any:
    import pyarrow.parquet as pq

    parent, name = split(table)
    with _opened(parent).open(name) as file:
        return pq.ParquetFile(file).read_row_group(group, columns=[IMAGE]).column(0)
