"""Two 3x3 convolutions with batch normalisation, which encoder and decoder are made of."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rsrnet.model.lean import convolve_joined, join, keeps_for_backward, norm_relu_conv


def double_conv(parts: list[Tensor], first: Any, norm: Any, second: Any, last_norm: Any) -> Tensor:
    """``last_norm(second(relu(norm(first(join(parts))))))``.

    Training keeps less of it for the backward pass (:mod:`rsrnet.model.lean`), evaluation takes fewer passes over
    the maps (:func:`conv_norm`).

    Args:
        parts: maps (B, *, H, W), which something else keeps; they must not change before the backward pass.
        first: an ``nn.Conv2d`` without bias, which may have a stride.
        norm: its ``nn.BatchNorm2d``.
        second: a 3x3 ``nn.Conv2d`` with padding 1 and without bias.
        last_norm: its ``nn.BatchNorm2d``.
    """
    if keeps_for_backward():
        return last_norm(norm_relu_conv(convolve_joined(parts, first), norm, second))
    return conv_norm(F.relu(conv_norm(join(parts), first, norm), inplace=True), second, last_norm)


def conv_norm(x: Tensor, conv: Any, norm: Any) -> Tensor:
    """``norm(conv(x))``; in evaluation one convolution, with the kernel that the two make together.

    Only where a map is larger than a kernel, so that making the kernel anew each time costs less than it saves.

    Args:
        x: (B, C, H, W).
        conv: an ``nn.Conv2d`` from C to C' channels without bias.
        norm: an ``nn.BatchNorm2d`` of C' channels.

    Returns:
        (B, C', H / stride, W / stride).
    """
    if norm.training or torch.is_grad_enabled() or torch.compiler.is_compiling() or _is_small(x, conv):
        return norm(conv(x))
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    kernel = conv.weight * scale.view(-1, 1, 1, 1)
    return F.conv2d(x, kernel, norm.bias - norm.running_mean * scale, conv.stride, conv.padding)


def _is_small(x: Tensor, conv: Any) -> bool:
    """Whether what is convolved of an image has less values than the kernel."""
    down, across = conv.stride
    return x[0].numel() // (down * across) < conv.weight.numel()
