"""From the rows of single images to the means that tables show: by sub-dataset, over all images, without leaks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import numpy as np

from rsrnet.data.naming import SUBSETS
from rsrnet.evaluation.columns import METRICS, Setting
from rsrnet.evaluation.published import ALL, Scores
from rsrnet.evaluation.uncertainty import standard_error

LEAK_FREE = "leak-free"
"""Ends the names of slices without the photographs that the training list has too."""


@dataclass(frozen=True)
class Slice:
    """Some of the images, with the means of their scores."""

    name: str
    """A sub-dataset, ``All``, or either followed by ``leak-free``."""

    images: int
    means: Mapping[str, float]
    """Mean of every column of scores over the images."""

    errors: Mapping[str, float]
    """Standard error of each mean over the photographs; NaN for a single one."""

    def scores(self, setting: Setting) -> Scores:
        """Mean AP, F1 and IoU under a setting."""
        return Scores(*(self.means[setting.column(metric)] for metric in METRICS))

    def score_errors(self, setting: Setting) -> Scores:
        """Standard errors of the three."""
        return Scores(*(self.errors[setting.column(metric)] for metric in METRICS))


def summarise(
    rows: Sequence[Mapping[str, Any]], settings: Iterable[Setting], trained: AbstractSet[str] = frozenset()
) -> list[Slice]:
    """Mean scores over the images of each sub-dataset, and over all images.

    The published split has photographs on both sides: 1,389 in HCOCO, on which 1,804 of its 4,256 test composites
    stand. A slice with unseen photographs only follows the slices that have both kinds.

    Args:
        rows: of the images that could be scored.
        settings: what was scored.
        trained: photographs that the model was trained on, each as ``SUBSET/image id``.

    Raises:
        ValueError: if there is no row.
    """
    if not rows:
        raise ValueError("no image was scored")
    columns = [setting.column(metric) for setting in settings for metric in METRICS]
    values = np.array([[row[column] for column in columns] for row in rows], dtype=np.float64)
    subset = np.array([row["subset"] for row in rows])
    seen = np.array([photograph(row) in trained for row in rows])
    present = [name for name in SUBSETS if (subset == name).any()]
    chosen: list[tuple[str, np.ndarray]] = []
    for name in [*present, ALL]:
        members = np.ones(len(rows), bool) if name == ALL else subset == name
        chosen.append((name, members))
        unseen = members & ~seen
        if 0 < unseen.sum() < members.sum():
            chosen.append((f"{name}, {LEAK_FREE}", unseen))
    groups = np.array([row["group"] for row in rows])
    return [_slice(name, columns, values[members], groups[members]) for name, members in chosen]


def photograph(image: Mapping[str, Any]) -> str:
    """Which photograph the image of a row was made from."""
    return f"{image['subset']}/{image['image_id']}"


def _slice(name: str, columns: Sequence[str], values: np.ndarray, groups: np.ndarray) -> Slice:
    return Slice(
        name,
        len(values),
        dict(zip(columns, values.mean(axis=0).tolist(), strict=True)),
        dict(zip(columns, standard_error(values, groups).tolist(), strict=True)),
    )
