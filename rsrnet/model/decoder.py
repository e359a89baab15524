"""The decoder and the combination of its mask with the RSR module's (section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rsrnet.model.double_conv import double_conv
from rsrnet.model.lean import convolve_joined
from rsrnet.model.pixelwise import PixelConv

FEW_PIXELS = 1000
"""Up to so many pixels of a batch, the 4x4 kernel of :func:`enlarging_conv` costs more than it saves."""


def enlarging_conv(x: Tensor, conv: Any) -> Tensor:
    """Nearest-neighbour upsampling to the double, then a 3x3 convolution with padding 1.

    The two together are one transposed convolution with stride 2, whose 4x4 kernel is the 3x3 one summed over the
    2x2 pixels that share a value: 16 products instead of 36 for every input pixel, and no enlarged map.

    Args:
        x: (B, C, h, w).
        conv: an ``nn.Conv2d`` from C to C' channels.

    Returns:
        (B, C', 2h, 2w).
    """
    # An exported program is for any number of pixels, and cannot ask how many there are.
    if torch.compiler.is_exporting() or x.numel() // x.shape[1] <= FEW_PIXELS:
        return conv(F.interpolate(x, scale_factor=2, mode="nearest"))
    flipped = conv.weight.flip(2, 3).transpose(0, 1)
    tall = F.pad(flipped, (0, 0, 0, 1)) + F.pad(flipped, (0, 0, 1, 0))
    kernel = F.pad(tall, (0, 1)) + F.pad(tall, (1, 0))
    return F.conv_transpose2d(x, kernel, conv.bias, stride=2, padding=1)


class UpBlock(nn.Module):
    """Double the resolution, join the encoder's features of that resolution, convolve twice."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.reduce = nn.Sequential(nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.ReLU(inplace=True))
        self.fuse = nn.Sequential(
            nn.Conv2d(out_channels + skip_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor, *skips: Tensor) -> Tensor:
        """Map (B, in, h, w) and skips (B, *, 2h, 2w) to (B, out, 2h, 2w)."""
        conv, relu = self.reduce
        x = relu(enlarging_conv(x, conv))
        first, norm, _, second, last_norm, last_relu = self.fuse
        parts = [x, *(skip.to(x.dtype) for skip in skips)]
        return last_relu(double_conv(parts, first, norm, second, last_norm))


class Decoder(nn.Module):
    """From H/16 back to H; M_rsr joins the features of its own resolution, H/8, as attention guidance."""

    def __init__(self, channels: Sequence[int], guided: bool) -> None:
        super().__init__()
        c1, c2, c3, c4, c5 = channels
        self.up4 = UpBlock(c5, c4 + (1 if guided else 0), c4)
        self.up3 = UpBlock(c4, c3, c3)
        self.up2 = UpBlock(c3, c2, c2)
        self.up1 = UpBlock(c2, c1, c1)
        self.mask = PixelConv(c1, 1)

    def forward(self, features: Sequence[Tensor], guidance: Tensor | None) -> tuple[Tensor, Tensor]:
        """Decode the five feature maps of the encoder.

        Args:
            features: finest first, (B, w, H, W) to (B, 8w, H/16, W/16).
            guidance: M_rsr, (B, 1, H/8, W/8), or None without RSR module.

        Returns:
            M_dec (B, 1, H, W) and the features it was read from (B, w, H, W).
        """
        f1, f2, f3, f4, f5 = features
        x = self.up4(f5, f4) if guidance is None else self.up4(f5, f4, guidance)
        x = self.up1(self.up2(self.up3(x, f3), f2), f1)
        return torch.sigmoid(self.mask(x).float()), x


class AdaptiveCombination(nn.Module):
    """M_fnl = G * M_dec + (1 - G) * M_rsr, with G between 0 and 1 learnt (section 3.3).

    The paper does not say what G is read from: here, from the decoder's last features and both masks.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.Conv2d(channels + 2, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            PixelConv(channels, 1),
        )

    def forward(self, features: Tensor, m_dec: Tensor, m_rsr: Tensor) -> Tensor:
        """Combine two masks (B, 1, H, W), given the decoder's features (B, w, H, W)."""
        first, *rest = self.gate
        gate = convolve_joined([features, m_dec, m_rsr], first)
        for layer in rest:
            gate = layer(gate)
        g = torch.sigmoid(gate.float())
        return g * m_dec + (1 - g) * m_rsr
