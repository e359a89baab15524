"""Looking at many files, with all processors."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeAlias

from rsrnet.data.check.facts import Facts, File, Stamp, look
from rsrnet.data.check.memory import Memory
from rsrnet.data.processes import in_processes

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
    processes = min(processes or os.cpu_count() or 1, len(chunks))
    remedy = "What was checked is remembered: run the check again, with fewer --processes."
    # Closed at once when this one is interrupted: the processes would first do all they were given.
    with contextlib.closing(in_processes(partial(_look_at, root), chunks, processes, remedy)) as looked_at:
        for chunk, results in looked_at:
            facts_by_file = dict(zip(chunk, results, strict=True))
            memory.remember({(file, files[file]): facts for file, facts in facts_by_file.items()})
            found |= {file.path: facts for file, facts in facts_by_file.items()}
            if progress:
                progress(len(found), len(files))
    return found


def _look_at(root: Path, files: list[File]) -> list[Facts]:
    return [look(root, file) for file in files]
