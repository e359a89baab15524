"""Means by sub-dataset, and the paper's numbers."""

from __future__ import annotations

from statistics import fmean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsrnet.data.naming import SUBSETS
from rsrnet.evaluation.columns import METRICS, PAPERS, settings
from rsrnet.evaluation.published import ALL, TABLE_1, TEST_COMPOSITES, Scores
from rsrnet.evaluation.summary import summarise

SETTINGS = settings(native=False)


def row(subset: str, image_id: str, score: float) -> dict[str, Any]:
    scores = {setting.column(metric): score for setting in SETTINGS for metric in METRICS}
    return {"subset": subset, "image_id": image_id, "group": f"{subset}/{image_id}", **scores}


images = st.lists(
    st.tuples(st.sampled_from(sorted(SUBSETS)), st.integers(0, 5), st.floats(0, 1)), min_size=1, max_size=30
)


@given(images, st.sets(st.integers(0, 5)))
def test_means_are_over_single_images(found: list[tuple[str, int, float]], trained: set[int]) -> None:
    seen = {f"HCOCO/{image}" for image in trained}
    rows = [row(subset, str(image), score) for subset, image, score in found]
    slices = {part.name: part for part in summarise(rows, SETTINGS, seen)}
    for name in {subset for subset, _, _ in found} | {ALL}:
        scores = [score for subset, _, score in found if name in (subset, ALL)]
        part = slices.pop(name)
        assert part.images == len(scores)
        assert part.scores(PAPERS) == pytest.approx(Scores(*[fmean(scores)] * 3))
        unseen = [
            score
            for subset, image, score in found
            if name in (subset, ALL) and f"{subset}/{image}" not in seen
        ]
        if 0 < len(unseen) < len(scores):
            clean = slices.pop(f"{name}, leak-free")
            assert clean.images == len(unseen)
            assert clean.scores(PAPERS).iou == pytest.approx(fmean(unseen))
    assert not slices


def test_slices_come_in_the_papers_order_and_all_is_last() -> None:
    rows = [row(subset, "1", 0.5) for subset in ("Hday2night", "HFlickr", "HCOCO", "HAdobe5k")]
    assert [part.name for part in summarise(rows, SETTINGS)] == [
        "HCOCO", "HAdobe5k", "HFlickr", "Hday2night", ALL,
    ]  # fmt: skip


def test_nothing_scored_is_refused() -> None:
    with pytest.raises(ValueError, match="no image"):
        summarise([], SETTINGS)


def test_papers_sub_datasets_do_not_add_up_to_its_mean_over_all_images() -> None:
    """What the module says of the paper's table."""
    subsets = [name for name in TABLE_1 if name != ALL]
    assert sum(TEST_COMPOSITES[name] for name in subsets) == TEST_COMPOSITES[ALL] == 7237
    weighted = [
        sum(TEST_COMPOSITES[name] * TABLE_1[name][metric] for name in subsets) / 7237 for metric in range(3)
    ]
    assert weighted == pytest.approx([0.830, 0.766, 0.721], abs=5e-4)
    assert max(abs(mean - printed) for mean, printed in zip(weighted, TABLE_1[ALL], strict=True)) < 0.0055
