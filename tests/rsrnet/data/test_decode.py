"""The image decoder, against arrays: every mode, format, size and orientation is read rightly or refused by name."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rsrnet.data.decode import MAX_PIXELS, MAX_SIDE, read_mask, read_rgb
from rsrnet.data.errors import DecodeError

Array = np.ndarray

ORIENTATION = 0x0112
UPRIGHT: dict[int, Callable[[Array], Array]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}
"""What each EXIF orientation asks for, with NumPy."""


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def over(colour: Array, alpha: Array, ground: int) -> Array:
    share = alpha[..., None] / 255
    return np.rint(colour * share + ground * (1 - share))


def grey(values: Array) -> Array:
    return np.repeat(values[..., None], 3, axis=2)


def palette(size: tuple[int, int], rng: np.random.Generator) -> tuple[Image.Image, Array, Array]:
    colours = rng.integers(0, 256, (256, 3), dtype=np.uint8)
    index = rng.integers(0, 256, size, dtype=np.uint8)
    image = Image.fromarray(index, "P")
    image.putpalette(colours.tobytes())
    return image, colours[index], index


def make(mode: str, size: tuple[int, int], rng: np.random.Generator) -> tuple[Image.Image, Array]:
    """An image of (rows, columns) in a mode, and what it shows on white: (rows, columns, 3)."""
    levels = rng.integers(0, 256, (*size, 4), dtype=np.uint8)
    match mode:
        case "1":
            bits = rng.integers(0, 2, size).astype(bool)
            return Image.fromarray(bits), grey(bits * 255)
        case "L":
            return Image.fromarray(levels[..., 0].copy()), grey(levels[..., 0])
        case "LA":
            return Image.fromarray(levels[..., :2].copy(), mode), over(
                grey(levels[..., 0]), levels[..., 1], 255
            )
        case "RGB":
            return Image.fromarray(levels[..., :3].copy()), levels[..., :3]
        case "RGBA":
            return Image.fromarray(levels), over(levels[..., :3], levels[..., 3], 255)
        case "P":
            image, colours, _ = palette(size, rng)
            return image, colours
        case "P;A":
            image, colours, index = palette(size, rng)
            alpha = rng.integers(0, 256, 256, dtype=np.uint8)
            image.info["transparency"] = alpha.tobytes()
            return image, over(colours, alpha[index], 255)
        case "I;16":
            deep = rng.integers(0, 65536, size, dtype=np.uint16)
            return Image.fromarray(deep), grey(deep // 256)
        case "F":
            reals = rng.random(size, dtype=np.float32)
            return Image.fromarray(reals), grey(np.rint(reals * 255))
        case "CMYK":
            inks = 255.0 - levels
            return Image.fromarray(levels, mode), np.rint(inks[..., :3] * inks[..., 3:] / 255)
    raise ValueError(mode)


FORMATS: dict[str, tuple[str, dict[str, Any], tuple[str, ...], bool]] = {
    "png": ("PNG", {}, ("1", "L", "LA", "RGB", "RGBA", "P", "P;A", "I;16"), True),
    "tiff": ("TIFF", {}, ("1", "L", "LA", "RGB", "RGBA", "P", "I;16", "F", "CMYK"), True),
    "tiff lzw": ("TIFF", {"compression": "tiff_lzw"}, ("1", "L", "RGB", "RGBA", "P", "I;16", "CMYK"), True),
    "tiff zip": ("TIFF", {"compression": "tiff_adobe_deflate"}, ("L", "RGB", "I;16", "F"), True),
    "bigtiff": ("TIFF", {"big_tiff": True}, ("L", "RGB", "I;16"), True),
    "webp": ("WEBP", {"lossless": True, "exact": True}, ("RGB", "RGBA"), True),
    "jpeg": ("JPEG", {"quality": 100, "subsampling": 0}, ("L", "RGB", "CMYK"), True),
    "progressive": ("JPEG", {"quality": 100, "subsampling": 0, "progressive": True}, ("L", "RGB"), True),
    "bmp": ("BMP", {}, ("1", "L", "RGB", "P"), False),
    "gif": ("GIF", {}, ("L", "P"), False),
}
"""A format of Pillow, how to write it, the modes that it keeps, and whether it has EXIF."""

Case = tuple[str, str, tuple[int, int], int, int]
SIDES = st.integers(1, 20)


@st.composite
def cases(draw: Callable[..., Any], names: tuple[str, ...] = tuple(FORMATS)) -> Case:
    name = draw(st.sampled_from(names))
    _, _, modes, has_exif = FORMATS[name]
    orientation = draw(st.integers(1, 8)) if has_exif else 1
    seed = draw(st.integers(0, 2**32 - 1))
    return name, draw(st.sampled_from(modes)), (draw(SIDES), draw(SIDES)), orientation, seed


def written(case: Case) -> tuple[bytes, Array]:
    """The file of a case, and what it shows."""
    name, mode, size, orientation, seed = case
    kind, options, _, has_exif = FORMATS[name]
    image, shown = make(mode, size, np.random.default_rng(seed))
    options = options | ({"exif": exif(orientation)} if has_exif else {})
    return encoded(image, kind, **options), UPRIGHT[orientation](shown)


def pixels(source: Any) -> Array:
    return np.asarray(read_rgb(source).pixels).astype(int)


@settings(max_examples=300)
@given(cases())
def test_every_mode_format_size_and_orientation_shows_what_was_written(case: Case) -> None:
    content, shown = written(case)
    picture = read_rgb(content)
    assert (picture.pixels.mode, picture.orientation) == ("RGB", case[3])
    assert picture.size == picture.pixels.size == shown.shape[1::-1]
    # JPEG loses a little even at its best quality; alpha and ink are blended in whole numbers.
    tolerance = 6 if case[0] in ("jpeg", "progressive") else case[1] in ("LA", "RGBA", "P;A", "CMYK")
    np.testing.assert_allclose(pixels(content), shown, atol=tolerance)


@settings(max_examples=100)
@given(cases())
def test_a_file_cut_anywhere_is_refused_or_shows_the_whole_picture(case: Case) -> None:
    content, _ = written(case)
    whole = pixels(content)
    for length in {*range(0, len(content), 1 + len(content) // 40), *range(len(content) - 20, len(content))}:
        cut = content[: max(0, length)]
        try:
            found = pixels(cut)
        except DecodeError:
            with pytest.raises(DecodeError):
                read_rgb(cut, at_least=1)
        else:
            np.testing.assert_array_equal(found, whole)


@given(cases(), st.data())
def test_damage_never_raises_anything_else(case: Case, data: st.DataObject) -> None:
    content = bytearray(written(case)[0])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    for read in (read_rgb, read_mask):
        with suppress(DecodeError):
            assert min(read(bytes(content)).size) >= 1


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"GIF89a", b"BM"]),
)
def test_no_bytes_raise_anything_else(content: bytes, start: bytes) -> None:
    with pytest.raises(DecodeError):
        read_rgb(start + content)


def levels_of_a_mask(mode: str, levels: Array) -> Image.Image:
    """Grey levels, written in another mode."""
    image = Image.fromarray(levels)
    match mode:
        case "1":
            return Image.fromarray(levels >= 128)
        case "I;16":
            return Image.fromarray(levels.astype(np.uint16) * 257)
        case "F":
            return Image.fromarray((levels / 255).astype(np.float32))
        case "P":
            indexed = Image.fromarray(255 - levels, "P")
            indexed.putpalette(np.repeat(np.arange(256, dtype=np.uint8)[::-1], 3).tobytes())
            return indexed
        case "alpha":
            white = np.full_like(levels, 255)
            return Image.fromarray(np.stack([white, white, white, levels], axis=-1))
    return image.convert(mode)


@given(
    st.sampled_from(["1", "L", "LA", "RGB", "RGBA", "P", "I;16", "F", "CMYK", "alpha"]),
    st.tuples(SIDES, SIDES),
    st.integers(1, 8),
    st.integers(0, 2**32 - 1),
)
def test_a_mask_of_any_mode_has_the_same_foreground(
    mode: str, size: tuple[int, int], orientation: int, seed: int
) -> None:
    levels = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    levels[levels == 127] = 126  # conversions may be one level off
    levels[levels == 128] = 129
    image = levels_of_a_mask(mode, levels)
    for kind in ("TIFF",) if mode in ("F", "CMYK") else ("TIFF", "PNG"):
        mask = read_mask(encoded(image, kind, exif=exif(orientation))).pixels
        assert mask.mode == "L"
        np.testing.assert_array_equal(np.asarray(mask) >= 128, UPRIGHT[orientation](levels >= 128))


def test_threshold_of_16_bits_is_in_the_middle() -> None:
    image = Image.fromarray(np.array([[0, 128, 255, 32767, 32768, 65535]], np.uint16))
    foreground = np.asarray(read_mask(encoded(image, "PNG")).pixels) >= 128
    assert foreground.tolist() == [[False, False, False, False, True, True]]


def test_coloured_mask_is_refused_and_jpeg_noise_is_not() -> None:
    with pytest.raises(
        DecodeError, match="coloured picture, no mask: its channels differ by up to 255 levels"
    ):
        read_mask(encoded(Image.new("RGB", (8, 8), (255, 0, 0)), "PNG"))
    noisy = encoded(Image.new("RGB", (8, 8), (250, 240, 255)), "JPEG")
    assert np.asarray(read_mask(noisy).pixels).min() >= 230


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP"])
def test_first_of_several_frames_is_read(kind: str) -> None:
    frames = [Image.new("RGB", (9, 5), colour) for colour in ("red", "lime", "blue")]
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    red, green, blue = pixels(content).mean((0, 1))
    assert red > 240
    assert max(green, blue) < 10


def test_user_images_are_read_like_files_and_left_as_they_are() -> None:
    image = Image.new("LA", (4, 3), (90, 0))
    image.getexif()[ORIENTATION] = 6
    assert pixels(image).shape == (4, 3, 3)
    assert (pixels(image) == 255).all()
    assert (image.mode, image.size, image.getexif()[ORIENTATION]) == ("LA", (4, 3), 6)


# Files that Pillow does not write.


def png(width: int, height: int, bits: int, colour: int, data: bytes, *, before=(), after=()) -> bytes:
    """A PNG of filtered rows, with other chunks before and after the pixels."""
    header = struct.pack(">LLBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), *before, (b"IDAT", zlib.compress(data)), *after, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">L", len(body)) + name + body + struct.pack(">L", zlib.crc32(name + body))
        for name, body in chunks
    )


def tiff(
    width: int,
    height: int,
    bits: int,
    data: bytes,
    *,
    big: bool = False,
    more: dict[int, int] | None = None,
) -> bytes:
    """A greyscale TIFF of one strip whose directory comes last, as some programs write it."""
    start = 16 if big else 8
    tags = {
        256: width,
        257: height,
        258: bits,
        259: 1,
        262: 1,
        273: start,
        277: 1,
        278: height,
        279: len(data),
    }
    tags |= more or {}
    at = start + len(data)
    directory = struct.pack("<Q" if big else "<H", len(tags))
    entry = "<HHQQ" if big else "<HHLL"
    directory += b"".join(struct.pack(entry, tag, 4, 1, value) for tag, value in sorted(tags.items()))
    if big:
        return struct.pack("<2sHHHQ", b"II", 43, 8, 0, at) + data + directory + bytes(8)
    return struct.pack("<2sHL", b"II", 42, at) + data + directory + bytes(4)


@pytest.mark.parametrize("big", [False, True])
def test_directory_at_the_end_of_a_tiff_must_be_whole(big: bool) -> None:
    values = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    content = tiff(3, 2, 8, values.tobytes(), big=big, more={274: 6})
    np.testing.assert_array_equal(pixels(content), grey(np.rot90(values, -1)))
    for length in range(4, len(content)):
        with pytest.raises(
            DecodeError, match=rf"cut short: the TIFF needs at least \d+ bytes and has {length}"
        ):
            read_rgb(content[:length])


def test_pixels_of_a_tiff_must_lie_in_it() -> None:
    with pytest.raises(DecodeError, match=r"cut short: the TIFF needs at least 1,000,008 bytes"):
        read_rgb(tiff(1000, 1000, 8, b"1234", more={279: 1_000_000}))


def test_tiff_of_many_values_a_pixel_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(DecodeError, match="more than 6 values a pixel"):
        read_rgb(tiff(1, 1, 8, b"1234567", more={277: 7}))
    assert not caplog.records  # without logging set up, they would go to the standard error


def test_tiff_of_12_bits_and_of_inverted_values_keep_white_white() -> None:
    twelve = tiff(2, 1, 12, bytes([0xFF, 0xF8, 0x00]))  # 0xFFF and 0x800
    np.testing.assert_array_equal(pixels(twelve), grey(np.array([[255, 128]])))
    inverted = tiff(2, 1, 16, struct.pack("<HH", 0, 0xF000), more={262: 0})
    np.testing.assert_array_equal(pixels(inverted), grey(np.array([[255, 15]])))
    inverted = tiff(2, 1, 32, struct.pack("<ff", 0, 0.8), more={262: 0, 339: 3})
    np.testing.assert_array_equal(pixels(inverted), grey(np.array([[255, 51]])))


def test_exif_behind_the_pixels_of_a_png_counts() -> None:
    values = np.array([[10, 20, 30]], np.uint8)
    block = b"II*\0" + struct.pack("<LHHHLHHL", 8, 1, ORIENTATION, 3, 1, 8, 0, 0)
    content = png(3, 1, 8, 0, b"\0" + values.tobytes(), after=[(b"eXIf", block)])
    assert read_rgb(content).orientation == 8
    np.testing.assert_array_equal(pixels(content)[:, 0, 0], [30, 20, 10])
    for length in range(len(content) - 4):  # the checksum of the empty last chunk holds nothing
        with pytest.raises(DecodeError):
            read_rgb(content[:length])


def test_wrong_checksum_of_a_png_is_noticed() -> None:
    content = bytearray(png(2, 2, 8, 0, b"\0\1\2\0\3\4"))
    content[content.index(b"IDAT") + 9] ^= 1
    with pytest.raises(DecodeError, match="damaged"):
        read_mask(bytes(content))


@pytest.mark.parametrize(
    ("bits", "row", "key"), [(1, 0b10000000, 1), (2, 0b11000000, 3), (4, 0b11110000, 15)]
)
def test_transparent_level_of_a_shallow_png_is_widened_with_the_others(bits: int, row: int, key: int) -> None:
    content = png(2, 1, bits, 0, bytes([0, row]), before=[(b"tRNS", struct.pack(">H", key))])
    # White is transparent: background of a mask; on white paper it stays white.
    assert np.asarray(read_mask(content).pixels).tolist() == [[0, 0]]
    assert pixels(content)[0, :, 0].tolist() == [255, 0]


def test_transparent_level_of_16_bits_is_exact() -> None:
    data = b"\0" + struct.pack(">HH", 0xFFFF, 0xFFFE)
    content = png(2, 1, 16, 0, data, before=[(b"tRNS", struct.pack(">H", 0xFFFF))])
    assert np.asarray(read_mask(content).pixels).tolist() == [[0, 255]]
    colour = png(1, 1, 16, 2, b"\0" + b"\xff" * 6, before=[(b"tRNS", b"\xff" * 6)])
    with pytest.raises(DecodeError, match="16 bits"):
        read_rgb(colour)


def test_16_bit_colour_keeps_its_high_byte() -> None:
    assert pixels(png(1, 1, 16, 2, b"\0\x80\x01\xff\xff\x00\xff")).tolist() == [[[128, 255, 0]]]


def test_cmyk_jpeg_is_inverted_only_with_adobes_marker() -> None:
    inks = (255, 0, 0, 0)  # cyan
    content = encoded(Image.new("CMYK", (8, 8), inks), "JPEG", quality=100)
    np.testing.assert_allclose(pixels(content)[0, 0], [0, 255, 255], atol=3)
    marker = content.index(b"\xff\xee")
    (length,) = struct.unpack(">H", content[marker + 2 : marker + 4])
    without = content[:marker] + content[marker + 2 + length :]
    # The same numbers now mean what they say: all but cyan at full.
    np.testing.assert_allclose(pixels(without)[0, 0], [0, 0, 0], atol=3)


@pytest.mark.parametrize("values", [[[0.0, 1.5]], [[-0.1, 1.0]], [[float("nan"), 0.0]], [[0.0, 200.0]]])
def test_floats_without_a_defined_white_are_refused(values: list[list[float]]) -> None:
    with pytest.raises(DecodeError, match="not all from 0"):
        read_mask(encoded(Image.fromarray(np.array(values, np.float32)), "TIFF"))


def test_32_bit_integers_are_refused() -> None:
    with pytest.raises(DecodeError, match="32-bit integers have no defined white"):
        read_rgb(encoded(Image.new("I", (2, 2)), "TIFF"))


def test_damaged_exif_does_not_make_a_photograph_unreadable() -> None:
    content = encoded(Image.new("RGB", (4, 3)), "JPEG", exif=b"Exif\0\0" + b"nonsense" * 4)
    assert read_rgb(content).size == (4, 3)
    hexadecimal = [(b"tEXt", b"Raw profile type exif\0\nexif\n  4\nnone")]
    assert read_rgb(png(1, 1, 8, 0, b"\0\0", before=hexadecimal)).size == (1, 1)
    nine = encoded(Image.new("RGB", (4, 3)), "JPEG", exif=exif(9))
    assert (read_rgb(nine).size, read_rgb(nine).orientation) == ((4, 3), 1)


# What is refused.


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "^the file is empty$"),
        (b"no image", "^no image, or its header is damaged; BMP, GIF, JPEG, PNG, TIFF, WEBP are read$"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "^no image"),
        (b"P2 2 1 255 100 10", "^no image"),
        (png(0, 3, 8, 0, b""), "^no image"),
        (png(20_000, 20_000, 8, 0, b""), "too many"),
        (png(MAX_SIDE + 1, 1, 8, 0, b""), r"65536 x 1 pixels are too many; the most are .* 65,535 on a side"),
        (
            png(11_586, 11_586, 8, 0, b""),
            r"11586 x 11586 pixels are too many; the most are 134,217,728 pixels",
        ),
        (tiff(11_586, 11_586, 8, b""), "too many"),
        (encoded(Image.new("RGB", (64, 64)), "JPEG")[:-20], "damaged or cut short: image file is truncated"),
    ],
)
def test_reasons(content: bytes, reason: str) -> None:
    for read in (read_rgb, read_mask):
        with pytest.raises(DecodeError, match=reason):
            read(content)


def test_size_is_refused_before_anything_is_decoded() -> None:
    """The pixels of these files are missing, so that decoding them would give another reason."""
    assert 11_585**2 <= MAX_PIXELS < 11_586**2
    with pytest.raises(DecodeError, match="damaged or cut short"):
        read_rgb(png(11_585, 11_585, 8, 0, b""))


@pytest.mark.parametrize("size", [(6048, 6048), (20_000, 10), (10, 20_000), (1, 1)])
def test_sizes_of_real_photographs_are_admitted(size: tuple[int, int]) -> None:
    content = encoded(Image.new("1", size, 1), "PNG", exif=exif(5))
    assert read_mask(content).size == size[::-1]


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DecodeError, match="not a regular file"):
        read_rgb(tmp_path / "pipe")
    with pytest.raises(DecodeError, match="it is a folder"):
        read_rgb(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_rgb(tmp_path / "missing.png")
    with pytest.raises(DecodeError):
        read_rgb("a\0b")
    with pytest.raises(DecodeError, match="0 x 3: it has no pixels"):
        read_rgb(Image.new("RGB", (0, 3)))


def test_path_and_bytes_are_the_same(tmp_path: Path) -> None:
    content, shown = written(("tiff lzw", "RGB", (7, 4), 3, 0))
    (tmp_path / "image").write_bytes(content)
    np.testing.assert_array_equal(pixels(tmp_path / "image"), shown)
    np.testing.assert_array_equal(pixels(str(tmp_path / "image")), shown)


def test_a_fraction_of_a_jpeg_knows_the_whole_size() -> None:
    content = encoded(Image.new("RGB", (400, 240), "red"), "JPEG", exif=exif(6))
    picture = read_rgb(content, at_least=60)
    assert (picture.size, picture.orientation) == ((240, 400), 6)
    assert picture.pixels.size == (60, 100)
    assert read_rgb(content).pixels.size == (240, 400)
    assert read_rgb(encoded(Image.new("L", (400, 240)), "PNG"), at_least=60).pixels.size == (400, 240)


# Silence.


def noisy() -> list[bytes]:
    """Files about which Pillow warns or libtiff writes to the standard error."""
    half_palette = Image.new("P", (4, 4))
    half_palette.info["transparency"] = bytes(range(256))
    lzw = bytearray(encoded(Image.effect_noise((30, 30), 90), "TIFF", compression="tiff_lzw"))
    lzw[40:60] = b"\xff" * 20
    bomb_for_pillow = png(10_000, 10_000, 1, 0, b"")
    broken_exif = b"Exif\0\0II*\0" + struct.pack("<LHHHLL", 8, 7, ORIENTATION, 3, 9, 10**6)
    return [
        encoded(half_palette, "PNG"),
        bytes(lzw),
        bomb_for_pillow,
        encoded(Image.new("RGB", (4, 3)), "JPEG", exif=broken_exif),
        encoded(Image.new("RGB", (9, 9)), "TIFF", compression="jpeg")[:-60],
    ]


def test_the_files_are_noisy_when_pillow_reads_them(capfd: pytest.CaptureFixture[str]) -> None:
    """So that the next tests can fail."""
    caught = []
    for content in noisy():
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            with suppress(Exception):
                Image.open(io.BytesIO(content)).convert("RGB").getexif()
            caught += told
    assert len(caught) >= 3
    assert capfd.readouterr().err.count("\n") >= 2


def read_all_noisy_files(times: int = 1) -> None:
    for content in noisy() * times:
        with suppress(DecodeError):
            read_rgb(content)


def test_nothing_is_written_and_nothing_warned(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        read_all_noisy_files()
    assert not told
    assert capfd.readouterr() == ("", "")


def test_threads_are_as_silent_and_leave_the_filters_of_warnings_as_they_were(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        before = list(warnings.filters)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(read_all_noisy_files, [10] * 8))
        assert warnings.filters == before
    assert not told
    assert capfd.readouterr() == ("", "")


def test_what_others_write_meanwhile_is_passed_on(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    content = encoded(Image.new("L", (8, 8)), "TIFF", compression="tiff_lzw")
    load, calls = Image.Image.load, []

    def load_and_write(image: Image.Image) -> Any:
        calls.append(os.write(2, b"another thread has something to say\n"))
        return load(image)

    monkeypatch.setattr(Image.Image, "load", load_and_write)
    read_rgb(content)
    assert capfd.readouterr().err.count("another thread has something to say") == len(calls) > 0


def test_a_process_without_a_standard_error_decodes_too(tmp_path: Path) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "image.tif", compression="tiff_lzw")
    code = "import sys; from rsrnet.data.decode import read_rgb; print(read_rgb(sys.argv[1]).size)"
    command = f"{sys.executable} -c '{code}' {tmp_path}/image.tif 2>&-"
    done = subprocess.run(command, shell=True, capture_output=True, timeout=60)
    assert done.stdout == b"(8, 6)\n"
