"""Files that appear whole or not at all, and disks that are full."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rsrnet_platform.errors import UserError


def whole(path: Path, write: Callable[[Path], Any]) -> Path:
    """Have a file written under another name and moved to its own: a crash leaves the old file or the new one.

    On an error nothing half written stays.

    Args:
        path: of the file; its folder is made if missing.
        write: writes it to the path that it is given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        write(partial)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return path


def is_full_disk(error: BaseException) -> bool:
    """Whether an error says that a disk, or somebody's share of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def telling_of_full_disk(folder: str) -> Iterator[None]:
    """Context: a full disk is the user's to mend.

    Raises:
        UserError: naming the folder, instead of the error of whatever was written last.
    """
    try:
        yield
    except OSError as error:
        if not is_full_disk(error):
            raise
        raise UserError(
            f"{folder}: no space left on the device. What is there is intact: make room, and start the job again; "
            "one that had begun goes on from its newest checkpoint."
        ) from error


def unused(path: Path) -> Path:
    """A path that nothing has: the given one, or the first of those with a number behind its name."""
    return next(
        each
        for each in (path, *(path.with_name(f"{path.name}-{number}") for number in range(2, 10**6)))
        if not each.exists()
    )
