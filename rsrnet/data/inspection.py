"""Finds the composites that cannot be used before a training run meets them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from rsrnet.data.errors import BadDataError
from rsrnet.data.folder import Folder
from rsrnet.data.naming import Composite
from rsrnet.data.selection import keep
from rsrnet.data.source import Source, open_source

LISTED = 20
"""How many bad composites a message names."""


@dataclass(frozen=True)
class BadImage:
    """A composite that cannot be used, with the reason."""

    composite: Composite
    reason: str

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class DataReport:
    """What an inspection found."""

    checked: int
    """Composites looked at."""

    bad: tuple[BadImage, ...]
    """Those that cannot be used, in the order given."""

    def __str__(self) -> str:
        lines = [f"{len(self.bad)} of {self.checked} composites cannot be used:"]
        lines += [f"  {bad}" for bad in self.bad[:LISTED]]
        if len(self.bad) > LISTED:
            lines.append(f"  ... and {len(self.bad) - LISTED} more")
        return "\n".join(lines)


def inspect(
    root: str | Path,
    composites: Sequence[Composite],
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> DataReport:
    """Decode every composite and its mask as the reader does, and report those that fail.

    What was packed was decoded then; of a pack, the checksums are looked at.

    Args:
        root: folder of the dataset, or a pack.
        composites: what to look at.
        threads: how many files to decode at a time; Pillow decodes without holding Python's lock.
        progress: called with the number looked at so far and the number of all.
    """
    bad = []
    with ThreadPoolExecutor(max(1, threads)) as pool:
        reasons = pool.map(partial(_reason, open_source(root)), composites)
        for done, (composite, reason) in enumerate(zip(composites, reasons, strict=True), start=1):
            if reason is not None:
                bad.append(BadImage(composite, reason))
            if progress is not None:
                progress(done, len(composites))
    return DataReport(len(composites), tuple(bad))


def require_files(root: str | Path, composites: Sequence[Composite]) -> None:
    """Look whether every composite and its mask are there, without opening them; what was packed is.

    Raises:
        BadDataError: naming those that are not.
    """
    if not isinstance(open_source(root), Folder):
        return
    bad = []
    for composite in composites:
        missing = [path for path in (composite.path, composite.mask_path) if not Path(root, path).is_file()]
        if missing:
            bad.append(BadImage(composite, f"{' and '.join(missing)}: there is no such file"))
    if bad:
        raise BadDataError(f"{DataReport(len(composites), tuple(bad))}\nCheck the dataset folder {root}.")


def usable(
    composites: Sequence[Composite], report: DataReport, on_bad_image: Literal["stop", "skip"]
) -> Sequence[Composite]:
    """Return the composites that can be used.

    Args:
        composites: those that were inspected.
        report: what the inspection found.
        on_bad_image: ``stop`` refuses a dataset with any bad composite; ``skip`` leaves them out.

    Raises:
        BadDataError: if there are bad composites and they are not to be skipped, or if nothing else is left.
    """
    if not report.bad:
        return composites
    bad = {found.composite for found in report.bad}
    good = keep(composites, lambda composite: composite not in bad)
    if on_bad_image == "stop":
        raise BadDataError(f"{report}\nRepair them, take them off the list, or set on_bad_image to skip.")
    if not good:
        raise BadDataError(f"{report}\nNothing is left when they are skipped: check the dataset folder.")
    return good


def _reason(source: Source, composite: Composite) -> str | None:
    try:
        source.check(composite)
    except BadDataError as error:
        return str(error)
    return None
