"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def whole(path: Path, write: Callable[[Path], Any]) -> Path:
    """Have a file written under another name and moved to its own: a crash leaves the old file or the new one.

    Args:
        path: of the file; its folder is made if missing.
        write: writes it to the path that it is given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    write(partial)
    os.replace(partial, path)
    return path


def unused(path: Path) -> Path:
    """A path that nothing has: the given one, or the first of those with a number behind its name."""
    return next(
        each
        for each in (path, *(path.with_name(f"{path.name}-{number}") for number in range(2, 10**6)))
        if not each.exists()
    )
