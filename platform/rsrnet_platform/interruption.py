"""A training that is told to stop: the signals that say so, and what becomes of the job.

SIGTERM comes from whoever needs the machine (Slurm, Kubernetes, a spot instance's notice, ``ray job stop``), SIGINT
from Ctrl-C. Either has the training write a checkpoint behind the step in hand; the same job goes on from there.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from rich.console import Console


class Stopped(Exception):  # noqa: N818 - not an error
    """Ends the workers of a training that was told to stop, once its checkpoint is written."""


class Interruption:
    """Whether a signal came; a :class:`rsrnet.agreement.Notice` for a training in this process."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    @property
    def exit_code(self) -> int:
        """What a shell reports of a process that a signal ended."""
        return 128 + (self.signal or signal.SIGTERM)

    def asked(self) -> bool:
        """See :class:`rsrnet.agreement.Notice`."""
        return self.signal is not None

    def due(self) -> bool:
        """See :class:`rsrnet.agreement.Notice`; a signal does not wait to be looked for."""
        return False

    look = due


@contextmanager
def graceful(grace: float, console: Console) -> Iterator[Interruption]:
    """Note SIGTERM and SIGINT instead of dying of them, for as long as the context lasts.

    A second SIGINT ends the job at once. So does the end of the grace.

    Args:
        grace: seconds from the signal to the end.
        console: is told that the signal came.

    Raises:
        SystemExit: in the main thread, when the grace is over.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        # Python gives signals to the main thread only; whoever runs us in another one keeps them.
        yield interruption
        return

    gave_up = False

    def note(number: int, frame: FrameType | None) -> None:
        if interruption.asked():
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        interruption.signal = signal.Signals(number)
        signal.setitimer(signal.ITIMER_REAL, max(grace, 0.001))
        again = " Ctrl-C again ends it at once." if number == signal.SIGINT else ""
        tell(f"{interruption.signal.name}: saving a checkpoint, in up to {grace:g} s.{again}")

    def give_up(number: int, frame: FrameType | None) -> None:
        nonlocal gave_up
        gave_up = True
        tell(f"No checkpoint within {grace:g} s (cluster.grace): the same job goes on after the last epoch.")
        sys.exit(interruption.exit_code)

    def tell(message: str) -> None:
        with suppress(OSError):  # the terminal may be gone: that is why the signal came
            console.print(message)

    handlers = {signal.SIGTERM: note, signal.SIGINT: note, signal.SIGALRM: give_up}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield interruption
    except SystemExit:
        if gave_up:  # Ray makes another code of it if it waits for something meanwhile
            raise SystemExit(interruption.exit_code) from None
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
