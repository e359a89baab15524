"""The scores again under corruptions of the images: is the model still right about photographs of another kind?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rsrnet.evaluation.columns import METRICS
from rsrnet.evaluation.corruptions import CORRUPTIONS, STRENGTHS, Corruption
from rsrnet.evaluation.measure import Evaluator, Example, Row, identity
from rsrnet.evaluation.uncertainty import standard_error
from rsrnet.metrics import image_metrics
from rsrnet.validation import MASKS, autocast


def column(corruption: str, mask: str, metric: str) -> str:
    """Name of the column with a metric, a list over the strengths from 0, such as ``jpeg.m_fnl.f1``."""
    return f"{corruption}.{mask}.{metric}"


COLUMNS = tuple(
    column(*each)
    for each in ((name, mask, metric) for name in CORRUPTIONS for mask in MASKS for metric in METRICS)
)
"""Columns of scores, under the published protocol at the input's size."""


class RobustnessEvaluator(Evaluator):
    """Scores the masks of corrupted images.

    The corruptions are applied at the size of the network's input, so that a strength means the same for a
    photograph of 6000 pixels and one of 640; strength 0 is the image that every other evaluation sees.
    """

    @torch.inference_mode()
    def score(self, examples: list[Example]) -> Iterator[Row]:
        """Rows of a batch, with a list over the strengths in every column."""
        images, truth = self.tensors(examples)
        clean = self._scores(images, truth)
        lists: dict[str, list[Tensor]] = {}
        for name, corruption in CORRUPTIONS.items():
            found = [clean]
            for strength in STRENGTHS[1:]:
                found.append(self._scores(corrupted(images, corruption, strength), truth))
            for mask, metric in clean:
                lists[column(name, mask, metric)] = [scores[mask, metric] for scores in found]
        values = {name: torch.stack(scores, 1).tolist() for name, scores in lists.items()}
        for index, example in enumerate(examples):
            yield identity(example.composite) | {name: rows[index] for name, rows in values.items()}

    def _scores(self, images: Tensor, truth: Tensor) -> dict[tuple[str, str], Tensor]:
        """Every metric of every mask, (B,) each."""
        with autocast(self.device, self.precision):
            output = self.model(images, every_mask=False)
        found = {mask: image_metrics(getattr(output, mask).float(), truth) for mask in MASKS}
        return {(mask, metric): getattr(found[mask], metric) for mask in MASKS for metric in METRICS}


def corrupted(images: Tensor, corruption: Corruption, strength: int) -> Tensor:
    """Corrupt a batch, rounded to 8 bits first as a file would be.

    Args:
        images: RGB in [0, 1], (B, 3, H, W).
        corruption: what to do to each.
        strength: how much; 0 gives the images as they are, not rounded.
    """
    if strength == 0:
        return images
    pixels = (images * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    changed = np.stack([corruption(image, strength) for image in pixels])
    back = torch.from_numpy(changed).permute(0, 3, 1, 2).contiguous()
    return back.float().div(255).to(images.device)


@dataclass(frozen=True)
class Curve:
    """A metric of a mask against the strength of a corruption, over all images; each value (6,), strength 0 first."""

    means: NDArray[np.float64]

    losses: NDArray[np.float64]
    """Mean of the clean score less the score."""

    errors: NDArray[np.float64]
    """Standard error of the loss over the photographs, 0 at strength 0; NaN for a single one."""


def curve(rows: Sequence[Row], name: str) -> Curve:
    """The curve of a column.

    Raises:
        ValueError: if there is no row.
    """
    if not rows:
        raise ValueError("no image was scored")
    values = np.array([row[name] for row in rows], dtype=np.float64)
    losses = values[:, :1] - values
    errors = standard_error(losses, [row["group"] for row in rows])
    return Curve(values.mean(axis=0), losses.mean(axis=0), errors)
