"""The scores of single images: one row of plain values for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rsrnet.data.decode import FOREGROUND
from rsrnet.data.errors import BadDataError
from rsrnet.data.iharmony4 import open_pair, to_tensor
from rsrnet.data.naming import Composite
from rsrnet.data.transforms import resize_image, resize_mask
from rsrnet.evaluation.columns import METRICS, PROTOCOLS, Place, Setting
from rsrnet.evaluation.difficulty import colour_difference
from rsrnet.metrics import image_metrics
from rsrnet.model.network import RSRNet
from rsrnet.validation import MASKS, autocast

Row: TypeAlias = dict[str, Any]
"""What is known of one image: its name, its size, its region, and a score for every column of
:mod:`rsrnet.evaluation.columns`; or ``error``, the reason why it could not be used."""


@dataclass(frozen=True)
class Example:
    """One composite, decoded."""

    composite: Composite

    image: Tensor
    """(3, S, S) float32 RGB in [0, 1]."""

    mask: Tensor
    """(1, S, S) float32, 1 = inharmonious."""

    native: Tensor
    """(1, H, W) bool, the true mask at the image's own size."""


class Evaluator:
    """Scores a model on composites, image by image.

    The images of a call share batches of ``batch_size`` in their order: the same calls give the same numbers,
    whichever process makes them. While the model computes on one batch, threads decode the next.

    Subclasses score in other ways: they replace :meth:`score`.

    Args:
        model: in evaluation mode.
        root: the dataset.
        size: side of the network's input, in pixels (paper: 224).
        device: where the model lives and the scores are computed.
        native: whether to score the masks at the image's own size too, resized to it bilinearly.
        precision: ``float32`` or ``bfloat16`` (autocast).
        batch_size: images that the network sees at once.
        threads: how many images are decoded at a time.
    """

    def __init__(
        self,
        model: RSRNet,
        root: str | Path,
        *,
        size: int,
        device: torch.device | str = "cpu",
        native: bool = True,
        precision: str = "float32",
        batch_size: int = 16,
        threads: int = 1,
    ) -> None:
        self.model = model
        self.root = root
        self.size = size
        self.device = torch.device(device)
        self.native = native
        self.precision = precision
        self.batch_size = batch_size
        self.threads = max(1, threads)

    def __call__(self, composites: Sequence[Composite]) -> list[Row]:
        """Score composites; a row for each, in their order."""
        rows: list[Row] = []
        for read in self._batches(composites):
            good = [example for example in read if isinstance(example, Example)]
            scored = iter(self.score(good)) if good else iter(())
            rows += [next(scored) if isinstance(each, Example) else each for each in read]
        return rows

    def _batches(self, composites: Sequence[Composite]) -> Iterator[list[Example | Row]]:
        """Decode batch after batch, one ahead."""
        starts = range(0, len(composites), self.batch_size)
        batches = [composites[start : start + self.batch_size] for start in starts]
        with ThreadPoolExecutor(self.threads) as pool:
            ahead = [pool.submit(self._read, composite) for composite in batches[0]] if batches else []
            for following in [*batches[1:], ()]:
                current, ahead = ahead, [pool.submit(self._read, composite) for composite in following]
                yield [future.result() for future in current]

    def _read(self, composite: Composite) -> Example | Row:
        try:
            pixels, region = map(to_tensor, open_pair(self.root, composite))
        except BadDataError as error:
            return {**identity(composite), "error": str(error)}
        return Example(
            composite,
            resize_image(pixels, self.size),
            resize_mask(region, self.size),
            region >= FOREGROUND,
        )

    @torch.inference_mode()
    def score(self, examples: list[Example]) -> Iterator[Row]:
        """Rows of a batch, at least one image."""
        images, truth = self.tensors(examples)
        with autocast(self.device, self.precision):
            output = self.model(images, every_mask=False)
        masks = {name: getattr(output, name).float() for name in MASKS}
        scores = _scores(masks, truth, "input")
        for index, example in enumerate(examples):
            row = {name: values[index] for name, values in scores.items()}
            if self.native:
                row |= self._native_scores(example, {name: mask[index] for name, mask in masks.items()})
            yield {**identity(example.composite), **_properties(example), **row}

    def tensors(self, examples: list[Example]) -> tuple[Tensor, Tensor]:
        """Images (B, 3, S, S) and true masks (B, 1, S, S) of a batch, on the device."""
        images = torch.stack([example.image for example in examples]).to(self.device)
        return images, torch.stack([example.mask for example in examples]).to(self.device)

    def _native_scores(self, example: Example, masks: dict[str, Tensor]) -> dict[str, float]:
        truth = example.native[None].to(self.device).float()
        size = truth.shape[-2:]
        enlarged = {
            name: F.interpolate(mask[None], size, mode="bilinear", align_corners=False)
            for name, mask in masks.items()
        }
        return {name: values[0] for name, values in _scores(enlarged, truth, "native").items()}


def _scores(masks: dict[str, Tensor], truth: Tensor, place: Place) -> dict[str, list[float]]:
    """Every column of a place, each with a value for every image; masks and truth are (B, 1, H, W)."""
    columns: dict[str, list[float]] = {}
    for name, mask in masks.items():
        for protocol in PROTOCOLS.values():
            scores = image_metrics(mask, truth, protocol)
            setting = Setting(name, protocol.name, place)
            columns |= {setting.column(metric): getattr(scores, metric).tolist() for metric in METRICS}
    return columns


def identity(composite: Composite) -> Row:
    """What the name of a composite says."""
    names = ("path", "subset", "image_id", "mask_id", "k", "group")
    return {name: getattr(composite, name) for name in names} | {"error": None}


def _properties(example: Example) -> Row:
    """What makes an image easy or hard."""
    height, width = example.native.shape[-2:]
    pixels = (example.image * 255).round().byte().permute(1, 2, 0).numpy()
    return {
        "width": width,
        "height": height,
        "area_fraction": float(np.count_nonzero(example.native.numpy()) / (height * width)),
        "colour_difference": colour_difference(pixels, example.mask[0].bool().numpy()),
    }
