"""The training loss (section 3.4): BCE + SSIM + IoU of every predicted mask, later masks weighing more.

The three terms follow BASNet (Qin et al., CVPR 2019), which the paper refers to. Each function below takes
all masks at once and returns one value for each image and mask, so that a mean over images is exact for any
batch size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from rsrnet.loss_config import LossConfig

__all__ = ["LossConfig", "LossTerms", "RSRNetLoss", "bce_loss", "iou_loss", "ssim_loss"]

LOWEST_LOG = -100.0
REACH = 5  # of SSIM's window on each side of its centre: 11 x 11
SSIM_SIGMA = 1.5
SSIM_C1 = 0.01**2
SSIM_C2 = 0.03**2
IOU_EPSILON = 1e-6
BAND_BLOCK = 64  # 32 to 64 are about equally fast on CPUs; larger blocks mean fewer launches on GPUs


class MaskOutput(Protocol):
    """The part of the network's output that is supervised."""

    @property
    def masks(self) -> Tensor:
        """The K upsampled masks of the RSR module, (B, K, H, W); K may be 0."""

    @property
    def m_fnl(self) -> Tensor:
        """The final mask, (B, 1, H, W)."""


@dataclass(frozen=True)
class LossTerms:
    """The loss of one batch; every field is a scalar tensor and a mean over the images of the batch."""

    total: Tensor
    """The loss of Eq. 3, to call ``backward`` on: the sum of the next three."""

    bce: Tensor
    """The part of `total` due to binary cross-entropy, detached."""

    ssim: Tensor
    """The part of `total` due to structural similarity, detached."""

    iou: Tensor
    """The part of `total` due to intersection over union, detached."""

    final: Tensor
    """The loss of the final mask alone, l^(K+1), detached; comparable between runs whatever their K."""


class RSRNetLoss(nn.Module):
    """Eq. 3: l^(K+1) of the final mask plus lambda^(K-k) l^(k) of the k-th mask, k = 1, ..., K.

    Computed in float32 (or float64 if the masks are), also under autocast.

    Args:
        config: the weights; the paper's by default.
    """

    def __init__(self, config: LossConfig | None = None) -> None:
        super().__init__()
        self.config = config or LossConfig()

    def forward(self, output: MaskOutput, target: Tensor) -> LossTerms:
        """Compare the masks of a batch with the truth.

        Args:
            output: what the network returned: the masks (B, K, H, W) and the final mask, probabilities.
            target: the true masks (B, 1, H, W) in [0, 1], 1 = inharmonious.

        Raises:
            ValueError: if the shapes do not fit together.
        """
        if target.shape != output.m_fnl.shape:
            shapes = f"{tuple(target.shape)}, the final mask is {tuple(output.m_fnl.shape)}"
            raise ValueError(f"the target is {shapes}: both must be (B, 1, H, W)")
        with torch.autocast(target.device.type, enabled=False):
            masks = torch.cat([output.masks, output.m_fnl], dim=1)
            masks = masks.to(torch.promote_types(masks.dtype, torch.float32))
            target = target.to(masks.dtype)
            terms = torch.stack([bce_loss(masks, target), ssim_loss(masks, target), iou_loss(masks, target)])
            means = terms.mean(dim=1)  # (3 terms, K + 1 masks)
            sums = (means * self._weights(means)).sum(dim=1)
            bce, ssim, iou = sums.detach()
            return LossTerms(sums.sum(), bce, ssim, iou, final=means[:, -1].sum().detach())

    def _weights(self, means: Tensor) -> Tensor:
        """Weights of the K + 1 masks: lambda^(K-1), ..., lambda, 1 for the iterations, 1 for the last."""
        k = means.shape[1] - 1
        exponents = torch.arange(k - 1, -2, -1, device=means.device, dtype=means.dtype).clamp(min=0)
        return self.config.lambda_**exponents


def bce_loss(masks: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy, the mean over the pixels; logarithms are cut at -100 as in ``torch.nn.BCELoss``.

    Args:
        masks: probabilities (B, K, H, W); K may be any number of masks.
        target: (B, 1, H, W) in [0, 1].

    Returns:
        (B, K).
    """
    return -_LogLikelihood.apply(masks, target).mean(dim=(2, 3))


def iou_loss(masks: Tensor, target: Tensor) -> Tensor:
    """One minus soft intersection over union; 0 for an empty mask where the truth is empty.

    Args:
        masks: probabilities (B, K, H, W).
        target: (B, 1, H, W) in [0, 1].

    Returns:
        (B, K).
    """
    intersection = (masks * target).sum(dim=(2, 3))
    union = masks.sum(dim=(2, 3)) + target.sum(dim=(2, 3)) - intersection
    return 1 - (intersection + IOU_EPSILON) / (union + IOU_EPSILON)


def ssim_loss(masks: Tensor, target: Tensor) -> Tensor:
    """One minus structural similarity (Wang et al., 2004), the mean over the pixels.

    Local statistics are taken under an 11 x 11 Gaussian window of sigma 1.5; outside, masks are zero.

    Args:
        masks: probabilities (B, K, H, W); H and W may be smaller than the window.
        target: (B, 1, H, W) in [0, 1].

    Returns:
        (B, K).
    """
    target_mean = _blur(target)
    target_mean_square = target_mean.square()
    target_variance = _blur(target.square()) - target_mean_square

    mean = _blur(masks)
    mean_square = mean.square()
    variance = _blur(masks.square()) - mean_square
    product_of_means = mean * target_mean
    covariance = _blur(masks * target) - product_of_means

    # Written for few passes over (B, K, H, W): constants join the target's side, which is K times smaller, and
    # the numerator's two factors of 2 follow the mean.
    numerator = (product_of_means + SSIM_C1 / 2) * (covariance + SSIM_C2 / 2)
    luminance = mean_square + (target_mean_square + SSIM_C1)
    contrast = variance + (target_variance + SSIM_C2)
    return 1 - 4 * (numerator / (luminance * contrast)).mean(dim=(2, 3))


class _LogLikelihood(torch.autograd.Function):
    """Pixelwise binary cross-entropy, negated, as in ``torch.nn.BCELoss`` but for NaN.

    ``BCELoss`` stops at a NaN, on a GPU with a device-side assertion that no caller can handle. Here it
    reaches the loss, where the training loop sees that the model has diverged.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, probabilities: Tensor, target: Tensor) -> Tensor:
        # Upsampling weights sum to 1 only up to rounding, and the logarithm below has no value at 1.0000001.
        probabilities = probabilities.clamp(0, 1)
        ctx.save_for_backward(probabilities, target)
        log_true = probabilities.log().clamp(min=LOWEST_LOG)
        log_false = (1 - probabilities).log().clamp(min=LOWEST_LOG)
        return torch.lerp(log_false, log_true, target)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        probabilities, target = ctx.saved_tensors
        # The upper limit is the float below 1: a gradient of 1e12 at 1 would only magnify rounding errors.
        inner = probabilities.clamp(1e-12, 1 - torch.finfo(probabilities.dtype).eps / 2)
        return gradient * (target - probabilities) / (inner * (1 - inner)), None


class _Blur(torch.autograd.Function):
    """Filter (..., H, W) with the Gaussian window and zero padding.

    The window is separable, so the filter is T_H X T_W with banded matrices. These are symmetric, so the
    gradient is filtered just like the masks.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        return _band_product(x)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        return _band_product(gradient)


def _blur(x: Tensor) -> Tensor:
    return _Blur.apply(x)


def _band_product(x: Tensor) -> Tensor:
    """T_H X T_W of each (H, W), skipping the blocks of T that hold only zeros.

    Matrix products are many times faster than 11 x 11 convolutions of single channels
    (tests/benchmarks/bench_loss.py).
    """
    height, width = x.shape[-2:]
    t_h, t_w = (_gaussian_band(size, x.device, x.dtype) for size in (height, width))
    with _full_precision_matmul():
        x = torch.cat([t_h[i, j] @ x[..., j, :] for i, j in _band_blocks(height)], dim=-2)
        return torch.cat([x[..., j] @ t_w[j, i] for i, j in _band_blocks(width)], dim=-1)


def _band_blocks(size: int) -> list[tuple[slice, slice]]:
    """Rows of the banded matrix, in blocks, and for each block the columns that are not all zero."""
    return [
        (slice(start, start + BAND_BLOCK), slice(max(0, start - REACH), start + BAND_BLOCK + REACH))
        for start in range(0, size, BAND_BLOCK)
    ]


@lru_cache(maxsize=64)
def _gaussian_band(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Matrix (size, size) whose product with a vector filters it with the normalised 1-D window."""
    # The matrix outlives the call: made under inference_mode, it would break a later backward pass.
    with torch.inference_mode(False):
        offset = torch.arange(-REACH, REACH + 1, dtype=torch.float64)
        window = torch.softmax(-offset.square() / (2 * SSIM_SIGMA**2), dim=0)
        position = torch.arange(size)
        distance = (position[:, None] - position).abs()
        band = torch.where(distance <= REACH, window[(distance + REACH).clamp(max=2 * REACH)], 0.0)
        return band.to(device, dtype)


@contextmanager
def _full_precision_matmul() -> Iterator[None]:
    """Multiply in true float32: in TF32, E[x^2] - E[x]^2 would be off by as much as SSIM's constants."""
    previous = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(previous)
