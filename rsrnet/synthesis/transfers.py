"""The four colour transfers from which iHarmony4 makes its composites.

Each takes a photograph and the mask of its foreground, a reference photograph and the mask of a region of it,
and gives the photograph back with only the foreground recoloured, in the colours of the reference region. One
for each combination of parametric or not, colour channels decorrelated or not (Cong et al., DoveNet, 2020).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from rsrnet.synthesis.regrain import regrain

Image: TypeAlias = NDArray[np.uint8]
"""An RGB image, (H, W, 3)."""

Mask: TypeAlias = NDArray[np.bool_]
"""A region of an image, (H, W), true inside."""

Colours: TypeAlias = NDArray[np.float64]
"""Colours of N pixels, (N, 3)."""

Transfer: TypeAlias = Callable[[Image, Mask, Image, Mask, np.random.Generator], Image]
"""``transfer(image, mask, reference, reference_mask, rng)`` gives the image with a recoloured foreground."""

_LMS_FROM_RGB = np.array(
    [[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]],
)
_LAB_FROM_LOG_LMS = np.diag(1 / np.sqrt([3.0, 6.0, 2.0])) @ np.array(
    [[1.0, 1.0, 1.0], [1.0, 1.0, -2.0], [1.0, -1.0, 0.0]]
)
_YCBCR_FROM_RGB = (
    np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]) / 255
)
_YCBCR_OFFSET = np.array([16.0, 128.0, 128.0])

_IDT_ITERATIONS = 10
_IDT_BINS = 300
_IDT_AXES = np.array(
    [[1, 0, 0], [0, 1, 0], [0, 0, 1], [2 / 3, 2 / 3, -1 / 3], [2 / 3, -1 / 3, 2 / 3], [-1 / 3, 2 / 3, 2 / 3]]
)


def reinhard(
    image: Image, mask: Mask, reference: Image, reference_mask: Mask, rng: np.random.Generator
) -> Image:
    """Give the foreground the reference's mean and deviation per channel of the decorrelated lab space.

    Source: Reinhard et al., "Color transfer between images", 2001. Parametric, decorrelated.

    Args:
        image: the photograph, uint8, (H, W, 3).
        mask: its foreground, bool, (H, W).
        reference: the photograph that lends its colours, uint8, (H', W', 3).
        reference_mask: the region of it to imitate, bool, (H', W').
        rng: not drawn from; every transfer has this signature.

    Returns:
        The recoloured photograph, uint8, (H, W, 3).

    Raises:
        ValueError: if a mask selects no pixel or has another size than its image.
    """
    target = _lab(_pixels(image, mask))
    example = _lab(_pixels(reference, reference_mask))
    scale = _ratio(_deviation(example), _deviation(target))
    moved = (target - target.mean(0)) * scale + example.mean(0)
    log_lms = moved @ np.linalg.inv(_LAB_FROM_LOG_LMS).T
    # Beyond 10^3 times white everything is clipped anyway, and 10^x must not overflow.
    rgb = 10 ** np.clip(log_lms, -6, 3) @ np.linalg.inv(_LMS_FROM_RGB).T
    return _paste(image, mask, rgb * 255)


def xiao_ma(
    image: Image, mask: Mask, reference: Image, reference_mask: Mask, rng: np.random.Generator
) -> Image:
    """Give the foreground the reference's mean colour and RGB covariance.

    Source: Xiao and Ma, "Color transfer in correlated color space", 2006. Parametric, correlated. An
    eigenvector has no sign of its own; the reference's are turned towards the target's: no axis is mirrored.

    Args and errors as in :func:`reinhard`.
    """
    target, example = _pixels(image, mask), _pixels(reference, reference_mask)
    target_values, target_axes = _principal_axes(target)
    example_values, example_axes = _principal_axes(example)
    example_axes = example_axes * np.where((example_axes * target_axes).sum(0) < 0, -1.0, 1.0)
    map_ = example_axes @ np.diag(np.sqrt(example_values / target_values)) @ target_axes.T
    return _paste(image, mask, (target - target.mean(0)) @ map_.T + example.mean(0))


def fecker(
    image: Image, mask: Mask, reference: Image, reference_mask: Mask, rng: np.random.Generator
) -> Image:
    """Give the foreground the reference's cumulative histogram in each YCbCr channel.

    Source: Fecker et al., "Histogram-based prefiltering for luminance and chrominance compensation of
    multiview video", 2008. Not parametric, decorrelated. Only levels that the reference has are mapped to.

    Args and errors as in :func:`reinhard`.
    """
    target = np.rint(_ycbcr(_pixels(image, mask))).astype(np.intp)
    example = np.rint(_ycbcr(_pixels(reference, reference_mask))).astype(np.intp)
    matched = np.stack([_match_levels(target[:, c], example[:, c]) for c in range(3)], axis=1)
    return _paste(image, mask, (matched - _YCBCR_OFFSET) @ np.linalg.inv(_YCBCR_FROM_RGB).T)


def pitie(
    image: Image, mask: Mask, reference: Image, reference_mask: Mask, rng: np.random.Generator
) -> Image:
    """Give the foreground the reference's colour distribution and keep the photograph's own gradients.

    Source: Pitie, Kokaram and Dahyot, "Automated colour grading using colour distribution transfer", 2007:
    :func:`transfer_distribution`, then :func:`rsrnet.synthesis.regrain.regrain`. Not parametric, correlated.

    Args and errors as in :func:`reinhard`, but for ``rng``, which draws the rotations.
    """
    target = _pixels(image, mask) / 255
    example = _pixels(reference, reference_mask) / 255
    moved = transfer_distribution(target, example, rng)
    original = np.zeros(image.shape)
    original[mask] = target
    # The background takes the mean change, lest it pull the border of the foreground back to no change.
    recoloured = original + (moved - target).mean(0)
    recoloured[mask] = moved
    return _paste(image, mask, regrain(original, recoloured)[mask] * 255)


TRANSFERS: dict[int, Transfer] = {1: reinhard, 2: xiao_ma, 3: fecker, 4: pitie}
"""The transfers by the number that ends the name of a composite."""


def transfer_distribution(target: Colours, reference: Colours, rng: np.random.Generator) -> Colours:
    """Move colours so that their distribution becomes the reference's: iterative distribution transfer.

    Each iteration matches the distributions along six axes, turned at random, and moves the colours to fit.

    Args:
        target: colours in [0, 1], (N, 3).
        reference: colours in [0, 1], (M, 3).
        rng: draws the rotations.

    Returns:
        The moved colours, (N, 3); they may leave [0, 1] slightly.
    """
    for iteration in range(_IDT_ITERATIONS):
        # The first iteration looks along the colour axes themselves, as published.
        axes = _IDT_AXES if iteration == 0 else _IDT_AXES @ _random_rotation(rng)
        shifts = [_marginal_shift(target @ axis, reference @ axis) for axis in axes]
        target = target + np.stack(shifts, axis=1) @ np.linalg.pinv(axes).T
    return target


def _marginal_shift(target: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far each of the target's values must move for its histogram to become the reference's."""
    low = min(target.min(), reference.min())
    high = max(target.max(), reference.max())
    if high - low < 1e-9:
        return np.zeros_like(target)
    centres = low + (np.arange(_IDT_BINS) + 0.5) * (high - low) / _IDT_BINS
    target_share, reference_share = (_cumulative_share(values, low, high) for values in (target, reference))
    shift = np.interp(target_share, reference_share, centres) - centres
    return np.interp(target, centres, shift)


def _cumulative_share(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """The share of the values below the centre of each bin."""
    bins = np.minimum(((values - low) * (_IDT_BINS / (high - low))).astype(np.intp), _IDT_BINS - 1)
    # The small constant makes the sum strictly increasing, hence invertible.
    counts = np.bincount(bins, minlength=_IDT_BINS) + 1e-6
    return (np.cumsum(counts) - counts / 2) / counts.sum()


def _random_rotation(rng: np.random.Generator) -> NDArray[np.float64]:
    return np.linalg.qr(rng.standard_normal((3, 3)))[0]


def _match_levels(target: NDArray[np.intp], reference: NDArray[np.intp]) -> NDArray[np.float64]:
    """Replace each level by the reference's that has the same cumulative share, taken amid the level."""
    levels, counts = np.unique(reference, return_counts=True)
    reference_share = np.cumsum(counts) / reference.size
    target_counts = np.bincount(target, minlength=256)
    target_share = (np.cumsum(target_counts) - target_counts / 2) / target.size
    position = np.searchsorted(reference_share, target_share - 1e-9)
    return levels[np.minimum(position, len(levels) - 1)][target].astype(np.float64)


def _pixels(image: Image, mask: Mask) -> Colours:
    if image.shape != (*mask.shape, 3):
        raise ValueError(f"an image of shape {image.shape} with a mask of shape {mask.shape}")
    if not mask.any():
        raise ValueError("the mask selects no pixel: there is nothing to take colours from")
    return image[mask].astype(np.float64)


def _paste(image: Image, mask: Mask, colours: Colours) -> Image:
    result = image.copy()
    result[mask] = np.clip(np.rint(colours), 0, 255).astype(np.uint8)
    return result


def _lab(rgb: Colours) -> Colours:
    # The logarithm of black is minus infinity: the darkest level counts as 1 of 255.
    lms = np.maximum(rgb, 1) / 255 @ _LMS_FROM_RGB.T
    return np.log10(lms) @ _LAB_FROM_LOG_LMS.T


def _ycbcr(rgb: Colours) -> Colours:
    return rgb @ _YCBCR_FROM_RGB.T + _YCBCR_OFFSET


def _deviation(values: Colours) -> NDArray[np.float64]:
    """Sample standard deviation per channel, zero for a single pixel."""
    return values.std(0, ddof=min(1, len(values) - 1))


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    """The quotient, or 1 where a constant channel has no deviation to scale."""
    return np.divide(above, below, out=np.ones_like(above), where=below > 1e-6)


def _principal_axes(colours: Colours) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Variances along the principal axes, ascending and never zero, and the axes as columns."""
    centred = colours - colours.mean(0)
    values, axes = np.linalg.eigh(centred.T @ centred / max(len(colours) - 1, 1))
    return np.maximum(values, 1e-6), axes
