"""Tables 2 and 3 with the paper's numbers and ours side by side, and what may be concluded from them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rsrnet.evaluation.ablations import FULL, LABELS, TABLE_2, TABLE_3
from rsrnet.evaluation.columns import METRICS, PAPERS
from rsrnet.evaluation.published import ALL, TEST_COMPOSITES, Scores
from rsrnet_platform.ablation.estimates import FEW, LEVEL, Estimate, Measured
from rsrnet_platform.evaluation.tables import METRICS as HEADS
from rsrnet_platform.evaluation.tables import texts
from rsrnet_platform.sheet import Sheet

PAPERS_SIZE = 224

WIDTH = 100
"""Characters of the widest table."""


def sheets(measured: Measured) -> list[Sheet]:
    """Table 2; Table 3, if any of its rows was tested; the differences to the full model, if that was."""
    found = [table_2(measured)]
    if any(row in TABLE_3 for row in measured.rows):
        found.append(table_3(measured))
    if FULL in measured.rows and len(measured.rows) > 1:
        found.append(differences(measured))
    return found


def table_2(measured: Measured) -> Sheet:
    """M_fnl of every row."""
    rows = [
        [f"{number} {label}", *_beside(TABLE_2[row], _scores(measured, row, PAPERS.mask))]
        for number, (row, label) in enumerate(LABELS.items(), start=1)
        if row in measured.rows
    ]
    return Sheet("Table 2: M_fnl, the paper's and ours", ["row", *_heads(measured)], rows)


def table_3(measured: Measured) -> Sheet:
    """Every mask of the rows that have all three."""
    rows = [
        [
            LABELS[row] if mask == "m_rsr" else "",
            mask.removeprefix("m_"),
            *_beside(printed, _scores(measured, row, mask)),
        ]
        for row, masks in TABLE_3.items()
        if row in measured.rows
        for mask, printed in masks.items()
    ]
    return Sheet(
        "Table 3: M_rsr, M_dec and M_fnl, the paper's and ours", ["RSR", "M", *_heads(measured)], rows
    )


def differences(measured: Measured) -> Sheet:
    """IoU of M_fnl less the full model's, and how sure that is."""
    rows = []
    for row in measured.rows:
        found = measured.difference(row, PAPERS.mask, "iou")
        if found is not None:
            papers = 100 * (TABLE_2[row].iou - TABLE_2[FULL].iou)
            numbers = [
                f"{papers:+.2f}",
                f"{100 * found.value:+.2f}",
                _points(found.error),
                _points(found.spread),
            ]
            rows.append([LABELS[row], *numbers, "yes" if found.clear else "no"])
    columns = ["row", "paper", "ours", "s.e., photographs", "s.d., seeds", f"clear ({LEVEL:.0%})"]
    return Sheet("IoU % of M_fnl less the full model's, paired by image", columns, rows)


def remarks(measured: Measured, size: int, others: Sequence[str]) -> list[str]:
    """What has to be known to read the tables.

    Args:
        measured: what was tested.
        size: side of the networks' input, in pixels.
        others: the trainings that are missing, each with the reason.
    """
    return [*_about_data(measured, size), *_about_chance(measured), *others]


def _about_data(measured: Measured, size: int) -> Iterator[str]:
    if (measured.images, size) != (TEST_COMPOSITES[ALL], PAPERS_SIZE):
        yield (
            f"The paper's numbers are of {TEST_COMPOSITES[ALL]:,} images of iHarmony4 at {PAPERS_SIZE} x "
            f"{PAPERS_SIZE}, ours of {measured.images:,} at {size} x {size}: compare signs and order, not values."
        )


def _about_chance(measured: Measured) -> Iterator[str]:
    found = [each for row in measured.rows if (each := measured.difference(row, PAPERS.mask, "iou"))]
    if measured.photographs < FEW:
        yield f"{measured.photographs} test photographs are too few to tell one row from another."
    elif found:
        clear = sum(each.clear for each in found)
        yield (
            f"{clear} of the {len(found)} differences to the full model are larger than chance at {LEVEL:.0%} each, "
            f"judged by the {measured.photographs:,} photographs (or scenes) of the test list."
        )
    if measured.most_seeds == 1:
        yield "Each row was trained once; how much another seed changes is not known: set repeats to 3."


def _scores(measured: Measured, row: str, mask: str) -> list[Estimate]:
    return [measured.score(row, mask, metric) for metric in METRICS]


def _heads(measured: Measured) -> list[str]:
    """Names of the columns of numbers: the paper's and ours of each metric."""
    ours = "ours ± s.d." if measured.most_seeds > 1 else "ours ± s.e."
    return [text for head in HEADS for text in (head, ours)]


def _beside(papers: Scores, ours: Sequence[Estimate]) -> list[str]:
    """The paper's and ours of each metric; ours with the spread over the seeds, or else the error over photographs."""
    cells = []
    for metric, printed, found in zip(METRICS, texts(papers), ours, strict=True):
        scale, digits = (1, 3) if metric == "f1" else (100, 1)
        around = found.error if math.isnan(found.spread) else found.spread
        error = "" if math.isnan(around) else f" ± {scale * around:.{digits}f}"
        cells += [printed, f"{scale * found.value:.{digits}f}{error}"]
    return cells


def _points(value: float) -> str:
    return "" if math.isnan(value) else f"{100 * value:.2f}"
