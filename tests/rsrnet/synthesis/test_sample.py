"""Building a sample: layout, names, lists, seeds, splits, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image
from scipy import ndimage

from rsrnet.config import ConfigError
from rsrnet.synthesis import PhotographError, SampleConfig, SampleError, build_sample

CONFIG = SampleConfig(train=18, val=3, test=6, size=48, seed=5)
BUILT_IN = {
    "train": {"astronaut", "motorcycle", "rocket", "flower", "hubble", "tissue"},
    "val": {"china"},
    "test": {"chelsea", "coffee"},
}
NAME = re.compile(r"Sample/composite_images/s([a-z0-9]+)-(\d{3})_(\d)_([1-4])\.jpg")


def contents(root: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()
    }


def listed(root: Path, split: str) -> list[str]:
    return (root / f"le50_{split}.txt").read_text().splitlines()


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def smooth_noise(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    noise = ndimage.gaussian_filter(rng.standard_normal((height, width, 1)), (2, 2, 0))
    return noise / noise.std()


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("built") / "sample"
    build_sample(out, CONFIG, processes=1)
    return out


@pytest.fixture
def folder(tmp_path) -> tuple[Path, Path]:
    """Five photographs of two colours each, with a disc for a mask."""
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    masks.mkdir()
    rng = np.random.default_rng(0)
    for index in range(5):
        width, height = 80 + 10 * index, 60
        left, right = (70 + 15 * index, 100, 170 - 15 * index), (175 - 15 * index, 140, 80 + 15 * index)
        colours = np.repeat([left, right], width // 2, axis=0)
        texture = 12 * smooth_noise(rng, height, width) + colours
        Image.fromarray(np.clip(texture, 0, 255).astype(np.uint8)).save(images / f"Photo {index}.png")
        rows, columns = np.mgrid[:height, :width]
        inside = (rows - 30) ** 2 + (columns - 18) ** 2 < 14**2
        Image.fromarray(inside.astype(np.uint8) * 255).save(masks / f"Photo {index}.png")
    return images, masks


def test_lists_names_and_files_agree(sample):
    names = [name for split in BUILT_IN for name in listed(sample, split)]
    assert len(names) == len(set(names)) == 27
    on_disk = {
        f"Sample/composite_images/{file.name}" for file in (sample / "Sample/composite_images").iterdir()
    }
    assert set(names) == on_disk
    masks = {f"{Path(name).name.rsplit('_', 1)[0]}.png" for name in names}
    assert masks == {file.name for file in (sample / "Sample/masks").iterdir()}
    reals = {f"{Path(name).name.rsplit('_', 2)[0]}.jpg" for name in names}
    assert reals == {file.name for file in (sample / "Sample/real_images").iterdir()}


def test_splits_hold_the_composites_asked_for_and_share_no_photograph(sample):
    for split, photographs in BUILT_IN.items():
        names = listed(sample, split)
        assert len(names) == getattr(CONFIG, split)
        assert {NAME.fullmatch(name)[1] for name in names} == photographs


def test_masks_are_black_and_white_and_cover_1_to_50_percent(sample):
    for file in (sample / "Sample/masks").iterdir():
        with Image.open(file) as mask:
            assert (mask.mode, mask.size) == ("L", (48, 48))
            values = np.asarray(mask)
        assert set(np.unique(values)) == {0, 255}
        assert 0.01 <= (values == 255).mean() <= 0.5


def test_composites_differ_from_their_photograph_inside_the_mask_only(sample):
    for name in (name for split in BUILT_IN for name in listed(sample, split)):
        stem = Path(name).stem
        mask = read(sample / f"Sample/masks/{stem.rsplit('_', 1)[0]}.png") > 0
        real = read(sample / f"Sample/real_images/{stem.rsplit('_', 2)[0]}.jpg")
        change = np.abs(read(sample / name) - real).mean(-1)
        assert change[mask].mean() > 8, name
        # JPEG smears colour by up to a block of 16 pixels.
        rows, columns = (np.convolve(mask.any(axis), np.ones(33), "same") > 0 for axis in (1, 0))
        assert change[~(rows[:, None] & columns)].sum() == 0, name
        assert change[~mask].mean() < 0.5 * change[mask].mean(), name


def test_all_four_transfers_occur(sample):
    used = [NAME.fullmatch(name)[4] for name in listed(sample, "train")]
    assert set(used) == {"1", "2", "3", "4"}


def test_two_processes_give_the_bytes_of_one(sample, tmp_path):
    calls: list[tuple[int, int]] = []
    build_sample(
        tmp_path / "s", CONFIG, processes=2, progress=lambda done, total: calls.append((done, total))
    )
    assert contents(tmp_path / "s") == contents(sample)
    assert calls[-1] == (27, 27)
    assert calls == sorted(calls)


def test_another_seed_gives_other_composites(sample, tmp_path):
    small = SampleConfig(train=4, val=1, test=1, size=48, seed=6)
    build_sample(tmp_path / "s", small, processes=1)
    for file in (tmp_path / "s/Sample/real_images").iterdir():
        assert file.read_bytes() != (sample / "Sample/real_images" / file.name).read_bytes()


def test_the_same_sample_is_reused_untouched(sample):
    before = {file: file.stat().st_mtime_ns for file in sample.rglob("*")}
    report = build_sample(sample, CONFIG, processes=1)
    assert report.reused
    assert report.composites == {"train": 18, "val": 3, "test": 6}
    assert {file: file.stat().st_mtime_ns for file in sample.rglob("*")} == before


def test_a_folder_with_something_else_is_refused_and_kept(sample, tmp_path):
    with pytest.raises(SampleError, match="give another folder, or remove this one"):
        build_sample(sample, SampleConfig(train=19, val=3, test=6, size=48, seed=5), processes=1)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SampleError, match=re.escape(str(tmp_path))):
        build_sample(tmp_path, CONFIG, processes=1)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_an_interrupted_build_leaves_nothing(tmp_path):
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_sample(tmp_path / "s", CONFIG, processes=1, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_sample_json_says_which_photograph_is_in_which_split(sample):
    entries = json.loads((sample / "sample.json").read_text())["photographs"]
    assert {entry["photograph"]: entry["split"] for entry in entries} == {
        photograph: split for split, photographs in BUILT_IN.items() for photograph in photographs
    }


def test_own_masks_are_the_regions(folder, tmp_path):
    images, masks = folder
    out = tmp_path / "s"
    report = build_sample(out, SampleConfig(8, 2, 2, size=64), images=images, masks=masks, processes=1)
    slugs = sorted(slug for split in report.photographs.values() for slug in split)
    assert slugs == [f"photo{index}" for index in range(5)]
    assert [len(report.photographs[split]) for split in ("train", "val", "test")] == [3, 1, 1]
    for file in (out / "Sample/masks").iterdir():
        mask = read(file) > 0
        assert mask.shape[1] == 64
        original = read(masks / f"Photo {file.stem[6]}.png") > 0
        assert mask.mean() == pytest.approx(original.mean(), abs=0.01)


def test_own_photographs_without_masks_are_cropped(folder, tmp_path):
    out = tmp_path / "s"
    build_sample(out, SampleConfig(4, 1, 1, size=40), images=folder[0], processes=1)
    with Image.open(next((out / "Sample/real_images").iterdir())) as real:
        assert real.size == (40, 40)
    assert [len(listed(out, split)) for split in BUILT_IN] == [4, 1, 1]


def test_more_photographs_than_composites_leaves_some_out(folder, tmp_path):
    build_sample(tmp_path / "s", SampleConfig(1, 1, 1, size=40), images=folder[0], processes=1)
    assert [len(listed(tmp_path / "s", split)) for split in BUILT_IN] == [1, 1, 1]


def test_a_photograph_turned_by_its_exif_tag_is_read_upright(folder, tmp_path):
    images, masks = folder
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    with Image.open(images / "Photo 0.png") as photograph:
        photograph.transpose(Image.Transpose.ROTATE_90).save(images / "Photo 0.jpg", exif=exif)
    (images / "Photo 0.png").unlink()
    build_sample(tmp_path / "s", SampleConfig(3, 1, 1, size=64), images=images, masks=masks, processes=1)


def unreadable(images: Path, masks: Path) -> None:
    (images / "Photo 1.png").write_bytes((images / "Photo 1.png").read_bytes()[:200])


def missing_mask(images: Path, masks: Path) -> None:
    (masks / "Photo 1.png").unlink()


def other_size(images: Path, masks: Path) -> None:
    Image.new("L", (90, 61), 255).save(masks / "Photo 1.png")


def empty(images: Path, masks: Path) -> None:
    Image.new("L", (90, 60), 1).save(masks / "Photo 1.png")


def too_large(images: Path, masks: Path) -> None:
    Image.new("L", (90, 60), 255).save(masks / "Photo 1.png")


def unreadable_mask(images: Path, masks: Path) -> None:
    (masks / "Photo 1.png").write_text("no image")


def coloured_mask(images: Path, masks: Path) -> None:
    Image.new("RGB", (90, 60), "red").save(masks / "Photo 1.png")


def tiny(images: Path, masks: Path) -> None:
    Image.new("RGB", (90, 8)).save(images / "Photo 1.png")


def two_of_one_stem(images: Path, masks: Path) -> None:
    Image.new("RGB", (90, 60)).save(images / "Photo 1.jpg")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (unreadable, "Photo 1.png cannot be read as an image"),
        (missing_mask, "Photo 1.png has no mask"),
        (other_size, "mask Photo 1.png is 90 x 61, but Photo 1.png is 90 x 60"),
        (empty, r"mask Photo 1.png is empty \(no pixel is 128 or brighter\)"),
        (too_large, "mask Photo 1.png covers 100% of its image, more than half"),
        (unreadable_mask, "mask Photo 1.png cannot be read as an image"),
        (coloured_mask, r"mask Photo 1.png cannot be read as an image \(a coloured picture, no mask"),
        (tiny, "Photo 1.png is 90 x 8, smaller than 16 pixels"),
        (two_of_one_stem, "Photo 1.jpg and Photo 1.png in .* have the same stem"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_bad_file_is_refused_by_name_and_nothing_is_written(folder, tmp_path, spoil, reason):
    spoil(*folder)
    with pytest.raises(PhotographError, match=reason):
        build_sample(tmp_path / "s", CONFIG, images=folder[0], masks=folder[1], processes=1)
    assert {path.name for path in tmp_path.iterdir()} == {"images", "masks"}


def test_all_bad_files_are_named_at_once(folder, tmp_path):
    unreadable(*folder)
    Image.new("L", (80, 60), 0).save(folder[1] / "Photo 0.png")
    with pytest.raises(
        PhotographError, match=r"(?s)(?=.*Photo 1\.png cannot)(?=.*mask Photo 0\.png is empty)"
    ):
        build_sample(tmp_path / "s", CONFIG, images=folder[0], masks=folder[1], processes=1)


def test_two_photographs_are_too_few(folder, tmp_path):
    for index in (2, 3, 4):
        (folder[0] / f"Photo {index}.png").unlink()
    with pytest.raises(PhotographError, match=r"holds 2 photographs.*add 1 or more"):
        build_sample(tmp_path / "s", CONFIG, images=folder[0], processes=1)


def test_missing_folder_and_masks_without_images_are_refused(tmp_path):
    with pytest.raises(PhotographError, match="is not a folder"):
        build_sample(tmp_path / "s", CONFIG, images=tmp_path / "none", processes=1)
    with pytest.raises(PhotographError, match="without their images"):
        build_sample(tmp_path / "s", CONFIG, masks=tmp_path, processes=1)


def test_photographs_of_one_single_colour_are_refused_by_name(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for index in range(3):
        Image.new("RGB", (40, 40), "black").save(images / f"black{index}.png")
    with pytest.raises(ValueError, match=r"black\d\.png: none of the recolourings"):
        build_sample(tmp_path / "s", SampleConfig(1, 1, 1, size=32), images=images, processes=1)
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_impossible_settings_are_all_named():
    with pytest.raises(ConfigError, match=r"(?s)train = 0.*size = 8"):
        SampleConfig(train=0, size=8)
