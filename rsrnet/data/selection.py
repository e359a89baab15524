"""Choosing among composites without making an object of each that is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rsrnet.data.errors import DataError
from rsrnet.data.naming import Composite, canonical_subset


@runtime_checkable
class Selectable(Protocol):
    """A sequence that can give some of its composites as another one like it."""

    def at(self, places: NDArray[np.uint32]) -> Sequence[Composite]:
        """The composites at these positions, which ascend."""


def keep(composites: Sequence[Composite], wanted: Callable[[Composite], bool]) -> Sequence[Composite]:
    """Return the composites that are wanted, in their order: of a pack lazily, else as a list."""
    if isinstance(composites, Selectable):
        places = (place for place, composite in enumerate(composites) if wanted(composite))
        return composites.at(np.fromiter(places, np.uint32))
    return [composite for composite in composites if wanted(composite)]


def of_subsets(
    where: str | Path, composites: Sequence[Composite], subsets: Sequence[str]
) -> Sequence[Composite]:
    """Return the composites of some sub-datasets.

    Args:
        where: the list, to be named if nothing is left.
        composites: all of the list.
        subsets: sub-datasets to keep, in any case; empty: all.

    Raises:
        DataError: if there is no such sub-dataset, or nothing is left.
    """
    wanted = {canonical_subset(subset) for subset in subsets}
    kept = keep(composites, lambda composite: composite.subset in wanted) if wanted else composites
    if not kept:
        present = ", ".join(sorted({composite.subset for composite in composites}))
        what = (
            f"only composites of {present}, not of {', '.join(sorted(wanted))}"
            if composites
            else "no composite"
        )
        raise DataError(f"{where} lists {what}; choose another list or other sub-datasets")
    return kept
