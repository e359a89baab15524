"""Lists of a dataset: which composites belong to training, validation or test."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from rsrnet.data.config import DataConfig
from rsrnet.data.folds import Split, holdout
from rsrnet.data.naming import Composite
from rsrnet.data.source import open_source


def read_list(root: str | Path, name: str | Path, subsets: Sequence[str] = ()) -> Sequence[Composite]:
    """Read the composites of a list: in the order of the list file of a folder, in the order of a pack.

    Args:
        root: folder of the dataset, or a pack (see :func:`rsrnet.data.source.open_source`).
        name: list file, relative to `root` or absolute, with one path or bare file name of a composite a line;
            of a pack, the name of the list that was packed.
        subsets: sub-datasets to keep, in any case; empty: all.

    Raises:
        DataError: if the dataset, the list or a sub-dataset is missing, a name breaks the scheme, or nothing
            is left.
    """
    return open_source(root).read_list(name, subsets)


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
    """Return a SHA-256 over the names of composites and the sizes of their files, or what a pack holds of them.

    It is the same on every machine, wherever the dataset lies, in whatever order the composites are listed.
    """
    source = open_source(root)
    lines = sorted(f"{item.subset}/{item.name} {source.state(item)}\n" for item in composites)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
