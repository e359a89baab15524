"""Work for all processors, in the order it was asked for."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import TypeVar

from rsrnet.data.errors import DataError

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 4
"""Tasks for each process that are begun before the first result is taken: what waits in memory is bounded."""


def in_processes(
    work: Callable[[T], R], tasks: Iterable[T], processes: int, remedy: str
) -> Generator[tuple[T, R], None, None]:
    """Do tasks with several processes, or in this one if one is enough.

    Close the generator when it is left early: the processes would first do what they were given. They are spawned,
    so a script whose main part leads here must guard it with ``if __name__ == "__main__"``.

    Args:
        work: what to do; it can be pickled, and so can the tasks and the results.
        tasks: what to do it with.
        processes: how many; at most 1: none beside this one.
        remedy: what the user can do when a process was killed.

    Yields:
        Each task with its result, in the order of the tasks.

    Raises:
        DataError: if a process was killed.
    """
    if processes <= 1:
        yield from ((task, work(task)) for task in tasks)
        return
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(processes, mp_context=context, initializer=_end_with_parent)
    waiting: deque[tuple[T, Future[R]]] = deque()
    try:
        for task in tasks:
            with _interruptions_left_to_this_process():
                waiting.append((task, executor.submit(work, task)))
            if len(waiting) >= _AHEAD * processes:
                yield _first(waiting)
        while waiting:
            yield _first(waiting)
    except BrokenProcessPool as error:
        raise DataError(f"a process was killed, probably for want of memory. {remedy}") from error
    finally:
        executor.shutdown(cancel_futures=True)


def _first(waiting: deque[tuple[T, Future[R]]]) -> tuple[T, R]:
    task, future = waiting.popleft()
    return task, future.result()


@contextlib.contextmanager
def _interruptions_left_to_this_process() -> Iterator[None]:
    """Context whose new processes do not see Ctrl-C, from their first moment on; here it waits until the end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """End this process when the one that started it does, however that ends."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
