"""Keeps the remarks of image libraries off the terminal: whoever decodes reports what is wrong in one error."""

from __future__ import annotations

import os
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryFile

_STANDARD_ERROR = 2
_OF_LIBTIFF = re.compile(rb"([\w.]+:| ) .*[.:]\s*")
_redirected = threading.Lock()


class _WithoutWarnings:
    """Hides Pillow's warnings as long as any thread is inside.

    One ``warnings.catch_warnings`` in each thread cannot: the filters are the process's, and the last thread to
    leave would bring back what the first had changed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._filters = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._filters.__exit__(None, None, None)


without_warnings = _WithoutWarnings()
"""Context in which Pillow warns nobody."""


@contextmanager
def without_libtiff_messages() -> Iterator[None]:
    """Context in which libtiff's lines do not reach the standard error; what others write there does, at the end.

    libtiff writes to the file descriptor, not to ``sys.stderr``, and Pillow has no switch for it. One thread at a
    time.
    """
    if sys.__stderr__ is None:  # a process without one, where its number may be that of any file
        yield
        return
    with _redirected, TemporaryFile() as caught:
        real = os.dup(_STANDARD_ERROR)
        os.dup2(caught.fileno(), _STANDARD_ERROR)
        try:
            yield
        finally:
            os.dup2(real, _STANDARD_ERROR)
            os.close(real)
            caught.seek(0)
            for line in caught:
                if not _OF_LIBTIFF.fullmatch(line):
                    os.write(_STANDARD_ERROR, line)
