"""What `input:` of a prediction may be, and what the results are called."""

from __future__ import annotations

import hashlib
import io
import posixpath
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rsrnet.data.errors import DecodeError
from rsrnet.data.storage import open_storage
from rsrnet_platform.errors import UserError
from rsrnet_platform.prediction import contents
from rsrnet_platform.prediction.inputs import find_images
from rsrnet_platform.prediction.listing import items_of, result_names

PICTURES = ("a.jpg", "b/c d.PNG", "b/e/f.webp", "ü.bmp")


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((4, 5, 3), shade, np.uint8)).save(file, "PNG")
    return file.getvalue()


CONTENTS = {name: png(10 * number) for number, name in enumerate(PICTURES)}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for name, data in {**CONTENTS, "notes.txt": b"none", "b/out/masks/a.png": png(1)}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def found(source: object, output: object = "nowhere") -> dict[str, bytes]:
    """What each result is called, and the bytes it is made from; checks the order and the stamps on the way."""
    items = list(items_of(find_images(str(source), str(output))))
    assert [item.path for item in items] == sorted(item.path for item in items)
    assert all(item.stamp != "missing" for item in items)
    return {item.name: contents.content(item) for item in items}


EVERY = {posixpath.splitext(name)[0]: data for name, data in CONTENTS.items()}


def test_folder_and_pattern_and_image(photos: Path) -> None:
    assert found(photos, photos / "b" / "out") == EVERY
    assert found(photos / "**" / "*.jpg") == {"a": CONTENTS["a.jpg"]}
    assert found(photos / "b" / "*" / "*") == {"e/f": CONTENTS["b/e/f.webp"]}
    assert found(photos / "*" / "[c]*") == {"b/c d": CONTENTS["b/c d.PNG"]}
    assert found(photos / "ü.bmp") == {"ü": CONTENTS["ü.bmp"]}


def test_a_list_from_windows(photos: Path) -> None:
    (photos / "list.txt").write_bytes("\ufeffa.jpg\r\n\r\nb/e/f.webp\r\n".encode())
    assert found(photos / "list.txt") == {"a": CONTENTS["a.jpg"], "b/e/f": CONTENTS["b/e/f.webp"]}


def test_links_are_followed_but_not_in_a_circle(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "o.png").write_bytes(png(9))
    (photos / "other").symlink_to(tmp_path / "other")
    (tmp_path / "other" / "back").symlink_to(photos)
    (photos / "b" / "here").symlink_to(".")
    wanted = EVERY | {"other/o": png(9)}
    assert found(photos, photos / "b" / "out") == wanted
    assert found(photos / "**" / "*.[jpPbw]*", photos / "b" / "out") == wanted


@pytest.mark.parametrize("pattern", ["", "**/*.[jpPbw]*"])
def test_only_pictures_that_a_job_wrote_are_left_out_of_the_output(
    pattern: str, photos: Path, tmp_path: Path
) -> None:
    """The output may be the input, or above it, or be named in another way."""
    (photos / "b" / "out" / "mine.png").write_bytes(png(8))
    (tmp_path / "link").symlink_to(photos)
    inside = found(photos / "b" / pattern, photos / "b" / "out")
    assert set(inside) == {"c d", "e/f", "out/mine"}
    assert found(tmp_path / "link" / "b" / pattern, photos / "b" / "out") == inside
    assert found(photos / "b" / "e" / pattern, photos / "b") == {"f": CONTENTS["b/e/f.webp"]}
    assert set(found(photos / "b" / "out" / pattern, photos / "b" / "out")) == {"mine"}


@pytest.mark.parametrize("scheme", ["memory://bucket", "file://"])
def test_the_same_in_an_object_store(scheme: str, photos: Path, tmp_path: Path) -> None:
    root = f"{scheme}{photos}"
    store = open_storage(root)
    for name in (*PICTURES, "notes.txt", "b/out/masks/a.png"):
        store.write(name, io.BytesIO((photos / name).read_bytes()))
    store.write("list.txt", io.BytesIO(b"a.jpg\nb/e/f.webp\n"))
    assert found(root, f"{root}/b/out") == EVERY
    assert found(f"{root}/**/*.jpg") == {"a": CONTENTS["a.jpg"]}
    assert found(f"{root}/*/*.PNG") == {"b/c d": CONTENTS["b/c d.PNG"]}
    assert found(f"{root}/a.jpg") == {"a": CONTENTS["a.jpg"]}
    assert found(f"{root}/list.txt") == {"a": CONTENTS["a.jpg"], "b/e/f": CONTENTS["b/e/f.webp"]}
    listed = tmp_path / "uris.txt"
    listed.write_text(f"{root}/a.jpg\n\n{photos}/b/e/f.webp\n")
    by_name = found(listed)
    assert sorted(by_name.values()) == sorted([CONTENTS["a.jpg"], CONTENTS["b/e/f.webp"]])
    assert "photos/b/e/f" in by_name


@pytest.mark.parametrize("rows_in_group", [1, 3, 100])
@pytest.mark.parametrize("struct", [False, True])
def test_table_of_bytes(struct: bool, rows_in_group: int, tmp_path: Path) -> None:
    data = list(CONTENTS.values())
    images: list[Any] = [{"bytes": each, "path": None} for each in data] if struct else data
    if struct:
        images[2]["path"] = "x/named.jpg"
    pq.write_table(pa.table({"image": images}), tmp_path / "t.parquet", row_group_size=rows_in_group)
    names = ["row-000000000", "row-000000001", "x/named" if struct else "row-000000002", "row-000000003"]
    assert found(tmp_path / "t.parquet") == dict(zip(names, data, strict=True))
    (first, *_) = items_of(find_images(str(tmp_path / "t.parquet"), "out"))
    assert first.stamp == hashlib.sha256(data[0]).hexdigest()


def test_table_of_paths_and_of_named_bytes(photos: Path) -> None:
    pq.write_table(pa.table({"path": ["b/e/f.webp", str(photos / "a.jpg")]}), photos / "p.parquet")
    assert found(photos / "p.parquet") == {"a": CONTENTS["a.jpg"], "b/e/f": CONTENTS["b/e/f.webp"]}
    both = {"path": ["z.jpg", "/deep/a.jpg"], "image": [png(1), png(2)]}
    pq.write_table(pa.table(both), photos / "b.parquet")
    assert found(photos / "b.parquet") == {"z": png(1), "deep/a": png(2)}


def test_a_row_without_bytes_is_an_image_that_cannot_be_read(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": pa.array([None, png(1)], pa.binary())}), tmp_path / "t.parquet")
    (empty, _) = items_of(find_images(str(tmp_path / "t.parquet"), "out"))
    with pytest.raises(DecodeError, match="the table has no bytes for it"):
        contents.content(empty)


def test_a_file_of_a_list_that_is_not_there_is_an_image_that_cannot_be_read(photos: Path) -> None:
    (photos / "list.txt").write_text("a.jpg\ngone.jpg\nb\na.jpg\n")
    by_path = {Path(item.path).name: item for item in items_of(find_images(str(photos / "list.txt"), "out"))}
    assert sorted(by_path) == ["a.jpg", "b", "gone.jpg"]  # one that is listed twice is done once
    pq.write_table(pa.table({"path": ["nu\0ll.jpg", None, ""]}), photos / "null.parquet")
    (null,) = items_of(find_images(str(photos / "null.parquet"), "out"))
    by_path["nu\0ll.jpg"] = null
    for name, reason in (
        ("gone.jpg", "no such file"),
        ("b", "it is a folder"),
        ("nu\0ll.jpg", "no such file"),
    ):
        with pytest.raises(DecodeError, match=reason):
            contents.content(by_path[name])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "there is no such folder, image, table or list of images"),
        ("memory://bucket/nowhere", "there is no such folder, image, table or list of images"),
        ("nothing://bucket/x", "nothing"),
        ("*.jpg", "no image in it"),
        ("empty", "no image in it"),
        ("empty.txt", "no image in it"),
        ("bytes", "neither a folder nor an image nor a list of images"),
        ("no-table.parquet", "cannot be read"),
        (
            "other.parquet",
            "needs a column 'path' of text, or 'image' with bytes .* it has shape .int64., colour",
        ),
        ("numbers.parquet", "needs a column 'path' of text, .* it has path .int64."),
        ("no-bytes.parquet", "'image' with bytes or structs .* it has image .string."),
        ("numbered.parquet", "needs a column .* it has image .binary., path .int64."),
        ("null", "neither a folder nor an image nor a list of images"),
        ("twice.parquet", "two rows have the path 'a'"),
    ],
)
def test_what_is_no_input_is_one_message(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x80")
    (tmp_path / "no-table.parquet").write_text("none")
    pq.write_table(pa.table({"shape": [1], "colour": [2]}), tmp_path / "other.parquet")
    pq.write_table(pa.table({"path": [1]}), tmp_path / "numbers.parquet")
    pq.write_table(pa.table({"image": ["a.jpg"]}), tmp_path / "no-bytes.parquet")
    pq.write_table(pa.table({"image": [b"a"], "path": [1]}), tmp_path / "numbered.parquet")
    (tmp_path / "null").write_bytes(b"a.jpg\0b.jpg")
    pq.write_table(pa.table({"path": ["a", "a"], "image": [b"", b""]}), tmp_path / "twice.parquet")
    source = name if "://" in name else str(tmp_path / name)
    with pytest.raises(UserError, match=message) as caught:
        find_images(source, "out")
    assert source in str(caught.value)


def test_a_changed_file_has_another_stamp(photos: Path) -> None:
    def stamps() -> dict[str, str]:
        return {Path(item.path).name: item.stamp for item in items_of(find_images(str(photos), "out"))}

    before = stamps()
    (photos / "a.jpg").write_bytes(png(3) + b"more")
    changed = {name for name, stamp in stamps().items() if stamp != before[name]}
    assert changed == {"a.jpg"}


parts = st.sampled_from(
    ["a", "b", "a.jpg", "a.png", "a.png.png", "a.jpg.jpg", "..", "up", ".a", "a.", "a.jpg-1", "é" * 125]
)
paths = st.lists(parts, min_size=1, max_size=3).map("/".join)


@given(st.lists(paths, unique=True, max_size=12), st.sampled_from(["", "/", "s3://"]))
def test_no_two_results_have_one_name_and_none_leaves_the_folder(relative: list[str], prefix: str) -> None:
    names = result_names([prefix + path for path in relative])
    assert len(set(names)) == len(relative)
    folders = {"/".join(name.split("/")[:depth]) for name in names for depth in range(1, name.count("/") + 1)}
    assert not folders & {f"{name}.png" for name in names}
    for name in names:
        assert not posixpath.isabs(name)
        assert ".." not in name.split("/")
        assert all(len(f"{part}.png.partial".encode()) <= 255 for part in name.split("/"))


def test_results_are_called_as_their_images_unless_that_is_taken() -> None:
    assert result_names(["a.jpg", "x/b.tar.gz.png"]) == ["a", "x/b.tar.gz"]
    assert result_names(["a.jpg", "a.png", "b.png"]) == ["a.jpg", "a.png", "b"]
    assert result_names(["a.jpg", "a.png", "a.jpg.jpg"]) == ["a.jpg", "a.png", "a.jpg.jpg"]
    assert result_names(["../a.jpg", "/r/a.jpg", "s3://bucket/a.jpg"]) == ["up/a", "r/a", "bucket/a"]
    assert result_names(["a.jpg", "a.png/b.jpg"]) == ["a.jpg", "a.png/b"]
    assert result_names(["n" * 216 + ".jpg"]) == ["n" * 216]
