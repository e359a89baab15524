"""The loop around the reasoning: K times, or for each image until its mask stands still.

Letters in the shapes as in :mod:`rsrnet.model.reasoning`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class IterationsError(ValueError):
    """Raised when a network is asked for iterations that it cannot make."""


class State(NamedTuple):
    """What one iteration hands to the next, for B images; parts that a kind of reasoning lacks are None."""

    mask: Tensor
    """M^k, (B, 1, h, w) in [0, 1]."""

    style: Tensor
    """F_s, (B, C, h, w)."""

    context: Tensor
    """F_c, or F_s again where there is no F_c, (B, C, h, w); a recurrent unit keeps what it makes of it,
    (B, 3D, h, w)."""

    directions: Tensor | None
    """Unit vectors of F_s in every neighbourhood, (B, L, C, h, w)."""

    hidden: Tensor | None = None
    """H^k, (B, D, h, w)."""

    logits: Tensor | None = None
    """Sum of the residuals, of which M^k is the sigmoid, (B, 1, h, w)."""

    def of(self, images: Tensor) -> State:
        """The state of some of the images only; ``images`` is boolean (B,)."""
        return State._make(None if part is None else part[images] for part in self)


class Reasoned(NamedTuple):
    """What the module returns. K is the greatest number of iterations that any image of the batch took.

    An image that stopped earlier keeps its last mask.
    """

    masks: Tensor
    """M^1 to M^K at the module's resolution, (B, K, h, w)."""

    upsampled: Tensor
    """The same at the image's resolution, (B, K, H, W); (B, 1, H, W), the last one, unless every mask is asked for."""

    changes: Tensor
    """How far iteration k moved the mask, see :func:`change`, (B, K); 0 after the image stopped."""

    iterations: Tensor
    """Iterations that each image took, (B,) int64."""

    def until(self, k: int) -> Reasoned:
        """What the module would have returned after iteration k."""
        masks, upsampled, changes, iterations = self
        return Reasoned(masks[:, :k], upsampled[:, :k], changes[:, :k], iterations.clamp(max=k))


def change(mask: Tensor, before: Tensor) -> Tensor:
    """How far an iteration moved the mask of each image: the largest absolute difference of a pixel.

    The largest and not the mean, which would call a small region still while it is being found.

    Args:
        mask: M^k, (B, 1, h, w).
        before: M^(k-1), (B, 1, h, w).

    Returns:
        (B,) in [0, 1].
    """
    return (mask.detach() - before.detach()).abs().flatten(1).amax(dim=1)


def unroll(
    state: State,
    step: Callable[[State], State],
    upsample: Callable[[State], Tensor],
    iterations: int,
    tolerance: float | None = None,
    *,
    every_mask: bool = True,
) -> Reasoned:
    """Iterate, and leave an image alone from the iteration on that moved its mask by no more than a tolerance.

    Images that stand still leave the batch, so each is computed as if it were alone, and the others run on faster.
    The first iteration counts too: an image whose first mask is as empty as M^0 is done with it.

    Args:
        state: before the first iteration.
        step: one iteration.
        upsample: the mask of a state at the image's resolution, (B, 1, H, W).
        iterations: K, the most iterations an image may take.
        tolerance: largest :func:`change` that counts as standing still; None: every image takes K iterations.
        every_mask: whether to upsample the mask of every iteration, or each image's last one only.

    Raises:
        IterationsError: if ``iterations`` or ``tolerance`` is out of range.
    """
    if iterations < 1:
        raise IterationsError(f"iterations = {iterations}: a whole number, at least 1")
    if tolerance is not None and not 0 <= tolerance < 1:
        raise IterationsError(
            f"tolerance = {tolerance}: a number from 0 to below 1, or None for no early exit"
        )
    moving = torch.arange(state.mask.shape[0], device=state.mask.device)
    taken = torch.zeros_like(moving)
    masks: list[Tensor] = []
    upsampled: list[Tensor] = []
    changes: list[Tensor] = []
    left: list[tuple[Tensor, Tensor]] = []
    for _ in range(iterations):
        before, state = state.mask, step(state)
        moved = change(state.mask, before)
        taken[moving] += 1
        masks.append(_over(masks, moving, state.mask))
        if every_mask:
            upsampled.append(_over(upsampled, moving, upsample(state)))
        changes.append(torch.zeros_like(taken, dtype=moved.dtype).index_copy(0, moving, moved))
        if tolerance is None:
            continue
        goes_on = moved > tolerance
        if not goes_on.any():
            break
        if not goes_on.all():
            if not every_mask:
                left.append((moving[~goes_on], upsample(state.of(~goes_on))))
            moving, state = moving[goes_on], state.of(goes_on)
    if not every_mask:
        upsampled = [_in_order([*left, (moving, upsample(state))])]
    return Reasoned(torch.cat(masks, 1), torch.cat(upsampled, 1), torch.stack(changes, 1), taken)


def _in_order(parts: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Masks of all images, from some of them at a time with their indices."""
    if len(parts) == 1:
        return parts[0][1]
    order = torch.cat([images for images, _ in parts]).argsort()
    return torch.cat([masks for _, masks in parts])[order]


def _over(earlier: list[Tensor], moving: Tensor, masks: Tensor) -> Tensor:
    """The masks of all images: new ones of those that move, the last ones of the others."""
    if not earlier or masks.shape[0] == earlier[-1].shape[0]:
        return masks
    return earlier[-1].index_copy(0, moving, masks)
