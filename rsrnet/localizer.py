"""Image in, mask out: the one class that people who only want masks need."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import entry_points
from os import PathLike
from pathlib import Path
from typing import TypeAlias, overload

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from rsrnet import checkpoint
from rsrnet.data.decode import read_rgb
from rsrnet.data.errors import DecodeError
from rsrnet.data.transforms import resize_image

ImageLike: TypeAlias = Image.Image | NDArray[np.uint8] | str | PathLike[str]
"""A PIL image, an array (H, W, 3) or (H, W) of uint8, or the path of an image file."""


class ImageError(ValueError):
    """Raised when something given as an image is none."""


class Localizer:
    """Finds the inharmonious region of images of any size.

    Args:
        source: a checkpoint folder, or a registry URI such as ``models:/rsrnet@champion`` (which needs the
            platform installed).
        device: ``auto`` takes a GPU if there is one.
        batch_size: images the network sees at once.
        iterations: K, where it shall differ from the one that the network was trained with.
        tolerance: early exit: an image is done with the iteration that moves its mask by no more than this in any
            pixel of the module's resolution, such as 0.1. None: K iterations for every image.

    Raises:
        CheckpointError: if ``source`` is no checkpoint.
        IterationsError: if its network cannot follow ``iterations`` or ``tolerance``.

    Example:
        >>> mask = Localizer("checkpoint")("composite.jpg")  # float32 (H, W), 1 = inharmonious
    """

    def __init__(
        self,
        source: str | Path,
        device: str = "auto",
        batch_size: int = 8,
        iterations: int | None = None,
        tolerance: float | None = None,
    ) -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        folder = resolve(source)
        self.card = checkpoint.read_card(folder)
        self.model = checkpoint.load_model(folder, device)
        self.device = torch.device(device)
        self.batch_size = batch_size
        self.iterations = iterations
        self.tolerance = tolerance
        self.model.check(iterations, tolerance)

    @overload
    def __call__(self, images: ImageLike) -> NDArray[np.float32]: ...

    @overload
    def __call__(self, images: list[ImageLike] | tuple[ImageLike, ...]) -> list[NDArray[np.float32]]: ...

    def __call__(
        self, images: ImageLike | list[ImageLike] | tuple[ImageLike, ...]
    ) -> NDArray[np.float32] | list[NDArray[np.float32]]:
        """Localize one image, or each of a list.

        Args:
            images: one image, or a list or tuple of images; their sizes may differ.

        Returns:
            For each image M_fnl at the image's own size: float32 (H, W) in [0, 1], 1 = inharmonious.

        Raises:
            ImageError: if an image cannot be read, naming it.
        """
        if isinstance(images, (list, tuple)):
            starts = range(0, len(images), self.batch_size)
            return [
                mask for start in starts for mask in self._localize(images[start : start + self.batch_size])
            ]
        return self._localize([images])[0]

    @torch.inference_mode()
    def _localize(self, images: Sequence[ImageLike]) -> list[NDArray[np.float32]]:
        """Localize one batch; every image is brought to the size the model was trained on."""
        pixels = [read_image(image) for image in images]
        batch = torch.stack([resize_image(_to_tensor(image), self.card.size) for image in pixels])
        masks = self.model(batch.to(self.device), self.iterations, self.tolerance).m_fnl.cpu()
        return [
            F.interpolate(mask[None], image.shape[:2], mode="bilinear", align_corners=False)[0, 0].numpy()
            for mask, image in zip(masks, pixels, strict=True)
        ]


def resolve(source: str | Path) -> Path:
    """Turn a registry URI into a checkpoint folder; a folder stays what it is.

    The packages that know a registry register an entry point ``rsrnet.resolvers`` named as the URI's scheme.

    Raises:
        CheckpointError: if no installed package knows the scheme.
    """
    text = str(source)
    scheme, separator, _ = text.partition(":/")
    if not separator or isinstance(source, Path):
        return Path(source).expanduser()
    for entry in entry_points(group="rsrnet.resolvers", name=scheme):
        return Path(entry.load()(text))
    raise checkpoint.CheckpointError(
        f"{text}: nothing installed knows `{scheme}:` models; install rsrnet[platform] for MLflow's registry, "
        "or give a checkpoint folder"
    )


def read_image(image: ImageLike) -> NDArray[np.uint8]:
    """The pixels of an image as RGB uint8 (H, W, 3), with EXIF orientation applied.

    Raises:
        ImageError: if it is no image that can be decoded.
    """
    if isinstance(image, np.ndarray):
        return _rgb_array(image)
    name = (getattr(image, "filename", "") or "an image") if isinstance(image, Image.Image) else image
    try:
        return np.asarray(read_rgb(image).pixels)
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such file") from error
    except DecodeError as error:
        raise ImageError(f"{name}: cannot be decoded ({error})") from error


def _rgb_array(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if image.dtype != np.uint8:
        raise ImageError(f"an array must hold uint8 values from 0 to 255, not {image.dtype}")
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3) or 0 in image.shape:
        raise ImageError(f"an array must have shape (H, W, 3) or (H, W), not {image.shape}")
    return image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2)


def _to_tensor(image: NDArray[np.uint8]) -> Tensor:
    """Map (H, W, 3) to (3, H, W)."""
    return torch.tensor(image).permute(2, 0, 1)
