"""A limit to how long a file system may take: one of a network hangs for ever when its server is away."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import TypeVar

from rsrnet_platform.errors import UserError

T = TypeVar("T")


class HangsError(UserError):
    """Raised when a storage does not answer in time."""


SECONDS = 60.0
"""A store that is slow, and not away, has answered by then."""


def within(
    where: str, act: Callable[[], T], *, seconds: float = SECONDS, undo: Callable[[], object] | None = None
) -> T:
    """Do something with a storage, in a thread that is left behind if it hangs.

    Args:
        where: the storage, a path or a URI.
        act: what to do.
        seconds: that it may take.
        undo: done when ``act`` ends after all, though nobody waits for it any more.

    Raises:
        HangsError: if it takes longer.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            result = act()
        except BaseException as error:
            with suppress(InvalidStateError):
                outcome.set_exception(error)
            return
        try:
            outcome.set_result(result)
        except InvalidStateError:
            if undo is not None:
                undo()

    threading.Thread(target=run, daemon=True).start()
    try:
        return outcome.result(seconds)
    except TimeoutError:
        if not outcome.cancel():  # it ended at the last moment, or that is its own error
            return outcome.result()
        raise HangsError(
            f"{where}: does not answer within {seconds:.0f} s. A file system of a network hangs when its server is "
            "away: look whether `ls` answers there, and mount it again or wait, or name another storage."
        ) from None
    except BaseException:
        outcome.cancel()  # nobody waits any more
        raise
