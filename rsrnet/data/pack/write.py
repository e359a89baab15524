"""Packs a dataset, or goes on with a packing that was interrupted."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from rsrnet.data.errors import BadDataError, DataError
from rsrnet.data.folder import Folder
from rsrnet.data.inspection import BadImage, DataReport
from rsrnet.data.naming import Composite
from rsrnet.data.pack.encode import Row, encode_all
from rsrnet.data.pack.layout import (
    INDEX,
    MANIFEST,
    PLAN,
    VERSION,
    Manifest,
    PackConfig,
    Shard,
    config_of,
    index_type,
    versioned,
)
from rsrnet.data.pack.plan import REMEDY, PlannedShard, is_planned, plan_shards, require_files
from rsrnet.data.pack.report import PackReport
from rsrnet.data.pack.shard import Origin, ShardWriter, describe, origin_of
from rsrnet.data.processes import in_processes
from rsrnet.data.storage import Storage, open_storage

_OURS = re.compile(r"[^/]+/[0-9]{5}\.parquet(\.partial)?")
"""Shards, and what an interrupted writing leaves of one."""

Progress: TypeAlias = Callable[[int, int], None]
"""Called as ``progress(done, total)``, in composites, now and then."""


@dataclass
class _State:
    """A packing under way."""

    storage: Storage
    folder: Folder
    config: PackConfig
    skip_bad: bool
    done: dict[str, tuple[Shard, NDArray[np.void]]] = field(default_factory=dict)
    """Whole shards by file, each with its part of the index."""

    bad: list[BadImage] = field(default_factory=list)
    """What cannot be read and must not be left out."""

    def origin(self, plan: PlannedShard, skipped: Iterable[object] = ()) -> Origin:
        """What a shard of the plan is made of."""
        return Origin(json.dumps(asdict(self.config)), plan.sources, tuple(map(str, skipped)))


def pack(
    root: str | Path,
    out: str,
    config: PackConfig | None = None,
    lists: Sequence[str] = (),
    *,
    skip_bad: bool = False,
    processes: int | None = None,
    progress: Progress | None = None,
) -> PackReport:
    """Pack lists of a dataset. The same call goes on where one was interrupted, and does nothing to a whole pack.

    The composites of a list are packed in the order of the hashes of their names, so that those which lie together
    are as mixed as any: reading row groups in random order is then nearly as good as reading images so.

    Args:
        root: folder of the dataset.
        out: a folder, or a URI that pyarrow or fsspec knows; new, or what an earlier call with the same settings
            left.
        config: how images are packed.
        lists: names of lists, relative to the folder or absolute; none: the le50 lists that are there.
        skip_bad: leave out composites that cannot be read, instead of refusing to finish.
        processes: processes to use; default: one for each processor. More than one are spawned, so a script that
            calls this must guard its main part with ``if __name__ == "__main__"``.
        progress: told how many composites are packed so far, and of how many.

    Raises:
        DataError: if something is missing, or ``out`` holds something else.
        BadDataError: if composites cannot be read, with their names. The shards without any are kept for the next
            call.
    """
    state = _State(open_storage(out), Folder(Path(root)), config or PackConfig(), skip_bad)
    planned = plan_shards(state.folder, lists)
    there = state.storage.sizes()
    if MANIFEST in there:
        manifest = _planned_manifest(state, planned)
        if not manifest.changed(there):
            return PackReport.of(manifest, reused=len(planned))
    else:
        _require_resumable(state, there)
    if not skip_bad:
        require_files(state.folder, planned)
    _begin(state, there)
    _keep_whole(state, planned, there)
    reused = len(state.done)
    _write_missing(state, planned, processes or os.cpu_count() or 1, progress or (lambda done, total: None))
    return PackReport.of(_finish(state, planned), reused)


def _planned_manifest(state: _State, planned: Sequence[PlannedShard]) -> Manifest:
    where = state.storage.where
    manifest = Manifest.from_json(where, state.storage.read(MANIFEST))
    if not is_planned(manifest, state.config, planned):
        raise DataError(
            f"{where} is a pack of other images, of other lists or with other settings; give another folder, or"
            " delete this one"
        )
    return manifest


def _require_resumable(state: _State, there: Mapping[str, int]) -> None:
    where = state.storage.where
    if PLAN in there:
        values = versioned(f"{where}/{PLAN}", state.storage.read(PLAN))
        if config_of(values) != state.config:
            given = ", ".join(f"{key} {value}" for key, value in asdict(config_of(values)).items())
            raise DataError(
                f"{where} holds part of a pack with other settings ({given}); give the same, or another folder, or"
                " delete this one"
            )
    elif there:
        raise DataError(f"{where} holds other things, such as {min(there)}; give a new folder")


def _begin(state: _State, there: Mapping[str, int]) -> None:
    """Say that what is there is no pack yet, or no longer."""
    state.storage.write(PLAN, _json({"rsrnet-pack": VERSION, **asdict(state.config)}))
    if MANIFEST in there:
        state.storage.delete(MANIFEST)


def _keep_whole(state: _State, planned: Sequence[PlannedShard], there: Mapping[str, int]) -> None:
    """Look which shards an earlier call has written."""
    for plan in planned:
        if plan.file not in there:
            continue
        with state.storage.open(plan.file) as file:
            origin = origin_of(file)
            if origin is None or origin != state.origin(plan, origin.skipped if state.skip_bad else ()):
                continue
            # What the disk lost when the machine went down is written again.
            with contextlib.suppress(DataError, OSError, ValueError):
                state.done[plan.file] = describe(plan.file, there[plan.file], file, origin)


def _write_missing(
    state: _State, planned: Sequence[PlannedShard], processes: int, progress: Progress
) -> None:
    import pyarrow as pa

    missing = [plan for plan in planned if plan.file not in state.done]
    total = sum(len(plan.composites) for plan in planned)
    done = total - sum(len(plan.composites) for plan in missing)
    progress(done, total)
    plans = {plan.file: plan for plan in missing}
    tasks = [(plan.file, group) for plan in missing for group in plan.groups()]
    remedy = "The shards that were finished are kept: run it again, with fewer --processes."
    work = partial(_encode, state.folder, state.config)
    # Closed at once when this one is interrupted: the processes would first do all they were given.
    with contextlib.closing(in_processes(work, tasks, min(processes, len(tasks)), remedy)) as encoded:
        for name, groups in groupby(encoded, key=lambda task_and_rows: task_and_rows[0][0]):
            with NamedTemporaryFile() as file, ShardWriter(file) as writer:
                plan, wrong = plans[name], []
                for _, found in groups:
                    wrong += [item for item in found if isinstance(item, BadImage)]
                    if rows := [item for item in found if isinstance(item, Row)]:
                        writer.add(rows)
                    done += len(found)
                    progress(done, total)
                origin = state.origin(plan, wrong)
                writer.close(origin)
                if wrong and not state.skip_bad:
                    state.bad += wrong
                    continue
                file.flush()
                with pa.memory_map(file.name) as content:
                    described = describe(plan.file, content.size(), content, origin)
                file.seek(0)
                state.storage.write(plan.file, file)
                state.done[plan.file] = described


def _encode(
    folder: Folder, config: PackConfig, task: tuple[str, tuple[Composite, ...]]
) -> list[Row | BadImage]:
    return encode_all(folder, config, task[1])


def _finish(state: _State, planned: Sequence[PlannedShard]) -> Manifest:
    """Write the index and, last, the manifest; delete what does not belong to the pack."""
    if state.bad:
        checked = sum(len(plan.composites) for plan in planned)
        raise BadDataError(
            f"{DataReport(checked, tuple(state.bad))}\n{REMEDY} Then pack again: the shards without any of them are"
            " kept."
        )
    lists: dict[str, tuple[Shard, ...]] = {}
    for plan in planned:
        lists[plan.list_name] = (*lists.get(plan.list_name, ()), state.done[plan.file][0])
    for name, shards in lists.items():
        if not any(shard.rows for shard in shards):
            raise DataError(
                f"{name}: none of its composites can be read; check the dataset with `rsrnet data check`"
            )
    index = io.BytesIO()
    np.save(index, _index([state.done[plan.file][1] for plan in planned]))
    manifest = Manifest(state.config, lists, index.tell())
    index.seek(0)
    state.storage.write(INDEX, index)
    state.storage.write(MANIFEST, io.BytesIO(manifest.to_json()))
    for file in state.storage.sizes():
        if file == PLAN or (_OURS.fullmatch(file) and file not in state.done):
            state.storage.delete(file)
    return manifest


def _index(parts: Sequence[NDArray[np.void]]) -> NDArray[np.void]:
    """The whole index, of those of the shards."""
    longest = max(part.dtype["name"].itemsize for part in parts)
    index = np.concatenate([part.astype(index_type(longest)) for part in parts])
    index["by_name"] = np.argsort(index["name"], kind="stable")
    return index


def _json(values: object) -> io.BytesIO:
    return io.BytesIO(json.dumps(values).encode())
