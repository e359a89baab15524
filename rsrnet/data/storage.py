"""Files in a folder or in an object store, through pyarrow and, for what it does not know, fsspec."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rsrnet.data.errors import DataError
from rsrnet.uris import is_uri


@dataclass(frozen=True)
class Storage:
    """A folder of files."""

    where: str
    """As it was named."""

    filesystem: Any
    """A ``pyarrow.fs.FileSystem``."""

    path: str
    """The folder within it."""

    def sizes(self) -> dict[str, int]:
        """All files, at any depth, each with its bytes."""
        return {name: info.size for name, info in self.files()}

    def files(self, folder: str = "") -> Iterator[tuple[str, Any]]:
        """All files in the folder or in one inside it, at any depth, each with its ``pyarrow.fs.FileInfo``."""
        from pyarrow.fs import FileSelector, FileType

        selector = FileSelector(self.path_of(folder), recursive=True, allow_not_found=True)
        with self._errors(folder):
            found = self.filesystem.get_file_info(selector)
        root = self.path.rstrip("/") + "/"
        for info in found:
            if info.type == FileType.File:
                yield info.path.removeprefix(root).removeprefix("/"), info

    def infos(self, names: Sequence[str]) -> list[Any]:
        """A ``pyarrow.fs.FileInfo`` for each name, also for what is not there."""
        with self._errors():
            return self.filesystem.get_file_info([self.path_of(name) for name in names])

    def read(self, name: str, start: int = 0, size: int | None = None) -> bytes:
        """Bytes of a file, all of them unless told otherwise."""
        with self._errors(name), self.filesystem.open_input_file(self.path_of(name)) as file:
            return bytes(file.read_at(file.size() if size is None else size, start))

    @contextmanager
    def open(self, name: str) -> Iterator[Any]:
        """A file as a ``pyarrow.NativeFile``, to be read at random."""
        with self._errors(name), self.filesystem.open_input_file(self.path_of(name)) as file:
            yield file

    def write(self, name: str, content: IO[bytes]) -> None:
        """Write a file, which appears whole or not at all."""
        with self.writing(name) as file:
            shutil.copyfileobj(content, file, 2**22)

    @contextmanager
    def writing(self, name: str) -> Iterator[Any]:
        """A stream into a file, which appears when the context ends without an error."""
        path = self.path_of(name)
        with self._errors(name):
            self.filesystem.create_dir(path.rpartition("/")[0], recursive=True)
            # Closing an upload makes the file appear, also after an error: hence another name first.
            try:
                with self.filesystem.open_output_stream(path + ".partial") as file:
                    yield file
                self.filesystem.move(path + ".partial", path)
            except OSError:  # a full disk has no room for half a file
                with suppress(OSError):
                    self.filesystem.delete_file(path + ".partial")
                raise

    def delete(self, name: str) -> None:
        """Delete a file."""
        with self._errors(name):
            self.filesystem.delete_file(self.path_of(name))

    def delete_folder(self, name: str) -> None:
        """Delete a folder with everything in it, if it is there."""
        from pyarrow.fs import FileType

        if self.infos([name])[0].type == FileType.Directory:
            with self._errors(name):
                self.filesystem.delete_dir(self.path_of(name))

    def path_of(self, name: str) -> str:
        """Path of a file, or of the folder for an empty name, within the file system."""
        return f"{self.path.rstrip('/')}/{name}" if name else self.path

    @contextmanager
    def _errors(self, name: str | None = None) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(f"{self.where}{f'/{name}' if name else ''}: {error}") from error


def open_storage(where: str) -> Storage:
    """Open a folder, which need not exist yet.

    Args:
        where: a path; or a URI that pyarrow (``s3://``, ``gs://``, ``hdfs://``, ``abfs://``, ``file://``) or an
            installed package for fsspec knows.

    Raises:
        DataError: if nothing knows the URI, or pyarrow is not installed.
    """
    try:
        from pyarrow import ArrowInvalid, fs
    except ImportError as error:
        raise DataError(f"{where}: this needs pyarrow; install rsrnet[platform]") from error
    if not is_uri(where):
        return Storage(where, fs.LocalFileSystem(), str(Path(where).absolute()))
    try:
        return Storage(where, *fs.FileSystem.from_uri(where))
    except ArrowInvalid:  # a scheme that it does not know
        pass
    except OSError as error:
        raise DataError(f"{where}: {error}") from error
    try:
        from fsspec.core import url_to_fs

        filesystem, path = url_to_fs(where)
    except (ImportError, OSError, ValueError) as error:
        raise DataError(f"{where}: {error}") from error
    return Storage(where, fs.PyFileSystem(fs.FSSpecHandler(filesystem)), path)
