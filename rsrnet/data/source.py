"""Where composites are read from: a folder in the published layout, or a pack. Nobody else needs to know which."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rsrnet.data.folder import Folder
from rsrnet.data.naming import Composite
from rsrnet.data.pack.layout import MANIFEST, PLAN
from rsrnet.data.pack.read import Pack
from rsrnet.uris import is_uri


class Source(Protocol):
    """A dataset that can be read. It can be sent to another process, which opens it anew."""

    @property
    def start_method(self) -> str | None:
        """How processes that read must be started, such as ``spawn``; None: in any way."""

    def read_list(self, name: str | Path, subsets: Sequence[str]) -> Sequence[Composite]:
        """The composites of a list; see :func:`rsrnet.data.lists.read_list`."""

    def open_pair(self, composite: Composite) -> tuple[Image.Image, Image.Image]:
        """A composite and its mask; see :func:`rsrnet.data.iharmony4.open_pair`."""

    def check(self, composite: Composite) -> object:
        """Raise BadDataError if :meth:`open_pair` would."""

    def state(self, composite: Composite) -> str:
        """What differs when the composite's files do."""

    def blocks(self, composites: Sequence[Composite]) -> NDArray[np.int64] | None:
        """The first position of each run of composites that are best read together; None: any order does."""


def open_source(root: str | Path) -> Source:
    """Open a dataset.

    Args:
        root: a folder in the published layout; or a pack that :mod:`rsrnet.data.pack` wrote: its folder or its URI.

    Raises:
        DataError: if a URI leads to no pack, or a pack is unfinished, incomplete, or of a newer version.
    """
    where = str(root)
    if where.startswith("file:/"):
        where = url2pathname(urlsplit(where).path)
    if is_uri(where):
        return _pack(where, 0)
    for name in (MANIFEST, PLAN):
        with suppress(OSError):
            return _pack(where, Path(where, name).stat().st_mtime_ns)
    return Folder(Path(where))


@lru_cache(maxsize=4)
def _pack(where: str, changed: int) -> Pack:
    """A pack, opened once in this process as long as it does not change."""
    return Pack(where)
