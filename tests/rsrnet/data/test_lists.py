"""List files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rsrnet.data.config import DataConfig
from rsrnet.data.errors import DataError
from rsrnet.data.lists import fingerprint, read_list, read_train_val
from rsrnet.data.naming import Composite

Add = Callable[..., Composite]
AddMany = Callable[[int], list[Composite]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A dataset of two empty sub-datasets; reading a list opens no image."""
    for folder in ("HCOCO", "Hday2night"):
        (tmp_path / folder).mkdir()
    lines = [
        "Hday2night/composite_images/d7-1_1_1.jpg",
        "HCOCO/composite_images/c2_1_1.jpg",
        "HCOCO/composite_images/c1_1_1.jpg",
    ]
    (tmp_path / "list.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def names(composites: list[Composite]) -> list[str]:
    return [composite.name for composite in composites]


def test_list_is_read_in_its_order(root: Path) -> None:
    assert names(read_list(root, "list.txt")) == ["d7-1_1_1.jpg", "c2_1_1.jpg", "c1_1_1.jpg"]


def test_list_may_lie_outside_the_root(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("lists") / "mine.txt"
    elsewhere.write_text("HCOCO/composite_images/c1_1_1.jpg\n")
    assert names(read_list(root, elsewhere)) == ["c1_1_1.jpg"]


def test_only_the_chosen_sub_datasets_are_kept(root: Path) -> None:
    assert names(read_list(root, "list.txt", ["hcoco"])) == ["c2_1_1.jpg", "c1_1_1.jpg"]


def test_bare_names_windows_line_ends_and_blank_lines_are_read(root: Path) -> None:
    (root / "HCOCO" / "HCOCO_train.txt").write_bytes(b"\xef\xbb\xbfc1_1_1.jpg\r\n\r\nc2_1_1.jpg\r\n")
    kept = read_list(root, "HCOCO/HCOCO_train.txt")
    assert [composite.path for composite in kept] == [
        "HCOCO/composite_images/c1_1_1.jpg",
        "HCOCO/composite_images/c2_1_1.jpg",
    ]


def test_folder_on_disk_in_another_case_is_found(root: Path) -> None:
    (root / "Hday2night").rename(root / "HDay2Night")
    night = read_list(root, "list.txt", ["Hday2night"])[0]
    assert night.path == "HDay2Night/composite_images/d7-1_1_1.jpg"
    assert night.subset == "Hday2night"


def test_missing_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no dataset folder .*nowhere"):
        read_list(tmp_path / "nowhere", "list.txt")


def test_missing_list_is_named_with_the_lists_there_are(root: Path) -> None:
    with pytest.raises(DataError, match=r"no list .*le50_train\.txt; .* holds list\.txt"):
        read_list(root, "le50_train.txt")


def test_empty_list_is_refused(root: Path) -> None:
    (root / "empty.txt").write_text("\n")
    with pytest.raises(DataError, match=r"empty\.txt lists no composite"):
        read_list(root, "empty.txt")


def test_list_without_the_chosen_sub_dataset_says_what_it_has(root: Path) -> None:
    with pytest.raises(DataError, match=r"only composites of HCOCO, Hday2night, not of HFlickr"):
        read_list(root, "list.txt", ["HFlickr"])


def test_unknown_sub_dataset_is_refused_with_the_nearest(root: Path) -> None:
    with pytest.raises(DataError, match=r"did you mean HFlickr\?"):
        read_list(root, "list.txt", ["HFlicker"])


def test_line_outside_the_scheme_is_named(root: Path) -> None:
    (root / "list.txt").write_text("HCOCO/composite_images/c1_1_1.jpg\nHCOCO/composite_images/c1.jpg\n")
    with pytest.raises(DataError, match=r"list\.txt, line 2: 'HCOCO/composite_images/c1\.jpg'"):
        read_list(root, "list.txt")


def test_binary_file_as_list_is_refused(root: Path) -> None:
    (root / "list.txt").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(DataError, match=r"list\.txt is not a list"):
        read_list(root, "list.txt")


def test_listed_sub_dataset_without_a_folder_is_named(root: Path) -> None:
    (root / "Hday2night").rmdir()
    with pytest.raises(DataError, match=r"lists 1 composites of Hday2night, but .* has no folder"):
        read_list(root, "list.txt")


def test_validation_list_is_read_if_named(root: Path) -> None:
    (root / "val.txt").write_text("HCOCO/composite_images/c9_1_1.jpg\n")
    split = read_train_val(DataConfig(root=str(root), train="list.txt", val="val.txt"), seed=0)
    assert (len(split.train), names(split.val)) == (3, ["c9_1_1.jpg"])


def test_share_of_the_training_list_is_held_out_without_a_validation_list(root: Path) -> None:
    (root / "list.txt").write_text("".join(f"HCOCO/composite_images/c{i}_1_1.jpg\n" for i in range(20)))
    split = read_train_val(DataConfig(root=str(root), train="list.txt", val_fraction=0.25), seed=0)
    assert (len(split.train), len(split.val)) == (15, 5)


def test_fingerprint_ignores_root_order_and_case_of_folders(tmp_path: Path, add: Add) -> None:
    composites = [add(f"Hday2night/composite_images/d{i}-1_1_1.jpg") for i in range(3)]
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "Hday2night", copy / "HDAY2NIGHT")
    moved = [composite.in_folder("HDAY2NIGHT") for composite in reversed(composites)]
    assert fingerprint(copy, moved) == fingerprint(tmp_path, composites)


@pytest.mark.parametrize("path", ["path", "mask_path"])
def test_fingerprint_changes_with_a_file(tmp_path: Path, add_many: AddMany, path: str) -> None:
    composites = add_many(3)
    before = fingerprint(tmp_path, composites)
    with (tmp_path / getattr(composites[1], path)).open("ab") as file:
        file.write(b"x")
    assert fingerprint(tmp_path, composites) != before


def test_fingerprint_changes_with_the_set(tmp_path: Path, add_many: AddMany) -> None:
    composites = add_many(3)
    assert fingerprint(tmp_path, composites[:2]) != fingerprint(tmp_path, composites)


def test_fingerprint_of_a_missing_file_is_still_made(tmp_path: Path, add_many: AddMany) -> None:
    composites = add_many(2)
    before = fingerprint(tmp_path, composites)
    (tmp_path / composites[0].mask_path).unlink()
    assert fingerprint(tmp_path, composites) != before
