"""Images of every kind in, masks of the same size out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rsrnet import Localizer, checkpoint
from rsrnet.data.transforms import resize_image
from rsrnet.localizer import ImageError
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
    for given in (path, str(path), Image.fromarray(image), Image.open(path)):
        np.testing.assert_array_equal(localizer(given), expected)


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


def test_what_is_no_checkpoint_is_named(tmp_path) -> None:
    with pytest.raises(checkpoint.CheckpointError, match="not a checkpoint folder"):
        Localizer(tmp_path)
    with pytest.raises(checkpoint.CheckpointError, match=r"nothing installed knows `cards:` models"):
        Localizer("cards:/rsrnet/1")
