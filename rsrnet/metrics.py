"""Average precision, F1 and IoU (section 4.1), computed for each image alone and averaged once at the end.

The paper follows the evaluation of DIRL (Liang et al., ICME 2021), which stretches each predicted map to
[0, 1] before it counts, so that a map below 0.1 throughout can still have positives. That is the protocol
:data:`PUBLISHED`; :data:`RAW` leaves the probabilities as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from rsrnet.average_precision import average_precision

THRESHOLD = 0.5
EPSILON = 1e-6
NARROW_RANGE = 0.01
ROUNDING = 1e-4


@dataclass(frozen=True)
class Protocol:
    """How a predicted map is treated before it is compared with the truth."""

    name: str
    """Name in tables and logs."""

    min_max: bool
    """Whether each map, the true mask included, is stretched to [0, 1] by its own minimum and maximum."""


PUBLISHED = Protocol("published", min_max=True)
RAW = Protocol("raw", min_max=False)


@dataclass(frozen=True)
class ImageMetrics:
    """Scores of each image of a batch in [0, 1], each of shape (B,) in float64."""

    ap: Tensor
    """Average precision over the pixels."""

    f1: Tensor
    """F1 of the pixels above 0.5."""

    iou: Tensor
    """Intersection over union of the pixels above 0.5."""


def image_metrics(pred: Tensor, target: Tensor, protocol: Protocol = PUBLISHED) -> ImageMetrics:
    """Score every image of a batch by itself.

    An image whose true mask is empty scores 0 in all three, as in the published evaluation; under
    :data:`PUBLISHED` so does one whose true mask is full, because stretching a constant mask empties it.

    Args:
        pred: predicted probabilities (B, 1, H, W).
        target: true masks (B, 1, H, W) in [0, 1]; values above 0.5 are inharmonious.
        protocol: :data:`PUBLISHED` or :data:`RAW`.

    Raises:
        ValueError: if the shapes differ or ``pred`` does not hold probabilities.
    """
    if pred.shape != target.shape or pred.ndim != 4 or pred.shape[1] != 1:
        shapes = f"{tuple(pred.shape)}, the target {tuple(target.shape)}"
        raise ValueError(f"the prediction is {shapes}: both must be (B, 1, H, W)")
    # The published evaluation runs in float32, and its rounding decides which scores are tied.
    scores = pred.detach().float().flatten(1)
    truth = target.detach().flatten(1) > THRESHOLD
    low, high = scores.amin(dim=1, keepdim=True), scores.amax(dim=1, keepdim=True)  # faster than aminmax
    if not ((low >= 0) & (high <= 1 + ROUNDING)).all():  # NaN spreads to both and compares as false
        raise ValueError("the prediction holds values outside [0, 1] or NaN: it must hold probabilities")
    if protocol.min_max:
        scores = _stretch(scores, low, high)
        full = truth.all(dim=1, keepdim=True)
        if full.any():  # stretching a mask changes only a full one
            truth = truth & ~full
    f1, iou = _f1_and_iou(scores > THRESHOLD, truth)
    return ImageMetrics(average_precision(scores, truth), f1, iou)


@dataclass
class MetricSums:
    """Running sums over single images: the mean is the same for any batch size, order or number of ranks."""

    sums: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))
    """Sums of AP, F1 and IoU, (3,) float64 on the CPU."""

    count: int = 0
    """Number of images."""

    def add(self, metrics: ImageMetrics) -> None:
        """Add the images of a batch."""
        values = torch.stack([metrics.ap, metrics.f1, metrics.iou])
        self.sums += values.sum(dim=1).cpu()
        self.count += values.shape[1]

    def all_reduce(self) -> None:
        """Add up the sums of all ranks, in place; without a process group there is nothing to do.

        Every rank must call it, once, after its last image.
        """
        if not (dist.is_available() and dist.is_initialized()):
            return
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        packed = torch.cat([self.sums, torch.tensor([self.count], dtype=torch.float64)]).to(device)
        dist.all_reduce(packed)
        self.sums, self.count = packed[:3].cpu(), int(packed[3])

    def mean(self) -> dict[str, float]:
        """Means over the images, by the names ``ap``, ``f1`` and ``iou``.

        Raises:
            ValueError: if there is no image.
        """
        if self.count == 0:
            raise ValueError("no image was measured: the data set, or every rank's share of it, is empty")
        ap, f1, iou = (self.sums / self.count).tolist()
        return {"ap": ap, "f1": f1, "iou": iou}


def _stretch(maps: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Min-max normalise each row of (B, N); a row with a range below 0.01 is only shifted to start at 0.

    Args:
        maps: (B, N) float32.
        low: smallest value of each row (B, 1).
        high: largest value of each row (B, 1).
    """
    span = high - low
    return (maps - low).div_(torch.where(span < NARROW_RANGE, 1.0, span))


def _f1_and_iou(positive: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """F1 and IoU, each (B,) float64, of boolean maps (B, N), with the published epsilons."""
    maps = (positive & truth, positive, truth)
    hits, predicted, true = (x.sum(dim=1, dtype=torch.int32).double() for x in maps)
    precision = hits / (predicted + EPSILON)
    recall = hits / (true + EPSILON)
    f1 = 2 * precision * recall / (precision + recall + EPSILON)
    return f1, hits / (predicted + true - hits + EPSILON)
