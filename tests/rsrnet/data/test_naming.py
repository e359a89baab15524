"""File names of the published layout."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsrnet.data.errors import DataError
from rsrnet.data.naming import SUBSETS, Composite, canonical_subset

ids = st.from_regex(r"[a-z0-9]+(-[0-9]+){0,2}", fullmatch=True)


@pytest.mark.parametrize(
    ("path", "mask", "real", "group"),
    [
        (
            "HCOCO/composite_images/c100034_658772_1.jpg",
            "HCOCO/masks/c100034_658772.png",
            "HCOCO/real_images/c100034.jpg",
            "HCOCO/100034",
        ),
        (
            "HAdobe5k/composite_images/a0002_1_5.jpg",
            "HAdobe5k/masks/a0002_1.png",
            "HAdobe5k/real_images/a0002.jpg",
            "HAdobe5k/0002",
        ),
        (
            "Hday2night/composite_images/d21901-20130410-181833_1_9.jpg",
            "Hday2night/masks/d21901-20130410-181833_1.png",
            "Hday2night/real_images/d21901-20130410-181833.jpg",
            "Hday2night/21901",
        ),
        (
            "Sample/composite_images/sastronaut-004_1_2.jpg",
            "Sample/masks/sastronaut-004_1.png",
            "Sample/real_images/sastronaut-004.jpg",
            "Sample/astronaut",
        ),
    ],
)
def test_a_name_tells_mask_photograph_and_group(path: str, mask: str, real: str, group: str) -> None:
    composite = Composite.parse(path)
    assert (composite.path, composite.mask_path, composite.real_path) == (path, mask, real)
    assert composite.group == group


def test_fields_of_a_name_are_read() -> None:
    composite = Composite.parse("HFlickr/composite_images/f5236_2_1.jpg")
    fields = (composite.subset, composite.image_id, composite.mask_id, composite.k)
    assert fields == ("HFlickr", "5236", "2", 1)


def test_equal_image_ids_of_two_sub_datasets_are_different_groups() -> None:
    assert Composite.parse("c1234_1_1.jpg").group != Composite.parse("a1234_1_1.jpg").group


def test_frames_with_hyphens_outside_scenes_are_different_groups() -> None:
    assert Composite.parse("c12-1_1_1.jpg").group != Composite.parse("c12-2_1_1.jpg").group


@given(prefix=st.sampled_from(sorted(SUBSETS.values())), image=ids, mask=ids, k=st.integers(1, 99))
def test_parsing_keeps_every_name_of_the_scheme(prefix: str, image: str, mask: str, k: int) -> None:
    name = f"{prefix}{image}_{mask}_{k}.jpg"
    assert Composite.parse(name).name == name


def test_root_that_holds_composite_images_in_its_name_is_ignored() -> None:
    path = "/data/composite_images/HCOCO/composite_images/c1_2_3.jpg"
    assert Composite.parse(path).mask_path == "HCOCO/masks/c1_2.png"


def test_folder_keeps_its_spelling_while_the_sub_dataset_is_canonical() -> None:
    composite = Composite.parse("HDay2Night/composite_images/d1-2_1_1.jpg")
    assert (composite.subset, composite.folder) == ("Hday2night", "HDay2Night")


@pytest.mark.parametrize(
    "path",
    [
        "",
        "HCOCO/composite_images/c1_2.jpg",
        "HCOCO/composite_images/c1_2_3_4.jpg",
        "HCOCO/composite_images/c1_2_3.png",
        "HCOCO/composite_images/c1_2_0.jpg",
        "HCOCO/composite_images/x1_2_3.jpg",
        "HCOCO/composite_images/c_2_3.jpg",
        "HCOCO/masks/c1_2_3.jpg",
        "composite_images/c1_2_3.jpg",
    ],
)
def test_name_outside_the_scheme_is_refused_with_the_scheme(path: str) -> None:
    with pytest.raises(DataError) as refused:
        Composite.parse(path)
    assert repr(path) in str(refused.value)
    assert "SUB/composite_images/<prefix><image id>_<mask id>_<k>.jpg" in str(refused.value)


def test_name_in_the_folder_of_another_sub_dataset_is_refused() -> None:
    with pytest.raises(DataError, match=r"lies in HAdobe5k, but its name begins like those of HCOCO"):
        Composite.parse("HAdobe5k/composite_images/c1_2_3.jpg")


def test_unknown_sub_dataset_is_refused_with_the_nearest() -> None:
    with pytest.raises(DataError, match=r"no sub-dataset 'HCOC0'.*did you mean HCOCO\?"):
        canonical_subset("HCOC0")
