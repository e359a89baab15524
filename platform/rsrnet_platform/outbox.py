"""Calls to the MLflow store that nobody waits for: one after another, in a thread of their own.

A training must not stand still because the store does. What is to be logged is put here and sent in order; a call
that fails because the store is away is made again until it succeeds, and those behind it wait their turn.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from rsrnet_platform.outage import UnreachableError, explained, pauses
from rsrnet_platform.terminal import duration

_SECONDS_BETWEEN_WORDS = 60.0
_SECONDS_OF_A_CALL = 60.0
"""A store that is not known to be away may take so long for a call, however little patience there is."""


class Outbox:
    """Sends calls in the order in which they were put.

    The thread lives while there is something to send: an outbox needs no closing. A call may be made more often than
    once, as its answer may be lost, so it must not matter if it is.

    Args:
        uri: of the store.
        patience: seconds for which :meth:`flush` waits for a store that is away.
        tell: shows people a line, from any thread.
    """

    def __init__(self, uri: str, patience: float, tell: Callable[[str], None]) -> None:
        self.uri = uri
        self.patience = patience
        self.tell = tell
        self._calls: deque[Callable[[], object]] = deque()
        self._change = threading.Condition()
        self._sender: threading.Thread | None = None
        self._failure: Exception | None = None
        self._trouble: UnreachableError | None = None
        self._sent = 0

    def put(self, call: Callable[[], object]) -> None:
        """Send a call after those that were put before.

        Raises:
            TrackingError: (or what else it raised) if an earlier call failed for good; then this one is not sent.
        """
        with self._change:
            self.check()
            self._calls.append(call)
            if self._sender is None:
                self._sender = threading.Thread(target=self._send, name="rsrnet-outbox", daemon=True)
                self._sender.start()

    def check(self) -> None:
        """Raise what made an earlier call fail for good, once; the calls behind it were sent nevertheless."""
        with self._change:
            failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def flush(self, patience: float | None = None) -> None:
        """Wait until everything is sent.

        Args:
            patience: seconds without a call that succeeds, after which to give up; default: that of the outbox.

        Raises:
            UnreachableError: if the store does not answer in time. What was not sent is tried further, until
                :meth:`abandon`.
            TrackingError: (or what else it raised) if a call failed for good.
        """
        hasty = patience is not None
        patience = self.patience if patience is None else patience
        with self._change:
            sent, since, told = self._sent, time.monotonic(), -_SECONDS_BETWEEN_WORDS
            self._change.notify_all()  # a sender that pauses tries at once
            while self._calls:
                now = time.monotonic()
                if self._sent != sent:
                    sent, since = self._sent, now
                limit = patience if hasty or self._trouble else max(patience, _SECONDS_OF_A_CALL)
                if now - since >= limit:
                    trouble = self._trouble or UnreachableError(
                        f"tracking.uri = {self.uri}: the store does not answer"
                    )
                    raise trouble.after(limit)
                if self._trouble and now - told >= _SECONDS_BETWEEN_WORDS:
                    told = now
                    left = duration(limit - (now - since))
                    self.tell(
                        f"Waiting for the MLflow store for up to {left}: {self._waiting()} not logged yet."
                    )
                self._change.wait(min(1.0, limit - (now - since)))
        self.check()

    def abandon(self) -> None:
        """Send nothing more: whoever goes on with the run sends what it does not have, and nobody else may then."""
        with self._change:
            self._calls.clear()
            self._trouble = None
            self._change.notify_all()

    def _send(self) -> None:
        while True:
            with self._change:
                if not self._calls:
                    self._sender = None
                    return
                call = self._calls[0]
            failure = self._insist(call)
            with self._change:
                if self._in_hand(call):
                    self._calls.popleft()
                self._sent += 1
                self._failure = self._failure or failure
                self._change.notify_all()

    def _insist(self, call: Callable[[], object]) -> Exception | None:
        """Make a call until it succeeds or fails for good; the error of the latter."""
        begun = time.monotonic()
        for pause in pauses():
            failure: Exception | None = None
            try:
                with explained(self.uri):
                    call()
            except UnreachableError as trouble:
                self._note(trouble)
                with self._change:
                    if self._in_hand(call):
                        self._change.wait(pause)
                    if not self._in_hand(call):
                        return None
                continue
            except Exception as error:
                failure = error  # for the thread that put it
            if self._trouble is not None:
                self._trouble = None
                away = duration(time.monotonic() - begun)
                self.tell(f"The MLflow store answers again after {away}: what waited is logged now.")
            return failure
        raise AssertionError("pauses never end")

    def _in_hand(self, call: Callable[[], object]) -> bool:
        """Whether a call is the next to be sent; it is not if all were abandoned meanwhile."""
        return bool(self._calls) and self._calls[0] is call

    def _note(self, trouble: UnreachableError) -> None:
        if self._trouble is None:
            self.tell(f"{trouble.trouble}. The job goes on; what is to be logged waits.")
        self._trouble = trouble

    def _waiting(self) -> str:
        return "1 entry" if len(self._calls) == 1 else f"{len(self._calls)} entries"
