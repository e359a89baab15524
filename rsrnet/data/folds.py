"""Splits for validation that keep all composites of a photograph, or of a scene, on one side.

The official test list shares 1,389 HCOCO photographs with the training list; an ungrouped fold leaks alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from rsrnet.data.errors import DataError
from rsrnet.data.naming import SUBSETS, Composite
from rsrnet.data.selection import keep


class Split(NamedTuple):
    """Two sides without a common photograph or scene, each in the order of the composites given."""

    train: Sequence[Composite]
    val: Sequence[Composite]


def holdout(composites: Sequence[Composite], fraction: float, seed: int) -> Split:
    """Hold out about a fraction of each sub-dataset's composites.

    Membership depends on the seed and the set of composites, not on their order, and one sub-dataset's part
    does not depend on which others are there. A sub-dataset of at least two groups (photographs or scenes)
    gives at least one to each side.

    Args:
        composites: what to split.
        fraction: share of the composites to hold out, above 0 and below 1.
        seed: chooses the groups.

    Raises:
        DataError: if no sub-dataset has two groups.
    """
    held_out: set[str] = set()
    for groups in _groups_by_subset(composites, seed):
        held_out |= _choose(groups, fraction * sum(groups.values()))
    if not held_out:
        raise DataError(
            "nothing to hold out for validation: each sub-dataset has a single photograph or scene;"
            " name a validation list"
        )
    return _split(composites, held_out)


def folds(composites: Sequence[Composite], n: int, seed: int) -> list[Split]:
    """Cut composites into folds of nearly equal size, each the validation side once.

    Args:
        composites: what to split.
        n: number of folds, at least 2.
        seed: chooses the groups of each fold.

    Raises:
        DataError: if there are fewer groups than folds.
    """
    members: list[set[str]] = [set() for _ in range(n)]
    totals = [0] * n
    for groups in _groups_by_subset(composites, seed):
        sizes = [0] * n
        for group, size in groups.most_common():
            smallest = min(range(n), key=lambda fold: (sizes[fold], totals[fold]))
            members[smallest].add(group)
            sizes[smallest] += size
            totals[smallest] += size
    if n < 2 or not all(members):
        number = sum(map(len, members))
        raise DataError(
            f"cannot make {n} folds of {number} photographs or scenes; ask for 2 to {number} folds"
        )
    return [_split(composites, fold) for fold in members]


def _groups_by_subset(composites: Sequence[Composite], seed: int) -> Iterator[Counter[str]]:
    """Yield, for each sub-dataset, its groups in a seeded order with their numbers of composites."""
    for subset, prefix in SUBSETS.items():
        sizes = Counter(composite.group for composite in composites if composite.subset == subset)
        order = np.random.default_rng([seed, ord(prefix)]).permutation(sorted(sizes))
        yield Counter({str(group): sizes[group] for group in order})


def _choose(groups: Counter[str], target: float) -> set[str]:
    """Choose groups, never all, whose sizes add up to about the target."""
    chosen: set[str] = set()
    total = 0
    for group, size in groups.items():
        if abs(total + size - target) < abs(total - target) and len(chosen) + 1 < len(groups):
            chosen.add(group)
            total += size
    if not chosen and len(groups) > 1:
        chosen.add(min(groups, key=groups.__getitem__))
    return chosen


def _split(composites: Sequence[Composite], val_groups: set[str]) -> Split:
    return Split(
        keep(composites, lambda composite: composite.group not in val_groups),
        keep(composites, lambda composite: composite.group in val_groups),
    )
