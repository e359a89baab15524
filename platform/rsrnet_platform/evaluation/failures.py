"""Where a model fails: mean scores by size and area of the region, sub-dataset and difference in colour.

Standard errors are over photographs (:mod:`rsrnet.evaluation.uncertainty`): larger where a bin has many composites
of few.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rsrnet.data.naming import SUBSETS
from rsrnet.evaluation.uncertainty import error_of_sum

if TYPE_CHECKING:
    import pyarrow as pa

METRICS = {"f1": "m_fnl.published.input.f1", "iou": "m_fnl.published.input.iou"}
"""What is averaged: name in :func:`slices` and column of the table of images."""

FEW = 20
"""With fewer photographs than this, a mean is shown as uncertain and no conclusion is drawn from it."""

CONFIDENCE = 0.95

NEGLIGIBLE = 0.01
"""A difference in F1 that is not worth a sentence."""

UNKNOWN = "none"
"""Label of the bin of images that do not have the property, such as a region without surroundings."""


@dataclass(frozen=True)
class Property:
    """What images are sorted into bins by."""

    name: str
    axis: str
    """Name on an axis, with the unit."""

    sentence: str
    """Tells of the images of a bin; ``{}`` stands for its label."""

    edges: tuple[float, ...] = ()
    """Of the bins, each of which includes its upper edge; empty: every value is a bin."""


PROPERTIES = (
    Property(
        "region_pixels",
        "size of the region, pixels",
        "where the region has {} pixels",
        (0, 300, 1e3, 3e3, 1e4, 3e4, 1e5, 3e5, 1e6, 3e6, math.inf),
    ),
    Property(
        "area_percent",
        "area of the region, % of the image",
        "where the region covers {} % of the image",
        (0, 1, 2, 5, 10, 20, 35, 50, 100),
    ),
    Property("subset", "sub-dataset", "on {}"),
    Property(
        "colour_difference",
        "colour difference between region and surroundings, CIE76",
        "where region and surroundings differ in colour by {}",
        (0, 5, 10, 15, 20, 30, 40, 60, math.inf),
    ),
)


def scored(table: pa.Table) -> pa.Table:
    """The images that have scores, that is all but those that could not be read."""
    import pyarrow.compute as pc

    return table.filter(pc.is_finite(table[METRICS["f1"]]))


def slices(table: pa.Table) -> pa.Table:
    """Mean scores of the images of every bin of every property.

    Args:
        table: a row for each image with ``subset``, ``group`` (the photograph or scene), ``width``, ``height``
            (native, pixels), ``area_fraction``, ``colour_difference`` and the columns of :data:`METRICS`. Rows
            without scores are left out.

    Returns:
        A row for each bin, in order: ``property``, ``bin`` (label), ``low`` and ``high`` (edges; null where there
        are none), ``images``, ``photographs``, then for F1 and IoU the mean, such as ``f1``, and its standard
        error ``f1_se``; ``f1_elsewhere``, the mean over all other images, with ``photographs_elsewhere`` and the
        standard error ``f1_difference_se`` of the difference. Empty bins between others are included. What
        cannot be computed is null.

    Raises:
        ValueError: if no image has scores.
    """
    import pyarrow as pa

    columns = _columns(scored(table))
    rows = [
        {"property": each.name, **described, **_summary(columns, members)}
        for each in PROPERTIES
        for described, members in _bins(each, columns[each.name])
    ]
    texts, counts = ("property", "bin"), ("images", "photographs", "photographs_elsewhere")
    types = dict.fromkeys(texts, pa.string()) | dict.fromkeys(counts, pa.int64())
    return pa.table(
        {
            name: pa.array([row[name] for row in rows], types.get(name, pa.float64()), from_pandas=True)
            for name in rows[0]
        }
    )


def verdict(bins: pa.Table) -> str:
    """A sentence that says where the model fails most.

    That is the bin with the lowest F1 among those whose F1 is below that of all other images by more than the
    error of the difference, at a confidence of 95 % for all bins together (Bonferroni).

    Args:
        bins: from :func:`slices`.
    """
    rows = [row for row in bins.to_pylist() if _comparable(row)]
    if not rows:
        return "Too few photographs to tell where the model fails"
    z = NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / 2 / len(rows))
    worse = [
        row for row in rows if row["f1_elsewhere"] - row["f1"] > max(z * row["f1_difference_se"], NEGLIGIBLE)
    ]
    if not worse:
        return "No bin's F1 is below that of the other images by more than the error"
    worst = min(worse, key=lambda row: row["f1"])
    where = next(each for each in PROPERTIES if each.name == worst["property"]).sentence
    half = half_width(worst["f1_difference_se"])
    return (
        f"Fails most {where.format(worst['bin'])}: F1 {worst['f1']:.2f} there, {worst['f1_elsewhere']:.2f} "
        f"elsewhere (difference {worst['f1_elsewhere'] - worst['f1']:.2f} ± {half:.2f})"
    )


def half_width(standard_error: float) -> float:
    """Half of the interval that has the mean inside with a confidence of 95 %, for many photographs."""
    return NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * standard_error


def _comparable(row: Mapping[str, Any]) -> bool:
    return row["bin"] != UNKNOWN and min(row["photographs"], row["photographs_elsewhere"]) >= FEW


def _columns(table: pa.Table) -> dict[str, NDArray[Any]]:
    """The properties, the scores and the number of the photograph of every image."""
    if not table.num_rows:
        raise ValueError("no image was scored")
    # Without Arrow's own nulls: an unknown colour difference is NaN.
    plain: dict[str, NDArray[Any]] = {
        name: np.asarray(table[name].to_pylist(), dtype) for name, dtype in _TYPES.items()
    }
    return {
        "region_pixels": np.rint(plain["area_fraction"] * plain["width"] * plain["height"]),
        "area_percent": 100 * plain["area_fraction"],
        "subset": plain["subset"],
        "colour_difference": plain["colour_difference"],
        "photograph": np.unique(plain["group"], return_inverse=True)[1],
        **{name: plain[column] for name, column in METRICS.items()},
    }


_TYPES: dict[str, type] = {
    **dict.fromkeys(("subset", "group"), str),
    **dict.fromkeys(("width", "height", "area_fraction", "colour_difference", *METRICS.values()), float),
}


def _bins(each: Property, values: NDArray[Any]) -> Iterator[tuple[dict[str, Any], NDArray[np.bool_]]]:
    """Label, edges and members of the bins of a property."""
    if not each.edges:
        known = [name for name in SUBSETS if name in values]
        for name in [*known, *sorted(set(values.tolist()).difference(known))]:
            yield {"bin": name, "low": None, "high": None}, values == name
        return
    last = len(each.edges) - 2
    number = np.clip(np.searchsorted(each.edges, values, side="left") - 1, 0, last)
    number[np.isnan(values)] = -1
    there = number[number >= 0]
    for index in range(there.min(), there.max() + 1) if len(there) else ():
        low, high = each.edges[index : index + 2]
        yield {"bin": _label(low, high), "low": low, "high": high}, number == index
    if (number < 0).any():
        yield {"bin": UNKNOWN, "low": None, "high": None}, number < 0


def _label(low: float, high: float) -> str:
    """Such as ``0–5``, ``10–30k``, ``0.3–1M`` or ``> 60``."""
    largest = low if math.isinf(high) else high
    unit, letter = next((unit, letter) for unit, letter in _UNITS if largest >= unit)
    first, last = (f"{edge / unit:g}" for edge in (low, high))
    return f"> {first}{letter}" if math.isinf(high) else f"{first}–{last}{letter}"


_UNITS = ((1e6, "M"), (1e3, "k"), (1, ""))


def _summary(columns: Mapping[str, NDArray[Any]], members: NDArray[np.bool_]) -> dict[str, Any]:
    """Numbers, means and standard errors of the images of a bin."""
    photograph = columns["photograph"]
    found: dict[str, Any] = {
        "images": int(members.sum()),
        "photographs": len(np.unique(photograph[members])),
        "photographs_elsewhere": len(np.unique(photograph[~members])),
    }
    influences = {}
    for name in METRICS:
        found[name], influences[name] = _mean(columns[name], members)
        found[f"{name}_se"] = float(error_of_sum(influences[name], photograph[members]))
    found["f1_elsewhere"], elsewhere = _mean(columns["f1"], ~members)
    difference = np.concatenate([influences["f1"], -elsewhere])
    found["f1_difference_se"] = (
        float(error_of_sum(difference, np.concatenate([photograph[members], photograph[~members]])))
        if len(elsewhere) and len(influences["f1"])
        else math.nan
    )
    return found


def _mean(scores: NDArray[np.float64], members: NDArray[np.bool_]) -> tuple[float, NDArray[np.float64]]:
    """Mean over the members, and how much each of them moves it; NaN without any."""
    chosen = scores[members]
    mean = float(chosen.mean()) if len(chosen) else math.nan
    return mean, (chosen - mean) / max(len(chosen), 1)
