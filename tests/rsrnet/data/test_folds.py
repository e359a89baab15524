"""Held-out shares and folds: grouped, stratified, seeded."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsrnet.data.errors import DataError
from rsrnet.data.folds import Split, folds, holdout
from rsrnet.data.naming import Composite

# Few ids, so that photographs and scenes come often.
published_names = st.one_of(
    st.from_regex(r"[cf][1-9]_[1-3]_[1-3]\.jpg", fullmatch=True),
    st.from_regex(r"a000[1-9]_1_[1-5]\.jpg", fullmatch=True),
    st.from_regex(r"d[1-4]-2013041[0-2]-18183[0-2]_1_[1-9]\.jpg", fullmatch=True),
    st.from_regex(r"s(cat|dog|fox|owl)-00[1-4]_[12]_[1-4]\.jpg", fullmatch=True),
)
datasets = st.lists(published_names, min_size=2, max_size=80, unique=True).map(
    lambda names: [Composite.parse(name) for name in names]
)


def photographs(name: str) -> str:
    """What may not be split, by the facts about the names, not by our parser."""
    stem = name.split("_")[0]
    return stem.split("-")[0] if stem[0] in "ds" else stem


def sides(split: Split) -> tuple[set[str], set[str]]:
    train, val = ({composite.name for composite in side} for side in split)
    return train, val


def assert_nothing_is_shared_or_lost(split: Split, composites: list[Composite]) -> None:
    train, val = sides(split)
    assert not {photographs(name) for name in train} & {photographs(name) for name in val}
    assert sorted(train | val) == sorted(composite.name for composite in composites)
    assert len(split.train) + len(split.val) == len(composites)


def has_a_choice(composites: list[Composite]) -> bool:
    """Whether some sub-dataset has two photographs."""
    return max(Counter(group[0] for group in {photographs(c.name) for c in composites}).values()) > 1


@given(composites=datasets, fraction=st.floats(0.01, 0.99), seed=st.integers(0, 2**32 - 1))
def test_no_photograph_or_scene_is_on_both_sides(
    composites: list[Composite], fraction: float, seed: int
) -> None:
    if not has_a_choice(composites):
        with pytest.raises(DataError, match="nothing to hold out"):
            holdout(composites, fraction, seed)
        return
    split = holdout(composites, fraction, seed)
    assert split.train
    assert split.val
    assert_nothing_is_shared_or_lost(split, composites)


@given(composites=datasets, n=st.integers(2, 5), seed=st.integers(0, 2**32 - 1))
def test_folds_share_no_photograph_and_cover_everything_once(
    composites: list[Composite], n: int, seed: int
) -> None:
    if len({photographs(composite.name) for composite in composites}) < n:
        with pytest.raises(DataError, match=f"cannot make {n} folds"):
            folds(composites, n, seed)
        return
    splits = folds(composites, n, seed)
    assert len(splits) == n
    for split in splits:
        assert split.train
        assert split.val
        assert_nothing_is_shared_or_lost(split, composites)
    validated = [composite for split in splits for composite in split.val]
    assert sorted(c.name for c in validated) == sorted(c.name for c in composites)


@given(composites=datasets.filter(has_a_choice), shuffle=st.randoms(use_true_random=False))
def test_order_of_the_list_does_not_matter(composites: list[Composite], shuffle: random.Random) -> None:
    mixed = composites.copy()
    shuffle.shuffle(mixed)
    assert sides(holdout(mixed, 0.3, 7)) == sides(holdout(composites, 0.3, 7))
    if len({photographs(composite.name) for composite in composites}) >= 3:
        assert [sides(split) for split in folds(mixed, 3, 7)] == [
            sides(split) for split in folds(composites, 3, 7)
        ]


def coco(photographs: int, each: int) -> list[Composite]:
    return [Composite.parse(f"c{i}_1_{k + 1}.jpg") for i in range(photographs) for k in range(each)]


def flickr(photographs: int) -> list[Composite]:
    return [Composite.parse(f"f{i}_1_1.jpg") for i in range(photographs)]


def test_share_is_held_out_of_every_sub_dataset() -> None:
    val = holdout(coco(50, 2) + flickr(30), 0.1, seed=1).val
    assert Counter(composite.subset for composite in val) == {"HCOCO": 10, "HFlickr": 3}


def test_share_of_unequal_groups_is_near_the_fraction() -> None:
    composites = [Composite.parse(f"c{i}_1_{k + 1}.jpg") for i in range(60) for k in range(i % 7 + 1)]
    share = len(holdout(composites, 0.2, seed=3).val) / len(composites)
    assert share == pytest.approx(0.2, abs=0.02)


def test_small_fraction_still_holds_out_the_smallest_photograph() -> None:
    composites = [Composite.parse(name) for name in ("c1_1_1.jpg", "c1_1_2.jpg", "c2_1_1.jpg")]
    assert [composite.name for composite in holdout(composites, 0.05, seed=0).val] == ["c2_1_1.jpg"]


def test_sides_keep_the_order_of_the_list() -> None:
    composites = coco(20, 2)
    split = holdout(composites, 0.3, seed=0)
    for side in split:
        assert side == sorted(side, key=composites.index)


def test_same_seed_gives_the_same_share_and_another_seed_another() -> None:
    composites = coco(50, 1)
    assert sides(holdout(composites, 0.2, 1)) == sides(holdout(composites, 0.2, 1))
    assert sides(holdout(composites, 0.2, 1)) != sides(holdout(composites, 0.2, 2))


def test_other_sub_datasets_do_not_change_the_share_of_one() -> None:
    alone = holdout(coco(40, 1), 0.2, seed=5).val
    together = holdout(flickr(30) + coco(40, 1), 0.2, seed=5).val
    assert [composite for composite in together if composite.subset == "HCOCO"] == alone


def test_folds_are_of_nearly_equal_size_in_every_sub_dataset() -> None:
    for split in folds(coco(23, 2) + flickr(17), 4, seed=0):
        sizes = Counter(composite.subset for composite in split.val)
        assert sizes["HCOCO"] in (10, 12)
        assert sizes["HFlickr"] in (4, 5)


def test_another_seed_gives_other_folds() -> None:
    assert sides(folds(coco(20, 1), 4, 1)[0]) != sides(folds(coco(20, 1), 4, 2)[0])


def test_single_fold_is_refused() -> None:
    with pytest.raises(DataError, match="cannot make 1 folds"):
        folds(coco(5, 1), 1, seed=0)
