"""Image in, mask out: the one class that people who only want masks need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from os import PathLike
from pathlib import Path
from typing import TypeAlias, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from rsrnet import checkpoint
from rsrnet.data.decode import read_rgb
from rsrnet.data.errors import DecodeError
from rsrnet.detection import score
from rsrnet.views import Views

ImageLike: TypeAlias = Image.Image | NDArray[np.uint8] | str | PathLike[str]
"""A PIL image, an array (H, W, 3) or (H, W) of uint8, or the path of an image file."""


CPU_VALUES = 2 * 224 * 224 * 64
"""Values of the widest features that a CPU computes at once: two images of the paper's network. Twice as many leave its
caches, and take 15 to 45 % longer an image (2-core AMD EPYC)."""


class ImageError(ValueError):
    """Raised when something given as an image is none."""


@dataclass(frozen=True)
class Finding:
    """What a model says of one image."""

    mask: NDArray[np.float32]
    """M_fnl at the image's own size, (H, W) in [0, 1], 1 = inharmonious."""

    score: float
    """How sure the model is that there is an inharmonious region at all, see :mod:`rsrnet.detection`."""

    inharmonious: bool | None
    """Whether the score reaches the model's threshold; None where the model has none."""


class Localizer:
    """Finds the inharmonious region of images of any size.

    Args:
        source: a checkpoint folder, or a registry URI such as ``models:/rsrnet@champion`` (which needs the
            platform installed).
        device: ``auto`` takes a GPU if there is one.
        batch_size: images the network sees at once; on a CPU fewer, if they leave its caches.
        iterations: K, where it shall differ from the one that the network was trained with.
        tolerance: early exit: an image is done with the iteration that moves its mask by no more than this in any
            pixel of the module's resolution, such as 0.1. None: K iterations for every image.
        flip: average each mask with that of the mirrored image; twice the time.
        window: side of a sliding window in pixels of the image, for images that are larger, see
            :class:`rsrnet.views.Views`. None: the whole image alone, as in the paper.

    Raises:
        CheckpointError: if ``source`` is no checkpoint.
        ValueError: if ``window`` is below 1.
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
        flip: bool = False,
        window: int | None = None,
    ) -> None:
        if window is not None and window < 1:
            raise ValueError(f"window = {window}: pixels, at least 1")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        folder = resolve(source)
        self.card = checkpoint.read_card(folder)
        self.model = checkpoint.load_model(folder, device)
        self.device = torch.device(device)
        self.batch_size = batch_size
        self.iterations = iterations
        self.tolerance = tolerance
        self.flip = flip
        self.views = Views(self.card.size, window)
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
            return [finding.mask for finding in self.examine(images)]
        return self.examine([images])[0].mask

    def examine(self, images: Sequence[ImageLike]) -> list[Finding]:
        """Localize images, and say of each whether there is anything to localize.

        Args:
            images: their sizes may differ.

        Raises:
            ImageError: if an image cannot be read, naming it.
        """
        starts = range(0, len(images), self.batch_size)
        return [found for start in starts for found in self._examine(images[start : start + self.batch_size])]

    @torch.inference_mode()
    def masks(self, inputs: Tensor) -> Tensor:
        """The masks of inputs of the network, such as :class:`rsrnet.views.Views` makes them.

        Args:
            inputs: (N, 3, S, S) float32 in [0, 1].

        Returns:
            M_fnl, (N, 1, S, S) float32 in [0, 1], on the CPU.
        """
        parts = [self._fnl(batch.to(self.device)).cpu() for batch in inputs.split(self._at_once)]
        return torch.cat(parts) if parts else inputs[:, :1]

    @property
    def _at_once(self) -> int:
        if self.device.type != "cpu":
            return self.batch_size
        return max(1, min(self.batch_size, CPU_VALUES // (self.card.size**2 * self.card.model.width)))

    def _fnl(self, batch: Tensor) -> Tensor:
        mask = self._localize(batch)
        return (mask + self._localize(batch.flip(-1)).flip(-1)) / 2 if self.flip else mask

    def _localize(self, batch: Tensor) -> Tensor:
        return self.model(batch, self.iterations, self.tolerance, every_mask=False).m_fnl

    def _examine(self, images: Sequence[ImageLike]) -> list[Finding]:
        pixels = [read_image(image) for image in images]
        views = [self.views.split(image) for image in pixels]
        masks = self.masks(torch.cat(views)).split([len(each) for each in views])
        return [self._finding(mask, *image.shape[:2]) for mask, image in zip(masks, pixels, strict=True)]

    def _finding(self, masks: Tensor, height: int, width: int) -> Finding:
        sure = float(score(masks[:1]))
        detection = self.card.detection
        return Finding(
            self.views.join(masks, height, width),
            sure,
            None if detection is None else sure >= detection.threshold,
        )


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
