"""How sure the differences between rows are, against SciPy and the plain formula; what the tables say of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rsrnet.evaluation.ablations import LABELS
from rsrnet.evaluation.columns import METRICS, PAPERS
from rsrnet.validation import MASKS
from rsrnet_platform.ablation import tables
from rsrnet_platform.ablation.estimates import Measured

SCORES = st.lists(st.floats(0, 1), min_size=10, max_size=30)


def images(scores: Sequence[float], group: Sequence[int] | None = None) -> list[dict[str, Any]]:
    """Rows of images that score so, whatever the mask and the metric; each a photograph of its own by default."""
    columns = [PAPERS._replace(mask=mask).column(metric) for mask in MASKS for metric in METRICS]
    groups = group or range(len(scores))
    return [
        {"subset": "HCOCO", "group": f"c{number}", **dict.fromkeys(columns, score)}
        for number, score in zip(groups, scores, strict=True)
    ]


@given(SCORES, st.integers(2, 5))
def test_composites_of_the_same_photographs_bring_no_certainty(scores: list[float], copies: int) -> None:
    once = Measured({("full", 1): images(scores)}).score("full", "m_fnl", "iou")
    groups = [number for number in range(len(scores)) for _ in range(copies)]
    often = Measured({("full", 1): images(np.repeat(scores, copies).tolist(), groups)})
    found = often.score("full", "m_fnl", "iou")
    assert (found.value, found.error) == pytest.approx((once.value, once.error), abs=1e-12)
    assert (often.images, often.photographs) == (copies * len(scores), len(scores))


def test_nothing_is_clear_of_few_photographs_and_one_has_no_error() -> None:
    errors = []
    for number in (1, 2, 9):
        groups = [index % number for index in range(90)]
        measured = Measured(
            {(row, 1): images([score] * 90, groups) for row, score in (("full", 0.1), ("unet", 0.9))}
        )
        found = measured.difference("unet", "m_fnl", "iou")
        assert found is not None
        assert not found.clear
        errors.append(found.error)
    assert math.isnan(errors[0])
    assert errors[1:] == pytest.approx([0, 0], abs=1e-12)


@given(SCORES, st.integers(0, 2**32 - 1), st.floats(-0.2, 0.2))
def test_with_one_seed_the_test_is_students_paired_one(scores: list[float], seed: int, shift: float) -> None:
    full = np.array(scores)
    other = full + shift + np.random.default_rng(seed).normal(0, 0.1, len(full))
    measured = Measured({("full", 1): images(full.tolist()), ("unet", 1): images(other.tolist())})
    found = measured.difference("unet", "m_fnl", "iou")
    assert found is not None
    expected = stats.ttest_rel(other, full)
    assert found.value == pytest.approx((other - full).mean())
    assert found.clear == (expected.pvalue < 0.05)


def test_seeds_that_disagree_make_a_difference_unclear() -> None:
    rng = np.random.default_rng(0)
    full = rng.uniform(0.3, 0.6, 200)
    one_seed = {("full", 1): images(full), ("unet", 1): images(full + 0.1 + rng.normal(0, 0.01, 200))}
    alone = Measured(one_seed).difference("unet", "m_fnl", "iou")
    second = {("full", 2): images(full), ("unet", 2): images(full - 0.08 + rng.normal(0, 0.01, 200))}
    both = Measured(one_seed | second).difference("unet", "m_fnl", "iou")
    assert alone is not None
    assert both is not None
    assert alone.clear
    assert not both.clear
    assert both.spread == pytest.approx(0.18 / math.sqrt(2), rel=0.05)


def test_differences_take_only_seeds_that_both_have() -> None:
    measured = Measured(
        {("full", 1): images([0.5, 0.6]), ("unet", 1): images([0.4, 0.5]), ("unet", 2): images([0.0, 0.0])}
    )
    found = measured.difference("unet", "m_fnl", "iou")
    assert found is not None
    assert (found.value, found.seeds) == (pytest.approx(-0.1), 1)
    assert measured.score("unet", "m_fnl", "iou").value == pytest.approx(0.225)
    without = Measured({("unet", 1): images([0.4, 0.5])})
    assert without.difference("unet", "m_fnl", "iou") is None
    assert [sheet.title.split(":")[0] for sheet in tables.sheets(without)] == ["Table 2"]


def test_all_tables_fit_into_100_columns(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    rng = np.random.default_rng(1)
    measured = Measured({(row, seed): images(rng.uniform(0, 1, 12)) for row in LABELS for seed in (1, 2)})
    for sheet in tables.sheets(measured):
        Console(width=tables.WIDTH).print(sheet.for_terminal())
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    # No cell was broken: 9 rows, 15 rows, 8 differences.
    assert sum(line.startswith("│") for line in lines) == 9 + 15 + 8


def test_remarks_say_what_a_small_test_set_can_tell() -> None:
    few = Measured({("full", 1): images([0.5, 0.6]), ("unet", 1): images([0.4, 0.5])})
    said = " ".join(tables.remarks(few, 64, ["rsr-1 is missing: failed, out of memory"]))
    assert "ours of 2 at 64 x 64" in said
    assert "2 test photographs are too few" in said
    assert "rsr-1 is missing: failed, out of memory" in said
    papers = [0.5] * 7237
    many = Measured({(row, seed): images(papers) for row in ("full", "unet") for seed in (1, 2)})
    assert tables.remarks(many, 224, []) == [
        "0 of the 1 differences to the full model are larger than chance at 5% each, judged by the 7,237 "
        "photographs (or scenes) of the test list."
    ]
