"""The folder of an attempt on Ray Train, on whatever file system it is: checkpoints by name, and files beside them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

SNAPSHOT = "checkpoint_manager_snapshot.json"
"""File in which Ray Train remembers the checkpoints of a run, once the first is written to its end."""

_ASIDE = f"damaged-{SNAPSHOT}"


@dataclass(frozen=True)
class Shelf:
    """A folder that every worker reaches."""

    filesystem: FileSystem
    path: str
    """Of the folder, as the file system knows it."""

    @property
    def here(self) -> bool:
        """Whether it is a folder of this machine's file system."""
        from pyarrow.fs import LocalFileSystem

        return isinstance(self.filesystem, LocalFileSystem)

    def checkpoints(self) -> list[str]:
        """Names of the epochs' checkpoints, oldest first: Ray Train names them by time."""
        from pyarrow.fs import FileSelector, FileType

        infos = self.filesystem.get_file_info(FileSelector(self.path, allow_not_found=True))
        return sorted(
            info.base_name
            for info in infos
            if info.type == FileType.Directory and info.base_name.startswith("checkpoint_")
        )

    def finished_one(self) -> bool:
        """Whether a checkpoint was ever written to its end: Ray Train notes it only then."""
        return self.has(SNAPSHOT) or self.has(_ASIDE)

    def has(self, name: str) -> bool:
        """Whether there is a file or a folder of this name."""
        from pyarrow.fs import FileType

        return self.filesystem.get_file_info(self._join(name)).type != FileType.NotFound

    @contextmanager
    def fetch(self, name: str) -> Iterator[Path]:
        """Context: a folder, on this machine's disk."""
        from pyarrow.fs import copy_files

        if self.here:
            yield Path(self._join(name))
            return
        with TemporaryDirectory() as folder:
            copy_files(self._join(name), folder, source_filesystem=self.filesystem)
            yield Path(folder)

    def put(self, name: str, folder: Path) -> None:
        """Copy a folder of this machine's disk, in place of one of this name."""
        from pyarrow.fs import copy_files

        self.remove(name)
        self.filesystem.create_dir(self._join(name))
        copy_files(str(folder), self._join(name), destination_filesystem=self.filesystem)

    def remove(self, name: str) -> None:
        """Delete a folder, if it is there."""
        if self.has(name):
            self.filesystem.delete_dir(self._join(name))

    def write(self, name: str, data: bytes) -> str:
        """Write a file; its path."""
        with self.filesystem.open_output_stream(self._join(name)) as file:
            file.write(data)
        return self._join(name)

    def read(self, name: str) -> bytes:
        """What a file holds."""
        with self.filesystem.open_input_stream(self._join(name)) as file:
            data: bytes = file.read()
        return data

    def put_unusable_snapshot_aside(self) -> str | None:
        """Move Ray Train's memory of the checkpoints away if it would let no run of the name start.

        So it is if it is damaged, of another version of Ray, or tells of a checkpoint that is not there. The
        checkpoints themselves are found without it.

        Returns:
            Its new path; None if all is well.
        """
        if not self.has(SNAPSHOT):
            return None
        if _is_usable(self.read(SNAPSHOT), self.checkpoints()):
            return None
        aside = self._join(_ASIDE)
        self.filesystem.move(self._join(SNAPSHOT), aside)
        return aside

    def _join(self, name: str) -> str:
        return f"{self.path}/{name}"


def _is_usable(snapshot: bytes, checkpoints: list[str]) -> bool:
    import ray

    try:
        values = json.loads(snapshot)
        names = {each["checkpoint_dir_name"] for each in values["checkpoint_results"]}
        return values["ray_version"] == ray.__version__ and names <= set(checkpoints)
    except (ValueError, KeyError, TypeError):
        return False
