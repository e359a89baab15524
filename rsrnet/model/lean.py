"""Less memory in training: what is cheap to make again is not kept for the backward pass.

Autograd keeps the input of every convolution. Many of these are a concatenation of maps that are kept anyway, or
batch normalisation and ReLU of such a map: a pass over memory makes them again, a fraction of the convolution's own
time. Values and gradients are those of the plain form (tests/rsrnet/test_plain_form.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint


def join(parts: list[Tensor]) -> Tensor:
    """``torch.cat(parts, dim=1)``, which lies channels last if the maps among them do.

    PyTorch takes a map of a single channel, which lies both ways, for one that does not. A single part is itself.
    """
    if len(parts) == 1:
        return parts[0]
    if any(each.is_contiguous(memory_format=torch.channels_last) and each.shape[1] > 1 for each in parts):
        parts = [
            each.squeeze(1).unsqueeze(3).permute(0, 3, 1, 2) if each.shape[1] == 1 else each for each in parts
        ]
    return torch.cat(parts, dim=1)


def convolve_joined(parts: list[Tensor], convolution: Callable[[Tensor], Tensor]) -> Tensor:
    """``convolution(join(parts))`` that does not keep the concatenation.

    Args:
        parts: maps (B, *, H, W), which something else keeps; they must not change before the backward pass.
        convolution: what reads the concatenation; it must not change it in place.
    """
    joined = join(parts)
    if len(parts) == 1 or not keeps_for_backward():
        return convolution(joined)
    address, shape = joined.data_ptr(), joined.shape
    versions = [part._version for part in parts]

    def pack(kept: Tensor) -> Tensor | None:
        return None if kept.data_ptr() == address and kept.shape == shape else kept

    def unpack(kept: Tensor | None) -> Tensor:
        if kept is not None:
            return kept
        if [part._version for part in parts] != versions:
            raise RuntimeError("a map that was convolved has been changed in place since")
        return join(parts)

    with saved_tensors_hooks(pack, unpack):
        return convolution(joined)


def norm_relu_conv(x: Tensor, norm: Any, conv: Any) -> Tensor:
    """``conv(relu(norm(x)))`` for training, which keeps x alone; ``conv`` is 3x3 with padding 1 and without bias.

    Args:
        x: (B, C, H, W).
        norm: an ``nn.BatchNorm2d`` of C channels.
        conv: an ``nn.Conv2d`` from C to C' channels.

    Returns:
        (B, C', H, W).
    """
    if norm.training and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    return _NormReluConv.apply(x, norm.weight, norm.bias, conv.weight.to(x.dtype), norm)


def keeps_for_backward() -> bool:
    """Whether anything is kept for a backward pass, and not by a compiler, which finds out by itself what to keep."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling() and not _all_is_made_again.get()


def made_again(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, of whose inside nothing is kept: the backward pass calls it again (activation checkpointing)."""

    def checkpointed(*arguments: Any) -> Any:
        if not keeps_for_backward():
            return function(*arguments)
        return checkpoint(_plainly, function, *arguments, use_reentrant=False, preserve_rng_state=False)

    return checkpointed


def _plainly(function: Callable[..., Any], *arguments: Any) -> Any:
    with _plain_form():
        return function(*arguments)


_all_is_made_again: ContextVar[bool] = ContextVar("all_is_made_again", default=False)


@contextmanager
def _plain_form() -> Iterator[None]:
    """What is checkpointed as a whole must not remember its parts."""
    token = _all_is_made_again.set(True)
    try:
        yield
    finally:
        _all_is_made_again.reset(token)


class _NormReluConv(torch.autograd.Function):
    """See :func:`norm_relu_conv`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, norm: Any) -> Tensor:
        running = norm.running_mean, norm.running_var
        ctx.training, ctx.eps = norm.training, norm.eps
        normalised, mean, inverse = torch.native_batch_norm(
            x, scale, shift, *running, norm.training, norm.momentum, norm.eps
        )
        statistics = (mean, inverse) if norm.training else (value.clone() for value in running)
        ctx.save_for_backward(x, scale, shift, weight, *statistics)
        return F.conv2d(normalised.relu_(), weight, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, shift, weight, mean, spread = ctx.saved_tensors
        inverse = spread if ctx.training else (spread + ctx.eps).rsqrt()
        factor = (scale * inverse).view(1, -1, 1, 1)
        rectified = torch.addcmul(shift.view(1, -1, 1, 1) - mean.view(1, -1, 1, 1) * factor, x, factor)
        rectified = rectified.to(x.dtype).relu_()
        of_rectified, of_weight, _ = torch.ops.aten.convolution_backward(
            gradient, rectified, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, True, False]
        )
        of_normalised = torch.ops.aten.threshold_backward.grad_input(
            of_rectified, rectified, 0, grad_input=of_rectified
        )
        kept = (mean, inverse) if ctx.training else (None, None)
        running = (None, None) if ctx.training else (mean, spread)
        of_x, of_scale, of_shift = torch.ops.aten.native_batch_norm_backward(
            of_normalised, x, scale, *running, *kept, ctx.training, ctx.eps, [True, True, True]
        )
        return of_x, of_scale, of_shift, of_weight, None
