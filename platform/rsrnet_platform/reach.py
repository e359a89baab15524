"""What the machines of a Ray cluster see: the same storage, the same packages, the same files.

A path names another disk on every machine, unless a shared file system is mounted there; nothing in the path tells.
So each node is asked: a task pinned to it reads what this process wrote, and this process reads what the task wrote.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from uuid import uuid4

from rsrnet.data.errors import DataError
from rsrnet_platform.errors import UserError
from rsrnet_platform.limit import within

if TYPE_CHECKING:
    from rsrnet.data.storage import Storage

T = TypeVar("T")

SECONDS = 60.0
"""For a node to answer: a busy one starts a process of Python for it."""

_FOLDER = ".rsrnet-probe"
_HERE = "driver"


@dataclass(frozen=True)
class Answer(Generic[T]):
    """What a node answered, or why it did not."""

    value: T | None = None
    trouble: str | None = None
    """Why there is no value; None: there is one."""


def unreachable(storage: str, *, seconds: float = SECONDS) -> dict[str, str]:
    """Find the nodes that do not write into the same storage as this process.

    Nothing stays behind, not even folders that were made for it. Needs a connection to Ray.

    Args:
        storage: an absolute path, or a URI that :func:`rsrnet.data.storage.open_storage` knows.
        seconds: that each node has to answer, and the storage to do what is asked of it here.

    Returns:
        Why not, a clause, by the address of the node; empty: every node reads and writes it.

    Raises:
        UserError: if this process cannot write there itself, or the storage hangs.
    """
    with _probed(storage, seconds) as probe:
        answers = ask_nodes(_read_and_write, storage, probe.folder, probe.token, seconds=seconds)
        return within(
            storage,
            lambda: {node: why for node, answer in answers.items() if (why := _why(probe, answer))},
            seconds=seconds,
        )


def require_writable(storage: str, *, seconds: float = SECONDS) -> None:
    """Make sure that this process can write to a storage, and leave nothing there; needs no Ray.

    Args:
        storage: as in :func:`unreachable`.
        seconds: that it may take.

    Raises:
        UserError: if it cannot, or the storage hangs.
    """
    with _probed(storage, seconds):
        pass


def ask_nodes(question: Callable[..., T], *arguments: Any, seconds: float = SECONDS) -> dict[str, Answer[T]]:
    """Call a function on every node of the cluster that is alive; needs a connection to Ray.

    Args:
        question: a function written in Python; one that the nodes can import, or that can be pickled.
        arguments: of the function.
        seconds: after which a node that is silent is given up.

    Returns:
        By the address of the node (and the beginning of its id, where a machine has several) what it answered.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(question)
    asked = {
        name: task.options(
            num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
        ).remote(*arguments)
        for node, name in _nodes(ray).items()
    }
    done, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=seconds)
    return {name: _answer(ray, task, task in done, seconds) for name, task in asked.items()}


def _nodes(ray: Any) -> dict[str, str]:
    """The name of each living node by its id."""
    alive = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    shared = {address for address, count in Counter(alive.values()).items() if count > 1}
    return {
        node: f"{address} ({node[:8]})" if address in shared else address for node, address in alive.items()
    }


def _answer(ray: Any, task: Any, done: bool, seconds: float) -> Answer[Any]:
    if not done:
        ray.cancel(task, force=True)
        return Answer(trouble=f"did not answer within {seconds:.0f} s")
    try:
        return Answer(ray.get(task))
    except ray.exceptions.RayTaskError as error:
        return Answer(trouble=f"failed: {type(error.cause).__name__}: {error.cause}")
    except ray.exceptions.RayError as error:
        return Answer(trouble=f"went away: {str(error).strip().splitlines()[0]}")


def _read_and_write(storage: str, folder: str, token: str) -> tuple[str, str | None]:
    """On a node: the id of the node, which is also what it wrote and where, and why it could not."""
    import ray

    from rsrnet.data.storage import open_storage

    node = ray.get_runtime_context().get_node_id()
    try:
        place = open_storage(storage)
        # Before anything is written: otherwise a folder would appear on every machine that has none.
        if not place.infos([f"{folder}/{_HERE}"])[0].is_file:
            return node, "does not see what this machine writes there"
        if place.read(f"{folder}/{_HERE}").decode() != token:
            return node, "does not read there what this machine wrote"
    except DataError as error:
        return node, f"cannot read it ({_cause(error)})"
    try:
        _write(place, f"{folder}/{node}", token)
    except DataError as error:
        return node, f"cannot write it ({_cause(error)})"
    return node, None


def _why(probe: _Probe, answer: Answer[tuple[str, str | None]]) -> str | None:
    if answer.value is None:
        return answer.trouble
    node, trouble = answer.value
    if trouble is None and not probe.place.infos([f"{probe.folder}/{node}"])[0].is_file:
        return "writes there, but this machine does not see it"
    return trouble


def _write(place: Storage, name: str, text: str) -> None:
    with place.writing(name) as file:
        file.write(text.encode())


class _Probe:
    """A folder in a storage with a file of this process, and whatever else the nodes write there.

    Args:
        storage: as in :func:`unreachable`.
    """

    def __init__(self, storage: str) -> None:
        self.storage = storage
        self.folder = f"{_FOLDER}-{uuid4().hex}"
        self.token = uuid4().hex
        self.place: Storage
        self._made: list[Path] = []

    def write(self) -> None:
        """Write this process's file; on an error nothing stays.

        Raises:
            UserError: if that cannot be done.
        """
        from pyarrow.fs import LocalFileSystem

        from rsrnet.data.storage import open_storage

        try:
            self.place = open_storage(self.storage)
            local = isinstance(self.place.filesystem, LocalFileSystem)
            folders = [Path(self.place.path), *Path(self.place.path).parents] if local else []
            self._made = [folder for folder in folders if not os.path.lexists(folder)]
            try:
                _write(self.place, f"{self.folder}/{_HERE}", self.token)
            except DataError:
                self.remove()
                raise
        except DataError as error:
            raise UserError(
                f"{self.storage}: cannot be written from here ({_cause(error)}).\n"
                "  Mend its permissions, free some room, or name another folder."
            ) from error

    def remove(self) -> None:
        """Delete the folder, and those that had to be made for it."""
        with suppress(DataError):  # what could not be written need not be deleted
            self.place.delete_folder(self.folder)
        with suppress(OSError):  # others use them by now
            for each in self._made:
                each.rmdir()


@contextmanager
def _probed(storage: str, seconds: float) -> Iterator[_Probe]:
    """Context: a probe of this process in a storage, which is gone again behind it."""
    probe = _Probe(storage)
    within(storage, probe.write, seconds=seconds, undo=probe.remove)
    try:
        yield probe
    finally:
        within(storage, probe.remove, seconds=seconds)


def _cause(error: DataError) -> str:
    """What the file system said, without the name of the probe."""
    cause = error.__cause__
    return os.strerror(cause.errno) if isinstance(cause, OSError) and cause.errno else str(cause or error)
