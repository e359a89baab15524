"""Checking a dataset: every defect that is planted is found, and nothing else."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rsrnet.data.check import write_lists
from rsrnet.data.check.facts import File, look
from rsrnet.data.check.findings import KINDS
from rsrnet.data.check.memory import MEMORY
from rsrnet.data.errors import DataError
from tests.rsrnet.data.planted import (
    FILES,
    FOLDERS,
    ORIENTATION,
    SIZE,
    TEST,
    TRAIN,
    found,
    line,
    mask,
    mask_of,
    plant,
    real_of,
    run,
    truncate,
    write_list,
)


def test_a_sound_dataset_has_nothing_but_other_counts(root: Path) -> None:
    report = run(root)
    assert report.ok
    assert found(report) == []
    assert report.lists == ("le50_train.txt", "le50_test.txt")
    assert (report.checked, report.decoded) == (FILES, FILES)
    listed = {(count.list, count.subset): count for count in report.counts}
    assert len(listed) == 8
    hcoco = listed["le50_train.txt", "HCOCO"]
    assert (hcoco.composites, hcoco.masks, hcoco.photographs, hcoco.published) == (4, 3, 2, 38327)
    assert {each.reason.split(":")[0] for each in report.findings} == set(list(FOLDERS.values())[:4])
    assert all(each.severity == "warning" for each in report.findings)


# One defect at a time: what is done to the dataset, and what must be found.

FIRST = TRAIN[0]


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def turned(root: Path, orientation: int = 6) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.new("RGB", SIZE).save(root / line(FIRST), exif=exif)


DEFECTS: dict[str, tuple[Callable[[Path], object], list[tuple[str, str]], str]] = {
    "nonsense in a list": (
        lambda root: append(root / "le50_train.txt", "\nHCOCO/composite_images/nonsense.jpg\n"),
        [("bad_name", "le50_train.txt")],
        "line 9: 'HCOCO/composite_images/nonsense.jpg' is not the name of a composite",
    ),
    "a composite of another sub-dataset's folder": (
        lambda root: append(root / "le50_test.txt", "HFlickr/composite_images/c3_30_1.jpg\n"),
        [("bad_name", "le50_test.txt")],
        "line 5: .* lies in HFlickr, but its name begins like those of HCOCO",
    ),
    "a line twice": (
        lambda root: append(root / "le50_train.txt", line(FIRST) + "\n"),
        [("duplicate", "le50_train.txt")],
        "line 8: HCOCO/composite_images/c1_10_1.jpg is on line 1 already",
    ),
    "a line twice, in other words": (
        lambda root: append(root / "le50_train.txt", "./hcoco/composite_images/c2_20_1.jpg\n"),
        [("duplicate", "le50_train.txt")],
        "line 8: .* line 4 already",
    ),
    "a training composite in the test list": (
        lambda root: append(root / "le50_test.txt", line("f5_1_1") + "\n"),
        [("in_two_lists", line("f5_1_1"))],
        "in le50_train.txt and le50_test.txt",
    ),
    "no folder of a sub-dataset": (
        lambda root: shutil.rmtree(root / "HFlickr"),
        [("missing_subset", "HFlickr"), ("missing_subset", "HFlickr")],
        "le50_train.txt lists 1 composites of it",
    ),
    "no folder of masks": (
        lambda root: shutil.rmtree(root / "HFlickr/masks"),
        [("missing_mask", mask_of("f5_1_1")), ("missing_mask", mask_of("f6_2_1"))],
        "f5_1_1.jpg needs it",
    ),
    "no composite": (
        lambda root: (root / line(FIRST)).unlink(),
        [("missing_composite", line(FIRST))],
        "c1_10_1.jpg needs it",
    ),
    "no mask of two composites": (
        lambda root: (root / mask_of(FIRST)).unlink(),
        [("missing_mask", mask_of(FIRST))],
        "c1_10_1.jpg needs it",
    ),
    "no photograph": (
        lambda root: (root / real_of(FIRST)).unlink(),
        [("missing_real", real_of(FIRST))],
        "needs it",
    ),
    "a composite cut short": (
        lambda root: truncate(root / line(FIRST)),
        [("undecodable_composite", line(FIRST))],
        "damaged or cut short",
    ),
    "an empty mask file": (
        lambda root: (root / mask_of(FIRST)).write_bytes(b""),
        [("undecodable_mask", mask_of(FIRST))],
        "the file is empty",
    ),
    "a coloured mask": (
        lambda root: Image.new("RGB", SIZE, "red").save(root / mask_of(FIRST)),
        [("undecodable_mask", mask_of(FIRST))],
        "a coloured picture, no mask",
    ),
    "a photograph that is none": (
        lambda root: (root / real_of(FIRST)).write_text("no image"),
        [("undecodable_real", real_of(FIRST))],
        "no image",
    ),
    "a folder in place of a composite": (
        lambda root: ((root / line(FIRST)).unlink(), (root / line(FIRST)).mkdir()),
        [("undecodable_composite", line(FIRST))],
        "it is a folder",
    ),
    "a smaller composite": (
        lambda root: Image.new("RGB", (20, 15)).save(root / line(FIRST)),
        [("other_size", line(FIRST))],
        "20 x 15, its mask 40 x 30 pixels$",
    ),
    "a composite turned by EXIF, its mask not": (
        turned,
        [("other_orientation", line(FIRST))],
        "30 x 40, its mask 40 x 30 pixels; their EXIF orientations are 6 and 1, without which both sizes are equal",
    ),
    "a composite upside down by EXIF, its mask not": (
        lambda root: turned(root, 3),
        [("unclear_orientation", line(FIRST))],
        "their EXIF orientations are 3 and 1",
    ),
    "a mask on its side": (
        lambda root: mask().transpose(Image.Transpose.ROTATE_90).save(root / mask_of("c2_20_1")),
        [("other_orientation", line("c2_20_1"))],
        "40 x 30, its mask 30 x 40 pixels; one of the two lies on its side",
    ),
    "a mask without foreground": (
        lambda root: Image.new("L", SIZE, 127).save(root / mask_of(FIRST)),
        [("mask_empty", mask_of(FIRST))],
        "no pixel is 128 or brighter; the brightest is 127",
    ),
    "a mask without background": (
        lambda root: Image.new("L", SIZE, 128).save(root / mask_of(FIRST)),
        [("mask_full", mask_of(FIRST))],
        "every pixel",
    ),
    "a mask of a pixel more than half": (
        lambda root: mask(601 / 1200).save(root / mask_of(FIRST)),
        [("mask_over_half", mask_of(FIRST))],
        r"50\.1% of the image",
    ),
    "a mask of exactly half": (lambda root: mask(600 / 1200).save(root / mask_of(FIRST)), [], ""),
    "files of other names": (
        lambda root: [
            (root / "HCOCO" / path).touch()
            for path in ("composite_images/c1.jpg", "masks/c1_1.jpg", "real_images/f1.jpg", "masks/.hidden")
        ],
        [
            ("unknown_file", "HCOCO/composite_images/c1.jpg"),
            ("unknown_file", "HCOCO/masks/c1_1.jpg"),
            ("unknown_file", "HCOCO/real_images/f1.jpg"),
        ],
        "outside the naming scheme",
    ),
    "composites that no list names": (lambda root: plant(root, ("c77_7_1", "f77_1_2")), [], ""),
    "no test list": (
        lambda root: (root / "le50_test.txt").unlink(),
        [("missing_list", "le50_test.txt")],
        "not in ",
    ),
}


@pytest.mark.parametrize(("spoil", "expected", "reason"), DEFECTS.values(), ids=DEFECTS)
def test_a_defect_is_found_and_nothing_else(
    root: Path, spoil: Callable[[Path], object], expected: list[tuple[str, str]], reason: str
) -> None:
    spoil(root)
    report = run(root)
    assert found(report) == expected
    if expected:
        (first, *_) = (each for each in report.findings if each.kind == expected[0][0])
        assert re.search(reason, first.reason), first.reason
    assert report.ok == all(KINDS[kind].severity == "warning" for kind, _ in expected)


def test_every_kind_of_defect_is_planted() -> None:
    elsewhere = {"other_count", "shared_photographs"}
    assert {kind for _, expected, _ in DEFECTS.values() for kind, _ in expected} | elsewhere == set(KINDS)


def test_all_defects_are_found_at_once_in_the_order_of_the_kinds(root: Path) -> None:
    truncate(root / line("c2_20_1"))
    mask(0.9).save(root / mask_of("f6_2_1"))
    (root / real_of("a0001_1_1")).unlink()
    (root / mask_of("c3_30_1")).unlink()
    append(root / "le50_test.txt", "what\n")
    assert found(run(root)) == [
        ("bad_name", "le50_test.txt"),
        ("missing_mask", mask_of("c3_30_1")),
        ("undecodable_composite", line("c2_20_1")),
        ("mask_over_half", mask_of("f6_2_1")),
        ("missing_real", real_of("a0001_1_1")),
    ]


def test_findings_are_counted_for_each_list_and_sub_dataset(root: Path) -> None:
    (root / mask_of("c1_10_1")).unlink()
    (root / mask_of("c3_30_1")).unlink()
    (root / real_of("c4_40_2")).unlink()
    counted = {(c.list, c.subset): c.findings for c in run(root).counts if c.findings}
    assert counted == {
        ("le50_train.txt", "HCOCO"): {"missing_mask": 1},
        ("le50_test.txt", "HCOCO"): {"missing_mask": 1, "missing_real": 1},
    }


def test_upright_size_counts_not_the_stored_one(root: Path) -> None:
    turned(root)
    for name in ("c1_10_1", "c1_10_2"):
        mask().transpose(Image.Transpose.ROTATE_90).save(root / mask_of(name))
    Image.new("RGB", SIZE[::-1]).save(root / line("c1_10_2"))
    assert found(run(root)) == []


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_foreground_of_a_mask_is_counted(tmp_path_factory, width: int, height: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    folder = tmp_path_factory.mktemp("mask")
    Image.fromarray(pixels).save(folder / "mask.png")
    facts = look(folder, File("mask.png", is_mask=True))
    bright = sum(level >= 128 for level in pixels.ravel().tolist())
    assert (facts.size, facts.foreground, facts.brightest) == ((width, height), bright, int(pixels.max()))
    assert facts.share == pytest.approx(bright / (width * height))


# Lists: counts, common photographs.


def names_of_the_published_size() -> tuple[list[str], list[str]]:
    """Names as many as in the published lists, of which 1,389 and 8 photographs and 5 scenes are on both sides."""
    train = [f"c{index}_{index}_1" for index in range(38327)]
    train += [f"a{index // 5}_1_{index % 5 + 1}" for index in range(18652)]
    train += [f"f{index}_1_1" for index in range(6967)]
    train += [f"d{index % 70}-{index}_1_1" for index in range(309)]
    test = [f"c{38327 - 1389 + index}_{index}_2" for index in range(4256)]
    test += [f"a{10000 + index}_1_1" for index in range(2065)]
    test += [f"f{6967 - 8 + index}_2_1" for index in range(783)]
    test += [f"d{65 + index % 23}-{1000 + index}_1_1" for index in range(133)]
    return train, test


def test_published_counts_and_common_photographs_are_no_findings(tmp_path: Path) -> None:
    train, test = names_of_the_published_size()
    write_list(tmp_path, "le50_train.txt", train)
    write_list(tmp_path, "le50_test.txt", test)
    report = run(tmp_path)
    assert [each.kind for each in report.findings] == ["missing_subset"] * 8
    assert all(count.composites == count.published for count in report.counts)
    assert sum(count.composites for count in report.counts) == 64255 + 7237
    shared = {each.subset: (each.photographs, each.scenes, each.published) for each in report.shared}
    assert shared == {"HCOCO": (1389, 0, True), "HFlickr": (8, 0, True), "Hday2night": (0, 5, True)}

    write_list(tmp_path, "le50_train.txt", train[1:])
    write_list(tmp_path, "le50_test.txt", [*test, "f0_3_1"])
    others = {(each.kind, each.reason) for each in run(tmp_path).findings if each.kind != "missing_subset"}
    assert others == {
        ("other_count", "HCOCO: 38,326 composites; the published list has 38,327"),
        ("other_count", "HFlickr: 784 composites; the published list has 783"),
        ("shared_photographs", "HFlickr: 9 photographs are in le50_train.txt too"),
    }


def test_common_photographs_of_other_datasets_are_a_warning(tmp_path: Path) -> None:
    train, val = ("scat-001_1_1", "scat-002_1_1", "sdog-001_1_1"), ("scat-001_2_1", "sdog-002_1_1")
    plant(tmp_path, (*train, *val))
    write_list(tmp_path, "le50_train.txt", train)
    write_list(tmp_path, "le50_val.txt", val)
    write_list(tmp_path, "le50_test.txt", ["scow-001_1_1"])
    plant(tmp_path, ["scow-001_1_1"])
    report = run(tmp_path)
    assert report.lists == ("le50_train.txt", "le50_val.txt", "le50_test.txt")
    assert found(report) == [("shared_photographs", "le50_val.txt")]
    assert report.findings[0].reason == "Sample: 1 photographs and 2 scenes are in le50_train.txt too"
    assert report.ok
    assert all(count.published is None for count in report.counts)


def test_what_published_lists_share_is_a_warning_in_others(root: Path) -> None:
    write_list(root, "mine.txt", ["c1_10_1"])
    write_list(root, "yours.txt", ["c1_11_1"])
    report = run(root, "mine.txt", "yours.txt")
    assert found(report) == [("shared_photographs", "yours.txt")]
    assert report.findings[0].reason == "HCOCO: 1 photographs are in mine.txt too"


def test_lists_of_any_name_and_place_are_checked(root: Path, tmp_path: Path) -> None:
    write_list(root, "mine.txt", TRAIN[:2])
    write_list(tmp_path, "other.txt", TEST[:1])
    report = run(root, "mine.txt", str(tmp_path / "other.txt"))
    assert report.lists == ("mine.txt", str(tmp_path / "other.txt"))
    assert report.findings == ()
    assert report.checked == 2 + 1 + 1 + 3


def test_folder_of_another_spelling_is_found(root: Path) -> None:
    (root / "Hday2night").rename(root / "HDay2Night")
    (root / line("d8-7_1_1").replace("Hday2night", "HDay2Night")).unlink()
    assert found(run(root)) == [("missing_composite", "HDay2Night/composite_images/d8-7_1_1.jpg")]


def test_what_cannot_be_checked_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no dataset folder"):
        run(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"there is no list .*none\.txt"):
        run(root, "none.txt")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").touch()
    with pytest.raises(
        DataError, match=r"holds notes\.txt; put le50_train\.txt .* or name the lists with --list"
    ):
        run(tmp_path / "empty")
    assert not (tmp_path / "empty" / MEMORY).exists()


def test_processes_of_a_check_do_not_load_pytorch() -> None:
    code = "import sys, rsrnet.data.check; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Without le50 lists.


@pytest.fixture
def official(root: Path) -> Path:
    """The dataset with its own lists, which have two large foregrounds."""
    for split in ("train", "test"):
        (root / f"le50_{split}.txt").rename(root / f"IHD_{split}.txt")
    mask(0.7).save(root / mask_of("c1_10_1"))
    mask(0.5).save(root / mask_of("c1_11_1"))
    mask(0.51).save(root / mask_of("f6_2_1"))
    return root


def test_le50_lists_are_derived_by_the_share_of_the_foreground(official: Path) -> None:
    report = run(official)
    assert found(report) == []
    train = [line(name) for name in TRAIN if not name.startswith("c1_10_")]
    test = [line(name) for name in TEST if name != "f6_2_1"]
    assert report.derived == {"le50_train.txt": tuple(train), "le50_test.txt": tuple(test)}
    assert [count.list for count in report.counts[::4]] == [
        "IHD_train.txt",
        "IHD_test.txt",
        "le50_train.txt",
        "le50_test.txt",
    ]
    assert report.counts[0].published == 38545
    assert not list(official.glob("le50*"))

    written = write_lists(report)
    assert [path.read_text() for path in written] == ["\n".join([*lines, ""]) for lines in (train, test)]
    again = run(official)
    assert again.lists == ("le50_train.txt", "le50_test.txt")
    assert again.derived == {}
    assert found(again) == []
    with pytest.raises(DataError, match="nothing to write"):
        write_lists(again)
    with pytest.raises(DataError, match=r"le50_train\.txt: cannot be written"):
        write_lists(report)


def test_derived_lists_are_compared_not_the_official_ones(official: Path) -> None:
    shared = ["c1_50_1", "f5_2_1"]
    plant(official, shared)
    mask(0.8).save(official / mask_of("c1_50_1"))
    write_list(official, "IHD_test.txt", (*TEST, *shared))
    report = run(official)
    assert [(each.lists, each.subset) for each in report.shared] == [
        (("le50_train.txt", "le50_test.txt"), "HFlickr")
    ]
    assert found(report) == []


def test_lists_are_not_written_while_a_mask_is_missing(official: Path) -> None:
    (official / mask_of("c3_30_1")).unlink()
    truncate(official / mask_of("c4_40_2"))
    report = run(official)
    assert (report.unjudged, report.ok) == (2, False)
    assert line("c3_30_1") not in report.derived["le50_test.txt"]
    with pytest.raises(DataError, match="the masks of 2 composites cannot be used"):
        write_lists(report)
    assert not list(official.glob("le50*"))


def test_official_lists_that_are_asked_for_are_checked_like_any_other(official: Path) -> None:
    report = run(official, "IHD_train.txt")
    assert report.derived == {}
    assert found(report) == [("mask_over_half", mask_of("c1_10_1"))]


def test_json_has_the_documented_keys(root: Path) -> None:
    mask(0.9).save(root / mask_of("f6_2_1"))
    plant(root, ["c1_99_1"])
    append(root / "le50_test.txt", line("c1_99_1") + "\n")
    written = json.loads(json.dumps(run(root).as_json()))
    assert list(written) == [
        "format",
        "root",
        "ok",
        "derived",
        "lists",
        "files",
        "counts",
        "shared",
        "findings",
    ]
    assert (written["format"], written["root"], written["ok"], written["derived"]) == (
        1,
        str(root),
        True,
        False,
    )
    assert written["files"] == {"checked": FILES + 2, "decoded": FILES + 2}
    assert written["counts"][4] == {
        "list": "le50_test.txt",
        "subset": "HCOCO",
        "composites": 3,
        "published": 4256,
        "masks": 3,
        "photographs": 3,
        "findings": {},
    }
    assert written["shared"] == [
        {
            "lists": ["le50_train.txt", "le50_test.txt"],
            "subset": "HCOCO",
            "photographs": 1,
            "scenes": 0,
            "composites": 1,
            "published": True,
        }
    ]
    assert written["findings"][0] == {
        "kind": "mask_over_half",
        "file": mask_of("f6_2_1"),
        "reason": "90.0% of the image",
        "severity": "warning",
    }
