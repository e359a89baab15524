"""What is wrong with the files of a dataset."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rsrnet.data.check import published
from rsrnet.data.check.facts import Facts, File, Stamp, usable
from rsrnet.data.check.findings import Finding
from rsrnet.data.errors import DataError
from rsrnet.data.naming import Composite

_LACKING = {"composite_images": "", "masks": "_1", "real_images": "_1_1"}
"""The folders of a sub-dataset, each with what its files' names lack of the name of a composite."""


def on_disk(root: Path, composites: Sequence[Composite]) -> tuple[dict[File, Stamp], list[Finding]]:
    """Find the files that composites need.

    Returns:
        Those that are there, and a finding for each of the others. Where the folder of a whole sub-dataset is
        missing, its files are not named one by one.
    """
    there: dict[File, Stamp] = {}
    missing: dict[str, Finding] = {}
    folders = {composite.folder for composite in composites if (root / composite.folder).is_dir()}
    for composite in composites:
        if composite.folder not in folders:
            continue
        needed = {"composite": composite.path, "mask": composite.mask_path, "real": composite.real_path}
        for kind, path in needed.items():
            file = File(path, kind == "mask")
            if file in there or path in missing:
                continue
            try:
                status = os.stat(root / path)
                there[file] = (status.st_size, status.st_mtime_ns)
            except (FileNotFoundError, NotADirectoryError):
                missing[path] = Finding(f"missing_{kind}", path, f"{composite.name} needs it")
            except OSError:
                there[file] = (0, 0)  # looking at it will say why
    return there, list(missing.values())


def undecodable(
    files: Mapping[File, Stamp], composites: Sequence[Composite], facts: Mapping[str, Facts]
) -> Iterator[Finding]:
    """Find files that cannot be decoded."""
    reals = {composite.real_path for composite in composites}
    for path, is_mask in files:
        if error := facts[path].error:
            kind = "mask" if is_mask else "real" if path in reals else "composite"
            yield Finding(f"undecodable_{kind}", path, error)


def sizes(composites: Sequence[Composite], facts: Mapping[str, Facts]) -> Iterator[Finding]:
    """Find composites whose mask has another size, or perhaps another orientation."""
    for composite in composites:
        image, mask = usable(facts.get(composite.path)), usable(facts.get(composite.mask_path))
        if image is None or mask is None:
            continue
        if image.size == mask.size:
            if image.orientation != mask.orientation and image.stored_size == mask.stored_size:
                # Nothing in the files tells whether the mask was drawn on the picture as stored, or as shown.
                reason = f"their EXIF orientations are {image.orientation} and {mask.orientation}; compare them by eye"
                yield Finding("unclear_orientation", composite.path, reason)
            continue
        reason = "{} x {}, its mask {} x {} pixels".format(*image.size, *mask.size)
        if image.stored_size == mask.stored_size:
            reason += f"; their EXIF orientations are {image.orientation} and {mask.orientation}"
            reason += ", without which both sizes are equal"
            yield Finding("other_orientation", composite.path, reason)
        elif image.size == mask.size[::-1]:
            yield Finding("other_orientation", composite.path, reason + "; one of the two lies on its side")
        else:
            yield Finding("other_size", composite.path, reason)


def masks(files: Mapping[File, Stamp], facts: Mapping[str, Facts], over_half: bool) -> Iterator[Finding]:
    """Find masks that are empty, full or, if asked for, over half of the image."""
    for path, is_mask in files:
        mask = usable(facts[path]) if is_mask else None
        if mask is None:
            continue
        if mask.foreground == 0:
            reason = f"no pixel is 128 or brighter; the brightest is {mask.brightest}"
            yield Finding("mask_empty", path, reason)
        elif mask.share == 1:
            yield Finding("mask_full", path, "every pixel is 128 or brighter")
        elif over_half and mask.share > published.LARGEST_FOREGROUND:
            yield Finding("mask_over_half", path, f"{mask.share:.1%} of the image")


def unknown(root: Path, subsets: set[str]) -> Iterator[Finding]:
    """Find files in the folders of sub-datasets whose names say nothing; hidden ones are left out."""
    for subset in sorted(subsets):
        for folder in _LACKING:
            for name in _listed(root / subset / folder):
                if not name.startswith(".") and not _is_named(name, subset, folder):
                    yield Finding("unknown_file", f"{subset}/{folder}/{name}", "outside the naming scheme")


def _listed(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # its files are reported already, as missing or forbidden
        return []


def _is_named(name: str, subset: str, folder: str) -> bool:
    stem, _, suffix = name.rpartition(".")
    try:
        Composite.parse(f"{subset}/composite_images/{stem}{_LACKING[folder]}.jpg")
    except DataError:
        return False
    return suffix == ("png" if folder == "masks" else "jpg")
