"""List files: which composites of a dataset belong to training, validation or test."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rsrnet.data.config import DataConfig
from rsrnet.data.errors import DataError
from rsrnet.data.folds import Split, holdout
from rsrnet.data.naming import Composite, canonical_subset


def read_list(root: str | Path, name: str | Path, subsets: Sequence[str] = ()) -> list[Composite]:
    """Read the composites of a list file, in its order.

    Args:
        root: folder of the dataset.
        name: list file, relative to `root` or absolute; one path or bare file name of a composite a line.
        subsets: sub-datasets to keep, in any case; empty: all.

    Raises:
        DataError: if the folder, the list or a sub-dataset is missing, a name breaks the scheme, or nothing
            is left.
    """
    root = Path(root)
    require_folder(root)
    path = root / name
    wanted = {canonical_subset(subset) for subset in subsets}
    listed = _parse_lines(path, read_lines(root, path))
    kept = [composite for composite in listed if not wanted or composite.subset in wanted]
    if not kept:
        present = ", ".join(sorted({composite.subset for composite in listed}))
        what = (
            f"only composites of {present}, not of {', '.join(sorted(wanted))}" if listed else "no composite"
        )
        raise DataError(f"{path} lists {what}; choose another list or other sub-datasets")
    return _with_folders_on_disk(root, path, kept)


def require_folder(root: Path) -> None:
    """Make sure that a dataset's folder is there and may be read.

    Raises:
        DataError: if it is not.
    """
    try:
        with os.scandir(root):
            os.stat(
                os.path.join(root, os.curdir)
            )  # a folder may be listed, and its files still be out of reach
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(
            f"there is no dataset folder {root}; name the folder that holds the sub-datasets and lists"
        ) from error
    except OSError as error:
        raise DataError(f"the dataset folder {root} cannot be read ({error.strerror})") from error


def read_train_val(config: DataConfig, seed: int) -> Split:
    """Read the training and validation composites that a configuration asks for.

    Args:
        config: with a validation list, or without one: a share of the training list is held out.
        seed: chooses the composites that are held out.

    Raises:
        DataError: as :func:`read_list` and :func:`rsrnet.data.folds.holdout`.
    """
    train = read_list(config.root, config.train, config.subsets)
    if config.val is None:
        return holdout(train, config.val_fraction, seed)
    return Split(train, read_list(config.root, config.val, config.subsets))


def fingerprint(root: str | Path, composites: Sequence[Composite]) -> str:
    """Return a SHA-256 over the names and the file sizes of composites and their masks.

    It is the same on every machine, wherever the dataset lies, in whatever order the composites are listed.
    """
    lines = sorted(
        f"{item.subset}/{item.name} {_size(root, item.path)} {_size(root, item.mask_path)}\n"
        for item in composites
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _size(root: str | Path, path: str) -> str:
    try:
        return str(Path(root, path).stat().st_size)
    except OSError:
        return "missing"


def read_lines(root: Path, path: Path) -> list[str]:
    """Read the lines of a list file, whatever they say.

    Args:
        root: folder of the dataset, whose lists are named if this one is missing.
        path: the list file.

    Raises:
        DataError: if there is no such file, it may not be read, or it is not text.
    """
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        found = ", ".join(sorted(other.name for other in root.glob("*.txt"))) or "no list"
        raise DataError(f"there is no list {path}; {root} holds {found}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a list: it is not UTF-8 text ({error})") from error
    except OSError as error:
        raise DataError(f"the list {path} cannot be read ({error.strerror})") from error


def folders_on_disk(root: Path) -> dict[str, str]:
    """Return the folders in a dataset as spelled on disk, each under its name in lower case."""
    return {entry.name.lower(): entry.name for entry in root.iterdir() if entry.is_dir()}


def _parse_lines(path: Path, lines: list[str]) -> list[Composite]:
    composites = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            composites.append(Composite.parse(line.strip()))
        except DataError as error:
            raise DataError(f"{path}, line {number}: {error}") from error
    return composites


def _with_folders_on_disk(root: Path, path: Path, composites: list[Composite]) -> list[Composite]:
    """Give each composite the spelling its sub-dataset's folder has on disk."""
    on_disk = folders_on_disk(root)
    for folder, count in Counter(composite.folder for composite in composites).items():
        if folder.lower() not in on_disk:
            raise DataError(
                f"{path} lists {count} composites of {folder}, but {root} has no folder {folder};"
                " add it, or choose the sub-datasets that are there"
            )
    exact = set(on_disk.values())
    return [
        composite if composite.folder in exact else composite.in_folder(on_disk[composite.folder.lower()])
        for composite in composites
    ]
