"""Which checkpoint a training goes on from: the newest that is as it was written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rsrnet import checkpoint

INTERRUPTED = "interrupted"
"""Name, beside the epochs' checkpoints, of the one that a training wrote when it was told to stop."""


@dataclass(frozen=True)
class Start:
    """Where a training goes on."""

    folder: Path | None
    """Of the checkpoint; None: from the beginning."""

    damaged: tuple[str, ...] = ()
    """Messages about the newer checkpoints that could not be used."""


Fetch = Callable[[str], AbstractContextManager[Path]]
"""Gives the folder of a checkpoint, by its name, for a while."""


@contextmanager
def newest_intact(names: Sequence[str], fetch: Fetch, *, finished: bool = True) -> Iterator[Start]:
    """The newest checkpoint without damage; every rank that asks gets the same answer.

    Args:
        names: of the checkpoints, oldest first.
        fetch: gives their folders.
        finished: whether any of a whole epoch was written to its end, as far as is known.

    Raises:
        CheckpointError: if there are finished checkpoints of whole epochs, but none is intact.
    """
    damaged: list[str] = []
    for name in reversed(names):
        with fetch(name) as folder:
            message = damage(folder)
            if message is None:
                yield Start(folder, tuple(damaged))
                return
            damaged.append(message)
    # Otherwise nothing is lost but steps of the first epoch.
    if damaged and finished and names != [INTERRUPTED]:
        lines = "\n  ".join(damaged)
        raise checkpoint.CheckpointError(
            f"no checkpoint of the run is intact:\n  {lines}\nBring one back, or start over with --fresh."
        )
    yield Start(None, tuple(damaged))


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint; None if it is as it was written."""
    try:
        checkpoint.verify(folder)
    except checkpoint.CheckpointError as error:
        return str(error)
    return None


def epochs_done(folder: Path) -> int:
    """Epochs that a checkpoint has behind it."""
    return checkpoint.read_card(folder).epoch


def is_further(
    interrupted: str, newest: str | None, fetch: Fetch, done: Callable[[Path], int] = epochs_done
) -> bool:
    """Whether an interrupted epoch's checkpoint goes on behind the newest whole epoch's.

    It does not where the job died after the next epoch's checkpoint and before this one was deleted.

    Args:
        interrupted: its name.
        newest: name of the newest whole epoch's; None: there is none.
        fetch: gives their folders.
        done: tells how many epochs a checkpoint has behind it.
    """
    if newest is None:
        return True
    try:
        with fetch(interrupted) as partial, fetch(newest) as whole:
            return done(partial) >= done(whole)
    except checkpoint.CheckpointError:
        return True  # whichever is damaged is found out, and told, when it is to be used
