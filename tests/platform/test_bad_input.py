"""Images of every odd kind, at every entrance: each is read right or named with its reason, and nothing else happens.

The entrances are the Localizer, the reader of datasets, the inspection before a training, `rsrnet data check` and
`kind: predict`; files are read as images and as masks. That no damage at all makes the decoder do anything else is
tested in tests/rsrnet/data/test_decode.py.
"""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rsrnet import Localizer, checkpoint
from rsrnet.data.errors import BadDataError
from rsrnet.data.iharmony4 import open_pair
from rsrnet.data.inspection import inspect, usable
from rsrnet.data.naming import Composite
from rsrnet.localizer import ImageError, read_image
from rsrnet.model.config import RSRNetConfig
from rsrnet.model.network import RSRNet
from rsrnet_platform import cli, predict, spec
from rsrnet_platform.errors import UserError
from rsrnet_platform.prediction.inputs import find_images

Array = np.ndarray
WHITE, BLACK = 255, 0
LOSSLESS_WEBP = {"lossless": True, "exact": True}
BEST_JPEG = {"quality": 100, "subsampling": 0}


def encoded(picture: Image.Image | Array, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(file, kind, **options)
    return file.getvalue()


def cut(kind: str, **options: Any) -> Callable[[Array], bytes]:
    def write(picture: Array) -> bytes:
        content = encoded(picture, kind, **options)
        return content[: len(content) * 2 // 3]

    return write


def palette(picture: Array) -> bytes:
    colours, index = np.unique(picture.reshape(-1, 3), axis=0, return_inverse=True)
    image = Image.fromarray(index.reshape(picture.shape[:2]).astype(np.uint8), "P")
    image.putpalette(colours.tobytes())
    return encoded(image, "PNG")


def clear_on_the_right(picture: Array) -> bytes:
    alpha = np.full(picture.shape[:2], 255, np.uint8)
    alpha[:, 20:] = 0
    return encoded(np.dstack([picture, alpha]), "PNG")


def animated(kind: str, **options: Any) -> Callable[[Array], bytes]:
    def write(picture: Array) -> bytes:
        others = [Image.fromarray(255 - picture), Image.fromarray(picture[::-1].copy())]
        return encoded(picture, kind, save_all=True, append_images=others, **options)

    return write


def lying(kind: str, **options: Any) -> Callable[[Array], bytes]:
    """Stored turned to the left, with the EXIF orientation that turns it back."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return lambda picture: encoded(np.rot90(picture).copy(), kind, exif=exif, **options)


def deep(kind: str) -> Callable[[Array], bytes]:
    return lambda picture: encoded(picture[..., 0].astype(np.uint16) * 257, kind)


def claiming(width: int, height: int) -> Callable[[Array], bytes]:
    """A PNG of a few bytes whose header claims a size."""
    chunks = [
        (b"IHDR", struct.pack(">LLBBBBB", width, height, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(1000))),
        (b"IEND", b""),
    ]
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">L", len(body)) + name + body + struct.pack(">L", zlib.crc32(name + body))
        for name, body in chunks
    )
    return lambda picture: content


def jpeg_bomb(picture: Array) -> bytes:
    content = bytearray(encoded(picture, "JPEG"))
    at = content.index(b"\xff\xc0") + 5  # behind marker, length and bits
    content[at : at + 4] = struct.pack(">HH", 60_000, 60_000)
    return bytes(content)


def tiled(height: int, width: int) -> Callable[[Array], Array]:
    return lambda picture: np.tile(picture, (1, width // picture.shape[1], 1))[:height]


@dataclass(frozen=True)
class Kind:
    """How a picture of (32, 40, 3) becomes a file, and what that must show."""

    write: Callable[[Array], bytes]
    suffix: str
    reason: str | None = None
    """Part of the message, if it must be refused."""
    grey: bool = False
    """Whether it holds only grey levels."""
    scene: Callable[[Array], Array] = lambda picture: picture
    """What is written instead of the picture."""
    clear: bool = False
    """Whether the right half is transparent."""


TOO_MANY = "too many; the most are 134,217,728 pixels, 65,535 on a side"
CUT = "damaged or cut short"
KINDS = {
    "truncated JPEG": Kind(cut("JPEG"), "jpg", CUT),
    "truncated PNG": Kind(cut("PNG"), "png", CUT),
    "truncated TIFF": Kind(cut("TIFF"), "tif", "cut short: the TIFF needs at least"),
    "truncated WebP": Kind(cut("WEBP"), "webp", CUT),
    "truncated GIF": Kind(cut("GIF"), "gif", CUT),
    "truncated BMP": Kind(cut("BMP"), "bmp", CUT),
    "zero bytes": Kind(lambda _: b"", "jpg", "the file is empty"),
    "text": Kind(lambda _: b"no image", "jpg", "no image, or its header is damaged"),
    "bomb": Kind(claiming(50_000, 50_000), "png", TOO_MANY),
    "bomb in a row": Kind(claiming(70_000, 1), "png", TOO_MANY),
    "bomb as JPEG": Kind(jpeg_bomb, "jpg", TOO_MANY),
    "no pixels": Kind(claiming(0, 5), "png", "no image, or its header is damaged"),
    "CMYK JPEG": Kind(
        lambda p: encoded(Image.fromarray(p).convert("CMYK"), "JPEG", **BEST_JPEG), "jpg"
    ),
    "CMYK TIFF": Kind(lambda p: encoded(Image.fromarray(p).convert("CMYK"), "TIFF"), "tif"),
    "16-bit PNG": Kind(deep("PNG"), "png", grey=True),
    "16-bit TIFF": Kind(deep("TIFF"), "tif", grey=True),
    "palette": Kind(palette, "png"),
    "transparent": Kind(clear_on_the_right, "png", clear=True),
    "greyscale JPEG": Kind(lambda p: encoded(p[..., 0].copy(), "JPEG", **BEST_JPEG), "jpg", grey=True),
    "greyscale PNG": Kind(lambda p: encoded(p[..., 0].copy(), "PNG"), "png", grey=True),
    "animated GIF": Kind(animated("GIF"), "gif"),
    "animated PNG": Kind(animated("PNG"), "png"),
    "animated WebP": Kind(animated("WEBP", **LOSSLESS_WEBP), "webp"),
    "EXIF-rotated JPEG": Kind(lying("JPEG", **BEST_JPEG), "jpg"),
    "EXIF-rotated PNG": Kind(lying("PNG"), "png"),
    "EXIF-rotated TIFF": Kind(lying("TIFF"), "tif"),
    "1x1": Kind(lambda p: encoded(p, "PNG"), "png", scene=lambda p: p[:1, :1].copy()),
    "20,000x10": Kind(lambda p: encoded(p, "PNG"), "png", scene=tiled(10, 20_000)),
    "20,000x10 JPEG": Kind(lambda p: encoded(p, "JPEG", **BEST_JPEG), "jpg", scene=tiled(10, 20_000)),
}  # fmt: skip
GOOD = [name for name, kind in KINDS.items() if kind.reason is None]
BAD = [name for name, kind in KINDS.items() if kind.reason is not None]
every_kind = pytest.mark.parametrize("name", KINDS)

# Blocks of one colour each, which JPEG keeps nearly as they are, and few enough for a palette.
BLOCKS = np.random.default_rng(5).integers(0, 256, (4, 5, 3), dtype=np.uint8)
FOREGROUND = np.array([[1, 0, 0, 1, 0], [0, 0, 1, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 1]], np.uint8)


def enlarged(blocks: Array) -> Array:
    return blocks.repeat(8, axis=0).repeat(8, axis=1)


def file_of(name: str, role: str) -> tuple[bytes, Array]:
    """The file of a kind in the role of ``image`` or ``mask``, and the RGB that it must show."""
    kind = KINDS[name]
    picture = enlarged(BLOCKS) if role == "image" else np.dstack([enlarged(FOREGROUND * 255)] * 3)
    if kind.grey:
        picture = np.dstack([picture[..., 1]] * 3)
    picture = kind.scene(picture)
    shown = picture.copy()
    if kind.clear:
        shown[:, 20:] = WHITE if role == "image" else BLACK
    return kind.write(picture), shown


def assert_shows(pixels: Array, expected: Array) -> None:
    assert pixels.shape == expected.shape
    np.testing.assert_allclose(pixels.astype(int), expected.astype(int), atol=6)


# The Localizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("model")
    config = RSRNetConfig(depth=18, width=4, iterations=1, scales=(0,))
    checkpoint.save(folder, RSRNet(config), checkpoint.ModelCard(config, size=32))
    return folder


@pytest.fixture(scope="module")
def localizer(model: Path) -> Localizer:
    return Localizer(model, device="cpu")


@every_kind
def test_localizer(localizer: Localizer, tmp_path: Path, name: str) -> None:
    kind = KINDS[name]
    content, shown = file_of(name, "image")
    path = tmp_path / f"image.{kind.suffix}"
    path.write_bytes(content)
    if kind.reason is None:
        assert_shows(read_image(path), shown)
        mask = localizer(path)
        assert mask.shape == shown.shape[:2]
        np.testing.assert_allclose(mask, localizer(shown), atol=0.02)
        return
    with pytest.raises(ImageError) as refused:
        localizer([shown[:8, :8], path])
    assert str(refused.value).startswith(f"{path}: ")
    assert kind.reason in str(refused.value)


@given(st.sampled_from([name for name in GOOD if "20,000" not in name]), st.data())
def test_localizer_of_a_damaged_file(
    localizer: Localizer, tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    content = bytearray(file_of(name, "image")[0])
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with suppress(ImageError):
        mask = localizer(path)
        assert mask.ndim == 2
        assert np.isfinite(mask).all()


# Datasets


def add(root: Path, name: str, role: str) -> Composite:
    """Write a composite whose image (or mask) is a file of a kind and whose other files are sound."""
    number = list(KINDS).index(name)
    composite = Composite.parse(f"Sample/composite_images/s{role}{number}-0_1_1.jpg")
    content, shown = file_of(name, role)
    rows, columns = shown.shape[:2]
    image = encoded(np.full((rows, columns, 3), 90, np.uint8), "PNG")
    mask = encoded(np.arange(rows * columns).reshape(rows, columns) == 0, "PNG")
    files = {composite.path: image, composite.mask_path: mask, composite.real_path: image}
    files[composite.path if role == "image" else composite.mask_path] = content
    for path, written in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(written)
    return composite


def bad_path(composite: Composite, role: str) -> str:
    return composite.path if role == "image" else composite.mask_path


@pytest.mark.parametrize("role", ["image", "mask"])
@every_kind
def test_reader(tmp_path: Path, name: str, role: str) -> None:
    composite = add(tmp_path, name, role)
    reason = KINDS[name].reason
    if reason is None:
        image, mask = (np.asarray(each) for each in open_pair(tmp_path, composite))
        shown = file_of(name, role)[1]
        assert image.shape[:2] == mask.shape == shown.shape[:2]
        if role == "image":
            assert_shows(image, shown)
        else:
            np.testing.assert_array_equal(mask >= 128, shown[..., 0] == WHITE)
        return
    with pytest.raises(BadDataError) as refused:
        open_pair(tmp_path, composite)
    assert str(refused.value).startswith(f"{bad_path(composite, role)}: ")
    assert reason in str(refused.value)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[tuple[str, str], Composite]]:
    """A composite for every kind in both roles, by both."""
    root = tmp_path_factory.mktemp("dataset")
    made = {(name, role): add(root, name, role) for role in ("image", "mask") for name in KINDS}
    (root / "le50_train.txt").write_text("".join(f"{each.path}\n" for each in made.values()))
    return root, made


@pytest.mark.parametrize("threads", [1, 4])
def test_inspection(dataset: tuple[Path, dict[tuple[str, str], Composite]], threads: int) -> None:
    root, made = dataset
    report = inspect(root, list(made.values()), threads)
    expected = {composite: key for key, composite in made.items() if key[0] in BAD}
    assert [bad.composite for bad in report.bad] == list(expected)
    for bad in report.bad:
        name, role = expected[bad.composite]
        assert bad.reason.startswith(f"{bad_path(bad.composite, role)}: ")
        assert str(KINDS[name].reason) in bad.reason
    assert usable(list(made.values()), report, "skip") == [made[key] for key in made if key[0] in GOOD]
    with pytest.raises(BadDataError, match=f"^{len(expected)} of {len(made)} composites cannot be used"):
        usable(list(made.values()), report, "stop")


def test_check(
    dataset: tuple[Path, dict[tuple[str, str], Composite]], capsys: pytest.CaptureFixture[str]
) -> None:
    root, made = dataset
    with pytest.raises(SystemExit) as left:
        cli.main(["data", "check", str(root), "--json", "--fresh", "--processes", "1"])
    assert left.value.code == 1
    found = json.loads(capsys.readouterr().out)["findings"]
    undecodable = {each["file"]: each for each in found if each["kind"].startswith("undecodable")}
    assert set(undecodable) == {bad_path(made[key], key[1]) for key in made if key[0] in BAD}
    for (name, role), composite in made.items():
        if name in BAD:
            finding = undecodable[bad_path(composite, role)]
            assert finding["kind"] == f"undecodable_{'composite' if role == 'image' else 'mask'}"
            assert str(KINDS[name].reason) in finding["reason"]
    rest = {(each["kind"], each["file"]) for each in found if each["file"] not in undecodable}
    one_pixel = made["1x1", "mask"].mask_path, made["1x1", "image"].mask_path
    assert rest == {("missing_list", "le50_test.txt"), *(("mask_full", path) for path in one_pixel)}


# Prediction


def test_predict(model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder, output = tmp_path / "images", tmp_path / "out"
    folder.mkdir()
    for name, kind in KINDS.items():
        (folder / f"{name}.{kind.suffix}").write_bytes(file_of(name, "image")[0])
    # No pixel reaches the threshold, so that the overlay is the image as it was read.
    given = {"kind": "predict", "model": str(model), "input": str(folder), "output": str(output)}
    job = spec.parse({**given, "name": "p", "threshold": 0.9999, "overlays": True, "cluster": {"workers": 0}})
    assert isinstance(job, spec.PredictJob)
    predict.run(job, fresh=False)
    rows = {Path(row["path"]).stem: row for row in pq.read_table(output / predict.TABLE).to_pylist()}
    assert set(rows) == set(KINDS)
    for name, row in rows.items():
        reason, shown = KINDS[name].reason, file_of(name, "image")[1]
        if reason is None:
            assert (row["status"], row["error"]) == ("ok", None)
            assert (row["height"], row["width"]) == shown.shape[:2]
            assert_shows(np.asarray(Image.open(output / row["overlay"])), shown)
            assert Image.open(output / row["mask"]).size == (row["width"], row["height"])
        else:
            assert row["status"] == "error"
            assert row["error"].startswith(row["path"] + ": ")
            assert reason in row["error"]
            assert (row["mask"], row["width"]) == (None, None)
    assert "Traceback" not in capfd.readouterr().err


# Folders


TOO_LONG = "x" * 300
"""A name that no file system takes: the system refuses it as it refuses a folder that may not be read."""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data", "check", TOO_LONG], f"the dataset folder {TOO_LONG} cannot be read (File name too long)"),
        (["data", "check", "{root}", "--list", TOO_LONG], "cannot be read (File name too long)"),
        (["run", "jobs/train.yaml", "--set", f"data.root={TOO_LONG}"], "cannot be read (File name too long)"),
        (["run", "{job}", "--set", f"input={TOO_LONG}"], "cannot be read (File name too long)"),
        (["run", "{job}", "--set", f"model={TOO_LONG}"], "Give a checkpoint folder"),
    ],
    ids=["check", "list", "train", "input", "model"],
)
def test_folders_that_the_system_refuses_are_one_message(
    arguments: list[str],
    message: str,
    dataset: tuple[Path, dict[tuple[str, str], Composite]],
    model: Path,
    repository: Path,
    tmp_path: Path,
    tmp_home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    job = tmp_path / "job.yaml"
    given = {"kind": "predict", "name": "p", "model": str(model), "input": "images", "output": "out"}
    job.write_text(json.dumps({**given, "cluster": {"workers": 0}}))
    monkeypatch.chdir(repository)
    with pytest.raises(SystemExit) as left:
        cli.main([each.format(root=dataset[0], job=job) for each in arguments])
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert " ".join(message.split()) in " ".join(said.split())
    assert "Traceback" not in said


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_images_in_a_folder_that_may_not_be_read_are_not_left_out_silently(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    Image.new("RGB", (4, 4)).save(tmp_path / "open.png")
    with pytest.raises(UserError, match=r"closed cannot be read \(Permission denied\)"):
        find_images(str(tmp_path), str(tmp_path / "out"))
