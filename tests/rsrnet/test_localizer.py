"""Images of every kind in, masks of the same size out."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rsrnet import Localizer, checkpoint
from rsrnet.data.transforms import resize_image
from rsrnet.detection import Detection
from rsrnet.localizer import ImageError
from rsrnet.model.config import RSRNetConfig
from rsrnet.model.network import RSRNet


@pytest.fixture
def localizer(tmp_path, tiny) -> Localizer:
    torch.manual_seed(0)
    checkpoint.save(tmp_path / "model", RSRNet(tiny), checkpoint.ModelCard(tiny, size=32))
    return Localizer(tmp_path / "model", device="cpu", batch_size=2)


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_mask_has_the_images_own_size(localizer) -> None:
    for size in [(32, 32), (17, 90), (200, 31), (1, 1)]:
        mask = localizer(picture(*size))
        assert mask.shape == size
        assert mask.dtype == np.float32
        assert 0 <= mask.min() <= mask.max() <= 1


def test_mask_is_the_networks_final_one(localizer) -> None:
    image = picture(32, 32)
    tensor = resize_image(torch.from_numpy(image).permute(2, 0, 1), 32)[None]
    with torch.no_grad():
        expected = localizer.model(tensor).m_fnl[0, 0].numpy()
    np.testing.assert_allclose(localizer(image), expected, atol=1e-6)


def test_list_gives_what_single_images_give(localizer) -> None:
    images = [picture(20 + i, 40 - i) for i in range(5)]
    masks = localizer(images)
    assert isinstance(masks, list)
    for image, mask in zip(images, masks, strict=True):
        np.testing.assert_allclose(mask, localizer(image), atol=1e-5)
    assert localizer([]) == []


def test_path_pil_and_array_are_the_same_image(localizer, tmp_path) -> None:
    image = picture(24, 36)
    Image.fromarray(image).save(tmp_path / "image.png")
    expected = localizer(image)
    path = tmp_path / "image.png"
    for each in (path, str(path), Image.fromarray(image), Image.open(path)):
        np.testing.assert_array_equal(localizer(each), expected)


def test_other_modes_become_rgb(localizer) -> None:
    grey = picture(20, 30)[..., 0]
    expected = localizer(np.stack([grey] * 3, axis=-1))
    np.testing.assert_array_equal(localizer(grey), expected)
    np.testing.assert_array_equal(localizer(Image.fromarray(grey)), expected)
    assert localizer(Image.new("RGBA", (30, 20))).shape == (20, 30)


def test_rotated_photograph_gives_an_upright_mask(localizer, tmp_path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(picture(20, 30)).save(tmp_path / "rotated.jpg", exif=exif)
    assert localizer(tmp_path / "rotated.jpg").shape == (30, 20)


@pytest.fixture(scope="module")
def any_localizer(tmp_path_factory) -> Localizer:
    config = RSRNetConfig(depth=18, width=4, iterations=1, scales=(0,))
    folder = tmp_path_factory.mktemp("model")
    checkpoint.save(folder, RSRNet(config), checkpoint.ModelCard(config, size=32))
    return Localizer(folder, device="cpu")


@given(
    st.integers(1, 50),
    st.integers(1, 50),
    st.sampled_from(["1", "L", "RGB"]),
    st.sampled_from(["PNG", "TIFF", "JPEG"]),
    st.integers(1, 8),
)
def test_mask_has_the_size_of_the_upright_file(any_localizer, width, height, mode, kind, orientation) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    file = io.BytesIO()
    Image.new(mode, (width, height)).save(file, kind, exif=exif)
    upright = (height, width) if orientation <= 4 else (width, height)
    assert any_localizer(Image.open(file)).shape == upright


@pytest.mark.parametrize("size", [(1, 1), (20_000, 10), (10, 20_000)])
def test_extreme_sizes_are_localized(localizer, tmp_path, size) -> None:
    Image.new("RGB", size, "teal").save(tmp_path / "image.png")
    assert localizer(tmp_path / "image.png").shape == size[::-1]


def test_16_bit_photograph_is_scaled(localizer, tmp_path) -> None:
    grey = picture(20, 30)[..., 0]
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(localizer(tmp_path / "deep.png"), localizer(grey))


def test_damaged_files_that_pillow_has_opened_are_named(localizer, tmp_path) -> None:
    path = tmp_path / "cut.png"
    Image.fromarray(picture(60, 60)).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ImageError, match=r"cut\.png: cannot be decoded \(damaged or cut short"):
        localizer(Image.open(path))
    with pytest.raises(ImageError, match=r"an image: cannot be decoded \(0 x 5: it has no pixels\)"):
        localizer(Image.new("RGB", (0, 5)))


def test_what_is_no_image_is_named(localizer, tmp_path) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(ImageError, match=r"text\.jpg: cannot be decoded"):
        localizer(tmp_path / "text.jpg")
    with pytest.raises(ImageError, match=r"missing\.jpg: no such file"):
        localizer([picture(8, 8), Path("missing.jpg")])
    with pytest.raises(ImageError, match="uint8"):
        localizer(picture(8, 8).astype(np.float32))
    with pytest.raises(ImageError, match=r"\(8, 8, 4\)"):
        localizer(np.zeros((8, 8, 4), np.uint8))
    with pytest.raises(ImageError, match=r"\(0, 8\)"):
        localizer(np.zeros((0, 8), np.uint8))
    with pytest.raises(ImageError, match="it is a folder"):
        localizer(tmp_path)
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(ImageError, match=r"empty\.jpg: cannot be decoded \(the file is empty\)"):
        localizer(tmp_path / "empty.jpg")


def test_what_is_no_checkpoint_is_named(tmp_path) -> None:
    with pytest.raises(checkpoint.CheckpointError, match="not a checkpoint folder"):
        Localizer(tmp_path)
    with pytest.raises(checkpoint.CheckpointError, match=r"nothing installed knows `cards:` models"):
        Localizer("cards:/rsrnet/1")


def test_flip_averages_with_the_mirrored_image(localizer, tmp_path) -> None:
    image = picture(32, 32)
    flipping = Localizer(tmp_path / "model", device="cpu", flip=True)
    both = (localizer(image) + localizer(image[:, ::-1].copy())[:, ::-1]) / 2
    np.testing.assert_allclose(flipping(image), both, atol=1e-5)
    np.testing.assert_allclose(flipping(image[:, ::-1].copy()), flipping(image)[:, ::-1], atol=1e-5)


def test_window_changes_large_images_only(localizer, tmp_path) -> None:
    windowed = Localizer(tmp_path / "model", device="cpu", batch_size=2, window=40)
    small, large = picture(30, 40), picture(90, 50)
    np.testing.assert_array_equal(windowed(small), localizer(small))
    assert np.abs(windowed(large) - localizer(large)).max() > 1e-4
    assert windowed.examine([large])[0].score == pytest.approx(localizer.examine([large])[0].score, abs=1e-6)
    with pytest.raises(ValueError, match="window = 0"):
        Localizer(tmp_path / "model", window=0)


def test_finding_has_a_score_and_the_model_s_verdict(localizer, tmp_path) -> None:
    image = picture(32, 32)
    (found,) = localizer.examine([image])
    assert found.score == pytest.approx(np.sort(found.mask.ravel())[-10:].mean(), abs=1e-6)
    assert found.inharmonious is None
    for threshold, verdict in ((found.score - 0.01, True), (found.score + 0.01, False)):
        detection = Detection(threshold, 0.9, 0.8, 0.1, 5, 5)
        checkpoint.write_card(tmp_path / "model", replace(localizer.card, detection=detection))
        again = Localizer(tmp_path / "model", device="cpu")
        assert again.card.detection == detection
        assert again.examine([image])[0].inharmonious is verdict
