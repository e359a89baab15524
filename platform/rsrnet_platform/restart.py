"""Which checkpoint a training goes on from: the newest that is as it was written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rsrnet import checkpoint


@dataclass(frozen=True)
class Start:
    """Where a training goes on."""

    folder: Path | None
    """Of the checkpoint; None: from the beginning."""

    damaged: tuple[str, ...] = ()
    """Messages about the newer checkpoints that could not be used."""


def newest_intact(folders: Sequence[Path]) -> Start:
    """The newest checkpoint without damage; every rank that asks gets the same answer.

    Args:
        folders: of the checkpoints, oldest first.

    Raises:
        CheckpointError: if there are checkpoints, but none is intact.
    """
    damaged: list[str] = []
    for folder in reversed(folders):
        try:
            checkpoint.verify(folder)
        except checkpoint.CheckpointError as error:
            damaged.append(str(error))
        else:
            return Start(folder, tuple(damaged))
    if damaged:
        lines = "\n  ".join(damaged)
        raise checkpoint.CheckpointError(
            f"no checkpoint of the run is intact:\n  {lines}\nBring one back, or start over with --fresh."
        )
    return Start(None)
