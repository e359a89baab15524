"""The tables of an evaluation, in the units of the paper's: AP and IoU in percent, F1 as a fraction."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan

from rsrnet.evaluation.columns import PAPERS, Setting
from rsrnet.evaluation.published import ALL, TABLE_1, TEST_COMPOSITES, Scores
from rsrnet.evaluation.summary import Slice
from rsrnet_platform.sheet import Sheet

METRICS = ("AP %", "F1", "IoU %")

SYMBOLS = {"m_rsr": "M_rsr", "m_dec": "M_dec", "m_fnl": "M_fnl"}
"""The paper's names of the masks."""

PROTOCOLS = {"published": "published", "raw": "raw (no min-max)"}


def sheets(slices: Sequence[Slice], settings: Sequence[Setting], size: int) -> list[Sheet]:
    """The tables of an evaluation: by sub-dataset beside the paper's, by mask, by protocol and size.

    Args:
        slices: from :func:`rsrnet.evaluation.summary.summarise`; the one over all images is among them.
        settings: what was scored.
        size: side of the network's input, in pixels.
    """
    everything = next(part for part in slices if part.name == ALL)
    # A single sub-dataset is all there is.
    shown = [part for part in slices if part is not everything] if len(slices) == 2 else slices
    return [by_subset(shown, size), by_mask(shown), by_treatment(everything, settings, size)]


def by_subset(slices: Sequence[Slice], size: int) -> Sheet:
    """M_fnl on each slice with its standard error, and the paper's numbers under it, where the paper has them."""
    present = {part.name for part in slices}
    rows = []
    for part in slices:
        ours, errors = texts(part.scores(PAPERS)), texts(part.score_errors(PAPERS))
        pairs = zip(ours, errors, strict=True)
        scores = [value if error == "nan" else f"{value} ± {error}" for value, error in pairs]
        rows.append([part.name, f"{part.images:,}", *scores])
        # The mean over other images than the paper's is nothing to compare with.
        if part.name in TABLE_1 and (part.name != ALL or present.issuperset(TABLE_1)):
            rows.append(["  paper", f"{TEST_COMPOSITES[part.name]:,}", *texts(TABLE_1[part.name])])
    title = f"M_fnl, published protocol, {size} x {size} (± standard error)"
    return Sheet(title, ["dataset", "images", *METRICS], rows)


def by_mask(slices: Sequence[Slice]) -> Sheet:
    """The three masks one under the other, as Table 3 has them side by side."""
    rows = [
        [f"{part.name}: {SYMBOLS[mask]}", *texts(part.scores(PAPERS._replace(mask=mask)))]
        for part in slices
        for mask in SYMBOLS
    ]
    return Sheet("The three masks, published protocol", ["dataset and mask", *METRICS], rows)


def by_treatment(everything: Slice, settings: Sequence[Setting], size: int) -> Sheet:
    """M_fnl over all images under each protocol and at each size."""
    rows = [
        [f"{PROTOCOLS[setting.protocol]}, {_place(setting, size)}", *texts(everything.scores(setting))]
        for setting in settings
        if setting.mask == PAPERS.mask
    ]
    return Sheet(f"M_fnl, all {everything.images:,} images", ["protocol and size", *METRICS], rows)


def texts(scores: Scores) -> list[str]:
    """AP and IoU in percent, F1 as a fraction: as the paper prints them."""
    return [f"{100 * scores.ap:.2f}", f"{scores.f1:.4f}", f"{100 * scores.iou:.2f}"]


def with_error(change: float, error: float) -> str:
    """A difference and its standard error, which a single image does not have."""
    return f"{change:+.4f}" + ("" if isnan(error) else f" ± {error:.4f}")


def _place(setting: Setting, size: int) -> str:
    return f"{size} x {size}" if setting.place == "input" else "images' own size"
