"""A folder that one process alone works in, and that is as if never made where nothing was begun in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rsrnet_platform.errors import UserError
from rsrnet_platform.limit import HangsError, within

if TYPE_CHECKING:
    from filelock import BaseFileLock

_SECONDS_TO_LEAVE = 10.0


@contextmanager
def alone_in(
    folder: Path, lock: str, setting: str, *, busy: str, begun: Callable[[], bool]
) -> Iterator[None]:
    """Make a folder and keep every other process out of it, for as long as the context lasts.

    Args:
        folder: it may be there.
        lock: name of the file that is locked; it may lie in a folder of its own.
        setting: the setting that names the folder, and its value.
        busy: what to say if another process is in it.
        begun: asked at the end, whether there is anything to keep. If not, neither the lock stays nor what was made
            for it.

    Raises:
        UserError: if another process is in it, or it cannot be written or hangs.
    """
    from filelock import FileLock, Timeout

    path = folder / lock
    try:
        made = within(setting, lambda: _make(path.parent))
        held = FileLock(path, timeout=0, thread_local=False)
        within(setting, held.acquire, undo=held.release)
    except Timeout:
        raise UserError(busy) from None
    except OSError as error:
        raise UserError(f"{setting}: cannot be written ({error.strerror or error})") from error
    try:
        yield
    finally:
        # One that hangs or fails has been told of, or is no longer needed: the lock ends with the process.
        with suppress(HangsError, OSError):
            within(setting, lambda: _leave(path, made, held, begun), seconds=_SECONDS_TO_LEAVE)


def _make(folder: Path) -> list[Path]:
    """Make a folder, and return what had to be made, the lowest first."""
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return made


def _leave(path: Path, made: Sequence[Path], held: BaseFileLock, begun: Callable[[], bool]) -> None:
    """Open the folder to others; remove the lock and what was made for it where nothing was begun."""
    try:
        if begun():
            return
        path.unlink(missing_ok=True)
    finally:
        held.release()
    with suppress(OSError):  # something else is there, or others use them by now
        for each in made:
            each.rmdir()
