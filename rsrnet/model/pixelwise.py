"""1x1 convolutions as the matrix products that they are."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PixelConv(nn.Conv2d):
    """A 1x1 convolution, which for maps that lie channels last is one matrix product without a copy.

    PyTorch takes a slower way on processors.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, 1, stride, bias=bias)

    def lay_out_as_matrix(self) -> None:
        """Give the weight the strides that its gradient has: DDP would copy the gradient otherwise, and warn of it."""
        self.weight.data = self.weight.data.flatten(1)[..., None, None]

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H / stride, W / stride)."""
        down, across = self.stride
        # Picking the pixels first is not only less work: the backward pass of oneDNN's own convolution with stride
        # (3.13, in torch 2.15) writes beyond its memory where maps lie channels last.
        x = x[..., ::down, ::across]
        if torch.compiler.is_compiling() or x.stride(1) != 1:
            return F.conv2d(x, self.weight, self.bias)
        return F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)
