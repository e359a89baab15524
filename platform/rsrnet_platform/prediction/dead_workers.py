"""An end for predictions whose workers are all gone for good: Ray Data 2.60 would wait for them without end."""

from __future__ import annotations

import time
from typing import Any

from ray.core.generated.gcs_pb2 import ActorTableData  # type: ignore[attr-defined]
from ray.data._internal.execution.execution_callback import ExecutionCallback

_PATIENCE = 5.0
"""Seconds for which they must have been gone: the state of an actor comes late."""


class WorkersGoneError(Exception):
    """No worker is left, and none is started any more."""


class WatchWorkers(ExecutionCallback):
    """Ends an execution that has no worker left.

    Ray Data reckons with actors that are restarted for ever. One that dies at work, and more often than it may, fails
    its task and the execution. One that dies between two tasks, as the last of its pool, fails nothing.

    Raises:
        WorkersGoneError: where the rows of the execution are read.
    """

    def __init__(self) -> None:
        self._since: float | None = None

    def on_execution_step(self, executor: Any) -> None:
        """Look at the actors; Ray Data calls it in its loop."""
        pools = (getattr(operator, "_actor_pool", None) for operator in executor._topology)
        if not any(pool is not None and _is_gone(pool) for pool in pools):
            self._since = None
        elif self._since is None:
            self._since = time.monotonic()
        elif time.monotonic() - self._since > _PATIENCE:
            raise WorkersGoneError("all workers are gone")


def _is_gone(pool: Any) -> bool:
    dead = (None, ActorTableData.ActorState.DEAD)
    actors = pool._running_actors
    return (
        bool(actors)
        and not pool.num_pending_actors()
        and not pool.num_tasks_in_flight()
        and all(actor._get_local_state() in dead for actor in actors)
    )
