"""What a packing will write, decided before it writes anything."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from rsrnet.data.check.published import LISTS
from rsrnet.data.errors import BadDataError, DataError
from rsrnet.data.folder import Folder
from rsrnet.data.inspection import BadImage, DataReport
from rsrnet.data.lists import fingerprint
from rsrnet.data.naming import Composite
from rsrnet.data.pack.layout import ROWS_A_GROUP, ROWS_A_SHARD, Manifest, PackConfig

REMEDY = "Repair them, take them off the list, or leave them out with --skip-bad."


@dataclass(frozen=True)
class PlannedShard:
    """A shard to be."""

    file: str
    """Path within the pack."""

    list_name: str
    """Name of the list's file."""

    composites: tuple[Composite, ...]
    """What it will hold, unless something is left out."""

    sources: str
    """Fingerprint of the files."""

    def groups(self) -> list[tuple[Composite, ...]]:
        """What will be a row group each."""
        starts = range(0, len(self.composites), ROWS_A_GROUP)
        return [self.composites[start : start + ROWS_A_GROUP] for start in starts]


def plan_shards(folder: Folder, lists: Sequence[str]) -> list[PlannedShard]:
    """Cut lists into shards, each list in the order of the hashes of its composites' names.

    Args:
        folder: the dataset.
        lists: names of lists, relative to the folder or absolute; none: the le50 lists that are there.

    Raises:
        DataError: if there is no such list, or two would have the same name in the pack.
    """
    planned: list[PlannedShard] = []
    for name in _choose(folder, lists):
        composites = sorted(folder.read_list(name, ()), key=_hash)
        stem = PurePath(name).stem
        if any(plan.file.startswith(f"{stem}/") for plan in planned):
            raise DataError(f"two lists are called {stem}; rename one")
        for start in range(0, len(composites), ROWS_A_SHARD):
            part = tuple(composites[start : start + ROWS_A_SHARD])
            file = f"{stem}/{start // ROWS_A_SHARD:05}.parquet"
            planned.append(PlannedShard(file, PurePath(name).name, part, fingerprint(folder.root, part)))
    return planned


def require_files(folder: Folder, planned: Sequence[PlannedShard]) -> None:
    """Look whether the files are there, which takes seconds, before hours of packing.

    Raises:
        BadDataError: if some are missing.
    """
    composites = [composite for plan in planned for composite in plan.composites]
    missing = [
        BadImage(composite, f"{path}: there is no such file")
        for composite in composites
        for path in (composite.path, composite.mask_path)
        if not (folder.root / path).is_file()
    ]
    if missing:
        raise BadDataError(f"{DataReport(len(composites), tuple(missing))}\n{REMEDY}")


def is_planned(manifest: Manifest, config: PackConfig, planned: Sequence[PlannedShard]) -> bool:
    """Whether a pack is what packing would write."""
    wanted = [(plan.list_name, plan.file, plan.sources) for plan in planned]
    held = [(name, shard.file, shard.sources) for name, shards in manifest.lists.items() for shard in shards]
    return manifest.config == config and held == wanted


def _choose(folder: Folder, lists: Sequence[str]) -> list[str]:
    chosen = list(dict.fromkeys(lists)) or [name for name in LISTS if (folder.root / name).is_file()]
    if folder.root.is_dir() and not chosen:
        found = ", ".join(sorted(path.name for path in folder.root.glob("*.txt"))) or "no list"
        raise DataError(
            f"{folder.root} holds {found}, none of {', '.join(LISTS)}; name the lists with --list"
        )
    return chosen or [LISTS[0]]


def _hash(composite: Composite) -> bytes:
    return hashlib.sha256(composite.name.encode()).digest()
