"""One process at a time changes the champion of a registered model.

An embedded store has a file lock. A server has nothing of the kind, but it creates and lists registered models one
after the other: a process creates a marker, a registered model of a name of its own, and holds the lock if no
other marker is there then. Otherwise it takes its marker away and tries again. Of two processes that do so at once
at least one sees the other's marker, so never do both hold the lock.

A process that was killed leaves its marker. Whoever waits removes one that stood for longer than a lease, by the
waiter's own clock; as no two markers share a name, that is never the marker of another. Whoever holds the lock does so
for about a second, and gives up before its lease ends.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import uuid4

from rsrnet_platform.outage import UnreachableError
from rsrnet_platform.store import TrackingError, database_of, store_lock

if TYPE_CHECKING:
    from mlflow import MlflowClient

PREFIX = ".rsrnet-lock."
"""Begins the names of markers; what lists models leaves them out."""

LEASE_SECONDS = 60.0
WAIT_SECONDS = 600.0

_NOTE = (
    "Stands here for about a second while the champion of a model is changed. One that stays was left by a process "
    "that was killed: it is removed when the next one waits for it, and may be deleted by hand."
)


@dataclass(frozen=True)
class Held:
    """The lock, held."""

    since: float
    """When its marker was made, or before; by the monotonic clock."""

    lease: float | None
    """Seconds after which others take it for left behind; None: it cannot be."""

    def confirm(self) -> None:
        """Make sure that nobody can have taken the lock over; to be called before every change.

        Raises:
            UnreachableError: if half the lease is over.
        """
        if self.lease is not None and time.monotonic() - self.since > self.lease / 2:
            raise UnreachableError(
                "The MLflow server took too long to change the champion, and another process may be doing so by now",
                "Nothing was changed: start this again",
            )


@contextmanager
def changing(
    client: MlflowClient, uri: str, name: str, *, lease: float = LEASE_SECONDS, wait: float = WAIT_SECONDS
) -> Iterator[Held]:
    """Hold the lock of a registered model; not to be entered twice by a process.

    Args:
        client: of the store.
        uri: of the store.
        name: of the registered model.
        lease: seconds after which a marker on a server counts as left behind; the same for all.
        wait: seconds to wait at most.

    Raises:
        TrackingError: if the lock is not free in time.
        OSError: the same of an embedded store.
    """
    if database_of(uri) is not None:
        with store_lock(uri):
            yield Held(time.monotonic(), None)
        return
    marker, since = _Markers(client, name, lease).take(wait)
    try:
        yield Held(since, lease)
    finally:
        _remove(client, marker)


class _Markers:
    """The markers of a registered model's lock, and since when each was seen."""

    def __init__(self, client: MlflowClient, name: str, lease: float) -> None:
        self.client = client
        self.prefix = f"{PREFIX}{name}."
        self.name = name
        self.lease = lease
        self.seen: dict[str, float] = {}

    def take(self, wait: float) -> tuple[str, float]:
        """Wait for the lock; the name of the marker that stands for it, and a time before it was made."""
        deadline = time.monotonic() + wait
        while True:
            since = time.monotonic()
            if not self._others() and (marker := self._try()):
                return marker, since
            if time.monotonic() > deadline:
                raise TrackingError(
                    f"The champion of {self.name} has been changed by others for {wait:.0f} s. Start this again later."
                )
            time.sleep(random.uniform(0.05, 0.5))  # noqa: S311

    def _try(self) -> str | None:
        marker = f"{self.prefix}{uuid4().hex}"
        self.client.create_registered_model(marker, description=_NOTE)
        try:
            if not self._others(marker):
                return marker
        except BaseException:
            _remove(self.client, marker)
            raise
        _remove(self.client, marker)
        return None

    def _others(self, own: str | None = None) -> list[str]:
        """Markers of others that may still be alive; those that stood for too long are removed."""
        found = self.client.search_registered_models(f"name LIKE '{PREFIX}%'", max_results=1000)
        names = {model.name for model in found if model.name.startswith(self.prefix)} - {own}
        now = time.monotonic()
        self.seen = {name: self.seen.get(name, now) for name in names}
        for name, since in self.seen.items():
            if now - since > self.lease:
                _remove(self.client, name)
        return [name for name, since in self.seen.items() if now - since <= self.lease]


def _remove(client: MlflowClient, marker: str) -> None:
    from mlflow.exceptions import MlflowException

    # Another process that waits may have been faster with one that was left behind.
    with suppress(MlflowException):
        client.delete_registered_model(marker)
