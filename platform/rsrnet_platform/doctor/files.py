"""What a job reads and writes: its storage, the dataset or the images, the model and the encoder's weights."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsrnet.uris import is_uri
from rsrnet_platform.doctor import nodes
from rsrnet_platform.doctor.finding import Finding, told
from rsrnet_platform.doctor.needs import Needs
from rsrnet_platform.reach import ask_nodes, require_writable, unreachable
from rsrnet_platform.store import resolve_uri

if TYPE_CHECKING:
    from rsrnet.data.config import DataConfig
    from rsrnet.data.naming import Composite

_GIB = 2**30
DISK_GIB = 5.0
"""Free disk below which the checkpoints of a training are in danger."""

_SAMPLE = 32
"""Composites of each list that are compared on every node."""

_SHARED = "Mount the same file system at the same path on every node, or use a URI such as s3://bucket/path"


def storage(needs: Needs) -> Iterator[Finding]:
    """A file can be written, read and deleted by this process and from every node; there is room."""
    where = needs.storage
    if nodes.attached():
        wrong = unreachable(where)
        for node, why in wrong.items():
            remedy = f"{_SHARED}; or keep the job on one machine (cluster.address: local)"
            yield Finding("storage", "problem", f"{where}: node {node} {why}", remedy)
        if not wrong:
            yield Finding("storage", "ok", f"{where}: every node writes and reads it")
    else:
        require_writable(where)
        yield Finding("storage", "ok", f"{where}: can be written")
    if is_uri(where):
        yield Finding("free disk", "ok", "not checked: an object store does not tell")
        return
    there = next(folder for folder in (Path(where), *Path(where).parents) if folder.exists())
    free = shutil.disk_usage(there).free / _GIB
    found = f"{free:.1f} GiB at {where}"
    few = free < DISK_GIB
    remedy = "Free some room, or name another folder in storage" if few else ""
    yield Finding("free disk", "warning" if few else "ok", found, remedy)


def dataset(needs: Needs) -> Iterator[Finding]:
    """The lists and every file that they name are here, and the same on every node."""
    from rsrnet.data.errors import DataError
    from rsrnet.data.inspection import require_files

    if needs.data is None:
        return
    name, root = "dataset", needs.data.root
    try:
        lists = _read(needs.data, needs.lists, needs.seed)
        for composites in lists.values():
            require_files(root, composites)
    except DataError as error:
        found = told(name, error, "problem" if needs.certain else "warning")
        remedy = (
            found.remedy
            or "Set data.root; rsrnet data sample makes a small dataset, rsrnet data check a report"
        )
        yield Finding(name, found.state, found.found, remedy)
        return
    counts = ", ".join(f"{len(composites):,} {split}" for split, composites in lists.items())
    yield Finding(name, "ok", f"{root}: {counts}; all files are there (not decoded: rsrnet data check does)")
    photographs = needs.data.photographs
    if photographs is not None and not Path(photographs).is_dir():
        yield Finding(name, "problem", f"{photographs}: no such folder", "Set data.photographs")
    if nodes.attached():
        own = _sample(needs.data, needs.lists, needs.seed)
        yield from _compared(name, root, own, ask_nodes(_sample, needs.data, needs.lists, needs.seed))


def images(needs: Needs) -> Iterator[Finding]:
    """The images to predict are found, and the first of them is the same on every node."""
    if needs.input is None:
        return
    from rsrnet_platform.prediction.inputs import find_images
    from rsrnet_platform.prediction.listing import items_of

    name = "images"
    found = find_images(needs.input, needs.storage)
    yield Finding(name, "ok", f"{needs.input}: {found.num_rows:,} images")
    if nodes.attached():
        first = next(items_of(found.slice(0, 1)))
        yield from _compared(name, needs.input, _bytes(first), ask_nodes(_bytes, first))


def model(needs: Needs) -> Iterator[Finding]:
    """The model that the job uses can be had, and loaded."""
    if needs.model is None:
        return
    from rsrnet_platform.evaluate import find_model

    subject = find_model(needs.model, resolve_uri(needs.tracking))
    yield Finding("model", "ok", f"{subject.uri}: loads, made for {subject.size} × {subject.size} pixels")


def weights(needs: Needs) -> Iterator[Finding]:
    """The encoder's weights are there; a download is done now, as the job would do it."""
    if needs.encoder is None:
        return
    from rsrnet.model.encoder import read_resnet_weights

    source, depth = needs.encoder
    read_resnet_weights(source, depth)
    yield Finding("encoder weights", "ok", f"{source}, ResNet{depth}: can be read")


def _read(data: DataConfig, lists: Sequence[str], seed: int) -> dict[str, Sequence[Composite]]:
    from rsrnet.data.lists import read_list, read_train_val

    read: dict[str, Sequence[Composite]] = {}
    if "train" in lists:
        split = read_train_val(data, seed)
        read |= {"training": split.train, "validation": split.val}
    if "test" in lists:
        read["test"] = read_list(data.root, data.test, data.subsets)
    return read


def _sample(data: DataConfig, lists: Sequence[str], seed: int) -> dict[str, tuple[int, str]]:
    """How many composites each list names, and a digest of the names and sizes of some; on any machine."""
    from rsrnet.data.lists import fingerprint

    read = _read(data, lists, seed)
    steps = {split: max(1, len(composites) // _SAMPLE) for split, composites in read.items()}
    return {
        split: (len(composites), fingerprint(data.root, composites[:: steps[split]]))
        for split, composites in read.items()
    }


def _bytes(item: Any) -> int:
    from rsrnet_platform.prediction.contents import content

    return len(content(item))


def _compared(name: str, where: str, own: Any, answers: dict[str, Any]) -> Iterator[Finding]:
    for node, answer in answers.items():
        if answer.value != own:
            why = answer.trouble or "sees other files there"
            yield Finding(name, "problem", f"{where}: node {node} {why}", _SHARED)
    if all(answer.value == own for answer in answers.values()):
        yield Finding(name, "ok", f"every node ({len(answers)}) sees the same")
