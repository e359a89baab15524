"""Between a job and its workers on other machines: how far they are, and that they are to stop."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rsrnet_platform.progress import append

if TYPE_CHECKING:
    from ray.actor import ActorHandle

SECONDS_BETWEEN_QUESTIONS = 1.0
"""A worker asks the job that often whether it is to stop."""


class StopSign:
    """An actor beside the job, which ends with it: whether its workers are to stop."""

    def __init__(self) -> None:
        self._asked = False

    def stop(self) -> None:
        """Ask the workers to stop."""
        self._asked = True

    def asked(self) -> bool:
        """Whether they are to stop."""
        return self._asked


class Channel(StopSign):
    """A stop sign that also takes what the workers tell, to the disk of the job's machine.

    Args:
        progress: file for the lines that the workers tell.
    """

    def __init__(self, progress: str) -> None:
        super().__init__()
        self._progress = Path(progress)

    def tell(self, line: str) -> None:
        """Add a line to the progress."""
        append(self._progress, line)


class JobNotice:
    """Tells a worker's training to stop when the job says so; see :class:`rsrnet.agreement.Notice`.

    Args:
        sign: a :class:`StopSign` of the job.
    """

    def __init__(self, sign: ActorHandle) -> None:
        self._sign = sign
        self._asked = threading.Event()
        self._closed = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def asked(self) -> bool:
        """Whether the job said so."""
        return self._asked.is_set()

    def due(self) -> bool:
        """Never: the job does not wait to be looked for."""
        return False

    look = due

    def close(self) -> None:
        """Listen no longer."""
        self._closed.set()

    def _listen(self) -> None:
        while not self._closed.wait(SECONDS_BETWEEN_QUESTIONS):
            try:
                asked: Any = ray.get(self._sign.asked.remote())
            except ray.exceptions.ActorUnavailableError:
                continue  # the network may come back
            except ray.exceptions.RayError:
                return  # the job is gone, and its workers are ended
            if asked:
                self._asked.set()
                return


@contextmanager
def open_channel(progress: Path) -> Iterator[ActorHandle]:
    """Context: a channel on this machine; it takes no CPU from the workers."""
    with _beside_the_job(Channel, str(progress)) as channel:
        yield channel
        ray.get(channel.asked.remote())  # behind the last line


@contextmanager
def open_stop_sign() -> Iterator[ActorHandle]:
    """Context: a stop sign on this machine; it takes no CPU from the workers."""
    with _beside_the_job(StopSign) as sign:
        yield sign


@contextmanager
def _beside_the_job(kind: type, *arguments: str) -> Iterator[ActorHandle]:
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    remote: Any = ray.remote(kind)
    actor = remote.options(num_cpus=0, scheduling_strategy=here).remote(*arguments)
    try:
        yield actor
    finally:
        # Not left to the end of its last handle: a traceback may hold one for long.
        ray.kill(actor)
