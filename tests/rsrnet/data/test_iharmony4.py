"""The reader."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rsrnet.data.errors import BadDataError
from rsrnet.data.iharmony4 import IHarmony4, Sample, open_pair
from rsrnet.data.lists import read_list
from rsrnet.data.naming import Composite
from rsrnet.data.transforms import EvalTransform, TrainTransform, Transform

Add = Callable[..., Composite]
AddMany = Callable[[int], list[Composite]]

PATH = "HCOCO/composite_images/c1_2_3.jpg"
ROTATED = 6
ORIENTATION = 0x0112


def quarter(mask: torch.Tensor) -> list[float]:
    """Foreground shares of the four quarters, row by row."""
    half = mask.shape[-1] // 2
    return [
        part.mean().item()
        for part in (
            mask[0, :half, :half],
            mask[0, :half, half:],
            mask[0, half:, :half],
            mask[0, half:, half:],
        )
    ]


def test_item_is_the_image_its_mask_and_its_index(tmp_path: Path, add: Add) -> None:
    composites = [add(PATH), add("HCOCO/composite_images/c1_2_4.jpg", size=(64, 48))]
    item = IHarmony4(tmp_path, composites, EvalTransform(32))[1]
    assert item["image"].shape == (3, 32, 32)
    assert item["image"].dtype == item["mask"].dtype == torch.float32
    assert quarter(item["mask"]) == [1, 0, 0, 0]
    assert item["index"] == 1
    with Image.open(tmp_path / composites[1].path) as image:
        expected = np.asarray(image)[24, 32] / 255
    np.testing.assert_allclose(item["image"][:, 16, 16].numpy(), expected, atol=0.05)


def test_channels_are_in_rgb_order(tmp_path: Path, add: Add) -> None:
    composite = add(PATH)
    Image.new("RGB", (40, 30), (250, 120, 10)).save(tmp_path / PATH, quality=95)
    image = IHarmony4(tmp_path, [composite], EvalTransform(32))[0]["image"]
    np.testing.assert_allclose(image.mean((1, 2)).numpy() * 255, [250, 120, 10], atol=3)


def test_generated_folder_is_read_by_the_same_reader(tmp_path: Path, add: Add) -> None:
    add("Sample/composite_images/sastronaut-004_1_2.jpg")
    (tmp_path / "le50_train.txt").write_text("Sample/composite_images/sastronaut-004_1_2.jpg\n")
    item = Sample(tmp_path, read_list(tmp_path, "le50_train.txt"), EvalTransform(32))[0]
    assert quarter(item["mask"]) == [1, 0, 0, 0]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_mask_of_any_mode_is_read(tmp_path: Path, add: Add, mode: str) -> None:
    composite = add(PATH)
    with Image.open(tmp_path / composite.mask_path) as mask:
        converted = mask.convert(mode)
    converted.save(tmp_path / composite.mask_path)
    with Image.open(tmp_path / composite.mask_path) as mask:
        assert mask.mode == mode
    assert quarter(IHarmony4(tmp_path, [composite], EvalTransform(32))[0]["mask"]) == [1, 0, 0, 0]


@pytest.mark.parametrize("size", [(1, 1), (20_000, 10), (10, 20_000)])
@pytest.mark.parametrize("transform", [EvalTransform(32), TrainTransform(32)], ids=["eval", "train"])
def test_images_of_extreme_sizes_are_read(
    tmp_path: Path, add: Add, size: tuple[int, int], transform: Transform
) -> None:
    composite = add(PATH, size=size)
    Image.new("L", size, 255).save(tmp_path / composite.mask_path)
    item = IHarmony4(tmp_path, [composite], transform)[0]
    assert item["image"].shape == (3, 32, 32)
    assert item["mask"].min() == 1


def test_mask_of_16_bits_is_scaled(tmp_path: Path, add: Add) -> None:
    composite = add(PATH)
    with Image.open(tmp_path / composite.mask_path) as mask:
        deep = np.asarray(mask).astype(np.uint16) * 200  # up to 51000, of 65535
    Image.fromarray(deep).save(tmp_path / composite.mask_path)
    assert quarter(IHarmony4(tmp_path, [composite], EvalTransform(32))[0]["mask"]) == [1, 0, 0, 0]


def test_coloured_picture_is_no_mask(tmp_path: Path, add: Add) -> None:
    composite = add(PATH)
    Image.new("RGB", (40, 30), "red").save(tmp_path / composite.mask_path)
    with pytest.raises(
        BadDataError, match=r"masks/c1_2\.png: cannot be decoded \(a coloured picture, no mask"
    ):
        open_pair(tmp_path, composite)


def test_grey_composite_is_read_as_rgb(tmp_path: Path, add: Add) -> None:
    composite = add(PATH)
    Image.new("L", (40, 30), 90).save(tmp_path / PATH)
    image = IHarmony4(tmp_path, [composite], EvalTransform(32))[0]["image"]
    assert torch.equal(image[0], image[2])


def test_rotated_image_stands_upright(tmp_path: Path, add: Add) -> None:
    composite = add(PATH, size=(30, 40))
    lying = np.zeros((30, 40, 3), dtype=np.uint8)
    lying[:, :20] = 255
    exif = Image.Exif()
    exif[ORIENTATION] = ROTATED
    Image.fromarray(lying).save(tmp_path / PATH, exif=exif)
    image, mask = open_pair(tmp_path, composite)
    assert image.size == mask.size == (30, 40)
    # Turned clockwise, the left half of the lying image is the upper half.
    assert np.asarray(image)[:18].min() > 250
    assert np.asarray(image)[22:].max() < 5


def test_augmentation_depends_on_seed_epoch_and_index(tmp_path: Path, add: Add) -> None:
    composites = [add(PATH)] * 2
    dataset = IHarmony4(tmp_path, composites, TrainTransform(32), seed=1)
    first = dataset[3, 0]["image"]
    assert torch.equal(dataset[3, 0]["image"], first)
    assert not torch.equal(dataset[4, 0]["image"], first)
    assert not torch.equal(dataset[3, 1]["image"], first)
    assert not torch.equal(IHarmony4(tmp_path, composites, TrainTransform(32), seed=2)[3, 0]["image"], first)


def test_plain_index_is_the_first_epoch(tmp_path: Path, add: Add) -> None:
    dataset = IHarmony4(tmp_path, [add(PATH)], TrainTransform(32))
    assert torch.equal(dataset[0]["image"], dataset[0, 0]["image"])
    assert torch.equal(dataset[-1]["image"], dataset[0]["image"])


def test_dataset_ends(tmp_path: Path, add_many: AddMany) -> None:
    dataset = IHarmony4(tmp_path, add_many(2), EvalTransform(16))
    assert len(dataset) == len(list(dataset)) == 2
    with pytest.raises(IndexError):
        dataset[2]


def test_missing_mask_is_named(tmp_path: Path, add: Add) -> None:
    composite = add(PATH)
    (tmp_path / composite.mask_path).unlink()
    with pytest.raises(BadDataError, match=r"HCOCO/masks/c1_2\.png: there is no such file"):
        open_pair(tmp_path, composite)


def test_mask_of_another_size_is_named_with_both_sizes(tmp_path: Path, add: Add) -> None:
    composite = add(PATH)
    Image.new("L", (30, 40)).save(tmp_path / composite.mask_path)
    with pytest.raises(BadDataError, match=r"c1_2_3\.jpg: the image has 40 x 30, its mask 30 x 40 pixels"):
        open_pair(tmp_path, composite)


@pytest.mark.parametrize("broken", ["path", "mask_path"])
@pytest.mark.parametrize("keep", [0.0, 0.7], ids=["empty", "truncated"])
def test_damaged_file_is_named(tmp_path: Path, add: Add, broken: str, keep: float) -> None:
    composite = add(PATH, size=(300, 200))
    file = tmp_path / getattr(composite, broken)
    content = file.read_bytes()
    file.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(BadDataError, match=rf"{getattr(composite, broken)}: cannot be decoded"):
        open_pair(tmp_path, composite)


def test_text_named_like_an_image_cannot_be_decoded(tmp_path: Path, add: Add) -> None:
    composite = add(PATH)
    (tmp_path / PATH).write_text("not an image")
    with pytest.raises(BadDataError, match=r"c1_2_3\.jpg: cannot be decoded"):
        open_pair(tmp_path, composite)


def test_dataset_can_be_sent_to_another_process(tmp_path: Path, add: Add) -> None:
    dataset = IHarmony4(tmp_path, [add(PATH)], TrainTransform(32), seed=4)
    sent = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(sent[5, 0]["image"], dataset[5, 0]["image"])
