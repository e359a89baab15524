"""Finds the images of a job: in a folder, by a pattern, in a list or a table, on this machine or in an object store."""

from __future__ import annotations

import glob
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from rsrnet.data.errors import DataError
from rsrnet.data.storage import open_storage
from rsrnet.uris import is_uri
from rsrnet_platform.errors import UserError
from rsrnet_platform.prediction.listing import listing
from rsrnet_platform.prediction.paths import (
    IMAGE_SUFFIXES,
    goes_round,
    has_magic,
    is_image,
    joined,
    split,
    without_query,
    written,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from rsrnet_platform.prediction.listing import Found

IMAGE, PATH = "image", "path"
"""Columns of a table of images: their bytes, and where they are or what they are called."""

MISSING = "missing"
"""Stamp of a file that is not there, or cannot be looked at: reading it will say why."""

_Value = TypeVar("_Value")

_ROWS = 64
"""Images of a table that are held at once."""

_NAMES = 1000
"""Files whose size is asked for in one go."""


def find_images(source: str, output: str) -> pa.Table:
    """The images to localize, as :func:`rsrnet_platform.prediction.listing.listing` gives them.

    Args:
        source: a folder, searched at any depth; a pattern (``photos/**/*.jpg``) of image files; an image; a Parquet
            table with a column ``path``, or ``image`` with bytes or structs of ``bytes`` and ``path``; or a list
            file with a path or URI a line, relative to the list. A path, or a URI.
        output: pictures that a job wrote there are left out.

    Raises:
        UserError: if there is no such thing, it cannot be read, or there is no image in it.
    """
    with _told(source):
        images = listing(_find(source, output))
    if not images.num_rows:
        raise UserError(
            f"input = {source}: no image in it; images end in {', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    return images


@contextmanager
def _told(source: str) -> Iterator[None]:
    """What fails while the images are looked for, as one message."""
    from pyarrow import ArrowInvalid

    try:
        yield
    except OSError as error:
        where = f"{error.filename} " if error.filename else ""
        raise UserError(f"input = {source}: {where}cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise _no_list(source) from error
    except UnicodeEncodeError as error:
        raise UserError(f"input = {source}: the name {error.object!r} is not UTF-8; rename it") from error
    except (ArrowInvalid, DataError) as error:
        raise UserError(f"input = {source}: cannot be read ({error})") from error


def _no_list(source: str) -> UserError:
    return UserError(f"input = {source}: neither a folder nor an image nor a list of images")


def _find(source: str, output: str) -> Iterator[Found]:
    kind = _kind(source)
    if kind == "folder":
        return _in_store(source, "", output) if is_uri(source) else _in_folder(source, output)
    if kind == "file":
        return _in_file(source)
    if has_magic(source):
        return _matching_in_store(source, output) if is_uri(source) else _matching(source, output)
    raise UserError(f"input = {source}: there is no such folder, image, table or list of images")


def _kind(source: str) -> str | None:
    """Whether there is a ``folder`` or a ``file``.

    Raises:
        OSError: if the system refuses to look.
    """
    if is_uri(source):
        from pyarrow.fs import FileType

        kinds = {FileType.Directory: "folder", FileType.File: "file"}
        return None if has_magic(source) else kinds.get(open_storage(source).infos([""])[0].type)
    try:
        return "folder" if stat.S_ISDIR(os.stat(source).st_mode) else "file"
    except (FileNotFoundError, NotADirectoryError):
        return None


def _in_folder(source: str, output: str) -> Iterator[Found]:
    def refuse(error: OSError) -> None:
        # The images in a folder that cannot be listed would be missing without a word.
        raise error

    for folder, folders, names in os.walk(source, onerror=refuse, followlinks=True):
        if written(os.path.realpath(folder), output):
            folders.clear()
            continue
        folders[:] = [name for name in folders if not goes_round(os.path.join(folder, name), source)]
        yield from _files(
            source, [os.path.relpath(os.path.join(folder, n), source) for n in names if is_image(n)]
        )


def _matching(pattern: str, output: str) -> Iterator[Found]:
    parts = pattern.split("/")
    base = "/".join(parts[: next(index for index, part in enumerate(parts) if glob.has_magic(part))]) or "/"

    @lru_cache(maxsize=_NAMES)
    def left_out(folder: str) -> bool:
        return written(os.path.realpath(folder), output) or goes_round(folder, base)

    found = (path for path in glob.iglob(pattern, recursive=True) if is_image(path) and os.path.isfile(path))
    yield from _files(
        base, [os.path.relpath(path, base) for path in found if not left_out(os.path.dirname(path))]
    )


def _in_store(root: str, pattern: str, output: str) -> Iterator[Found]:
    """Images in a folder of an object store, those that match a pattern if one is given."""
    import re

    from fsspec.utils import glob_translate

    matches = re.compile(glob_translate(pattern) if pattern else "").match
    for name, info in open_storage(root).files():
        path = joined(root, name)
        if is_image(name) and matches(name) and not written(path, output):
            yield path, name, _stamp(info.size, info.mtime_ns), root, name, -1


def _matching_in_store(pattern: str, output: str) -> Iterator[Found]:
    whole, mark, query = without_query(pattern)
    parts = whole.split("/")
    first = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    return _in_store("/".join(parts[:first]) + mark + query, "/".join(parts[first:]), output)


def _in_file(source: str) -> Iterator[Found]:
    parent, name = split(source)
    if is_image(name):
        return _files(parent, [name])
    if name.lower().endswith(".parquet"):
        return _in_table(source, parent, name)
    # Editors on Windows put a mark first.
    text = open_storage(parent).read(name).decode("utf-8-sig")
    if "\0" in text:
        raise _no_list(source)
    return _named(parent, filter(None, map(str.strip, text.splitlines())))


def _in_table(source: str, parent: str, name: str) -> Iterator[Found]:
    import pyarrow.parquet as pq

    with open_storage(parent).open(name) as file:
        columns = pq.ParquetFile(file).schema_arrow
        try:
            if IMAGE in columns.names:
                yield from _with_bytes(source, file, [IMAGE, PATH] if PATH in columns.names else [IMAGE])
            elif PATH in columns.names:
                paths = (path for rows in _rows(file, [PATH], _NAMES) for path in rows.column(0).to_pylist())
                yield from _named(parent, (_of_type(path, str) for path in paths if path not in (None, "")))
            else:
                raise TypeError
        except TypeError as error:
            raise UserError(
                f"input = {source}: needs a column {PATH!r} of text, or {IMAGE!r} with bytes or structs of 'bytes' "
                f"and 'path'; it has {', '.join(f'{each.name} ({each.type})' for each in columns)}"
            ) from error


def _with_bytes(source: str, file: Any, columns: Sequence[str]) -> Iterator[Found]:
    seen: set[str] = set()
    number = 0
    for rows in _rows(file, columns, _ROWS):
        for values in rows.to_pylist():
            content, name = bytes_and_name(values[IMAGE])
            path = _of_type(values.get(PATH) or name or f"row-{number:09d}", str)
            if path in seen:
                raise UserError(
                    f"input = {source}: two rows have the path {path!r}; give each its own, or none"
                )
            seen.add(path)
            stamp = MISSING if content is None else hashlib.sha256(_of_type(content, bytes)).hexdigest()
            yield path, path, stamp, source, "", number
            number += 1


def _of_type(value: Any, kind: type[_Value]) -> _Value:
    if not isinstance(value, kind):
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value


def bytes_and_name(value: Any) -> tuple[bytes | None, str | None]:
    """The bytes and the path in a value of the column of images: a struct of both, or bytes."""
    if isinstance(value, dict):
        return value.get("bytes"), value.get("path")
    return value, None


def _rows(file: Any, columns: Sequence[str], count: int) -> Iterable[Any]:
    import pyarrow.parquet as pq

    return pq.ParquetFile(file).iter_batches(batch_size=count, columns=list(columns))


def _named(parent: str, names: Iterable[str]) -> Iterator[Found]:
    """Files by path or URI, relative to a folder or absolute."""
    by_folder: dict[str, list[str]] = {}
    for name in names:
        folder, file = split(name) if is_uri(name) else (parent, name)
        by_folder.setdefault(folder, []).append(file)
    for folder, files in by_folder.items():
        for path, name, *rest in _files(folder, files):
            yield (path, name if folder == parent else path, *rest)  # type: ignore[misc]


def _files(folder: str, names: Sequence[str]) -> Iterator[Found]:
    """Files in a folder, or by absolute path, in the order of the names."""
    if not is_uri(folder):
        for name in names:
            path = os.path.join(folder, name)
            yield path, os.path.relpath(path, folder), _stamp_of(path), folder, name, -1
        return
    storage = open_storage(folder)
    for start in range(0, len(names), _NAMES):
        some = names[start : start + _NAMES]
        for name, info in zip(some, storage.infos(some), strict=True):
            yield joined(folder, name), name, _stamp(info.size, info.mtime_ns), folder, name, -1


def _stamp_of(path: str) -> str:
    try:
        about = os.stat(path)
    except (OSError, ValueError):  # a name with a null character, which no file has
        return MISSING
    return _stamp(about.st_size, about.st_mtime_ns)


def _stamp(size: int | None, mtime_ns: int | None) -> str:
    return MISSING if size is None else f"{size}-{mtime_ns}"
