"""Looking at many files, with all processors."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from pathlib import Path
from typing import TypeAlias

from rsrnet.data.check.facts import Facts, File, Stamp, look
from rsrnet.data.check.memory import Memory
from rsrnet.data.errors import DataError

_CHUNK = 16
"""Files a process looks at before it reports: few, so that little is lost when a check is killed."""

Progress: TypeAlias = Callable[[int, int], None]
"""Called as ``progress(done, total)``, in files, now and then."""


def look_at_all(
    root: Path,
    files: Mapping[File, Stamp],
    memory: Memory,
    processes: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Facts]:
    """Look at files, with several processes, leaving out those that are remembered.

    Args:
        root: folder of the dataset.
        files: what to look at, each with its stamp.
        memory: what earlier checks found; what is found now is added at once.
        processes: how many; default: as many as there are processors.
        progress: told how many files are known so far.

    Returns:
        The facts by path.

    Raises:
        DataError: if a process was killed.
    """
    found = {file.path: facts for file, stamp in files.items() if (facts := memory.recall(file, stamp))}
    new = [file for file in files if file.path not in found]
    if progress:
        progress(len(found), len(files))
    chunks = [new[start : start + _CHUNK] for start in range(0, len(new), _CHUNK)]
    # Closed at once when this one is interrupted: the processes would first do all they were given.
    with contextlib.closing(_in_processes(root, chunks, processes or os.cpu_count() or 1)) as looked_at:
        for chunk, results in looked_at:
            facts_by_file = dict(zip(chunk, results, strict=True))
            memory.remember({(file, files[file]): facts for file, facts in facts_by_file.items()})
            found |= {file.path: facts for file, facts in facts_by_file.items()}
            if progress:
                progress(len(found), len(files))
    return found


def _in_processes(
    root: Path, chunks: Sequence[list[File]], processes: int
) -> Generator[tuple[list[File], list[Facts]], None, None]:
    """Look at chunks of files, in any order; in this process if another would not be worth its start."""
    processes = min(processes, len(chunks))
    if processes <= 1:
        yield from ((chunk, _look_at(root, chunk)) for chunk in chunks)
        return
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(processes, mp_context=context, initializer=_end_with_parent)
    try:
        with _interruptions_left_to_this_process():
            waiting = {executor.submit(_look_at, root, chunk): chunk for chunk in chunks}
        for done in as_completed(waiting):
            yield waiting[done], done.result()
    except BrokenProcessPool as error:
        raise DataError(
            "a process of the check was killed, probably for want of memory. What was checked is remembered:"
            " run the check again, with fewer --processes."
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)


def _look_at(root: Path, files: list[File]) -> list[Facts]:
    return [look(root, file) for file in files]


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
