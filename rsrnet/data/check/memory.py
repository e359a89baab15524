"""What earlier checks found, so that a file is decoded once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from rsrnet.data.check.facts import Facts, File, Stamp

MEMORY = ".rsrnet-check.jsonl"
"""File in the dataset's folder that remembers what was found."""

_HEADER = {"rsrnet-check": 1}
"""First line of that file; the number is raised whenever decoding changes, so that nothing old is believed."""


class Memory:
    """Facts kept in a file: a line each, in JSON, under the path, the size and the time of change.

    It lies in the dataset's folder or, where that cannot be written, in the user's cache; where neither can,
    nothing is kept. A later line counts more than an earlier one; a line that was cut short counts nothing.

    Args:
        root: folder of the dataset.
        fresh: forget what is there.
    """

    def __init__(self, root: Path, fresh: bool = False) -> None:
        self._facts: dict[tuple[File, Stamp], Facts] = {}
        self._file = _open_first(root)
        if self._file is None:
            return
        self._file.seek(0)
        lines = [] if fresh else self._file.read().split(b"\n")
        if lines and _parsed(lines[0]) == _HEADER:
            for line in lines[1:]:
                self._recollect(line)
            # A line that was cut short must not swallow the next one.
            self._append(b"\n" if lines[-1] else b"")
        else:
            self._file.truncate(0)
            self._append(json.dumps(_HEADER).encode() + b"\n")

    def recall(self, file: File, stamp: Stamp) -> Facts | None:
        """What is known of a file that has not changed since."""
        return self._facts.get((file, stamp))

    def remember(self, found: Mapping[tuple[File, Stamp], Facts]) -> None:
        """Keep what was found, at once: the process may be killed any moment."""
        self._append(b"".join(_line(*key, facts) for key, facts in found.items() if not facts.passing))

    def __enter__(self) -> Memory:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def _append(self, lines: bytes) -> None:
        if self._file is None:
            return
        try:
            self._file.write(lines)
            self._file.flush()
        except OSError:  # a full disk costs the memory, not the check
            self._file = None

    def _recollect(self, line: bytes) -> None:
        with contextlib.suppress(TypeError, ValueError):
            path, is_mask, size, changed, width, height, *rest = _parsed(line)
            self._facts[File(path, is_mask), (size, changed)] = Facts((width, height), *rest)


def _line(file: File, stamp: Stamp, facts: Facts) -> bytes:
    values = [*file, *stamp, *facts.size, facts.orientation, facts.foreground, facts.brightest, facts.error]
    return json.dumps(values, separators=(",", ":")).encode() + b"\n"


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _open_first(root: Path) -> IO[bytes] | None:
    """Open the memory in the first place where it can be written."""
    with contextlib.suppress(OSError):
        return (root / MEMORY).open("a+b")
    with contextlib.suppress(OSError, RuntimeError):  # the latter: there is no home
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "rsrnet"
        cache.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]
        return (cache / f"check-{name}.jsonl").open("a+b")
    return None
