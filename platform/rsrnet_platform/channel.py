"""Between a job and its workers on other machines: how far they are, and that they are to stop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rsrnet_platform.progress import append

if TYPE_CHECKING:
    from ray.actor import ActorHandle


class Channel:
    """An actor beside the job, with its disk; it ends with the job.

    Args:
        progress: file for the lines that the workers tell.
    """

    def __init__(self, progress: str) -> None:
        self._progress = Path(progress)
        self._asked = False

    def tell(self, line: str) -> None:
        """Add a line to the progress."""
        append(self._progress, line)

    def stop(self) -> None:
        """Ask the workers to stop."""
        self._asked = True

    def asked(self) -> bool:
        """Whether they are to stop."""
        return self._asked


@contextmanager
def open_channel(progress: Path) -> Iterator[ActorHandle]:
    """Context: a channel on this machine; it takes no CPU from the workers."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(Channel)
    channel = actor.options(num_cpus=0, scheduling_strategy=here).remote(str(progress))
    try:
        yield channel
        ray.get(channel.asked.remote())  # behind the last line
    finally:
        # Not left to the end of its last handle: a traceback may hold one for long.
        ray.kill(channel)
