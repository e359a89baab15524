"""The decoder and the combination of its mask with the RSR module's (section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
        x = self.reduce(F.interpolate(x, scale_factor=2, mode="nearest"))
        return self.fuse(torch.cat([x, *(skip.to(x.dtype) for skip in skips)], dim=1))


class Decoder(nn.Module):
    """From H/16 back to H; M_rsr joins the features of its own resolution, H/8, as attention guidance."""

    def __init__(self, channels: Sequence[int], guided: bool) -> None:
        super().__init__()
        c1, c2, c3, c4, c5 = channels
        self.up4 = UpBlock(c5, c4 + (1 if guided else 0), c4)
        self.up3 = UpBlock(c4, c3, c3)
        self.up2 = UpBlock(c3, c2, c2)
        self.up1 = UpBlock(c2, c1, c1)
        self.mask = nn.Conv2d(c1, 1, 1)

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
            nn.Conv2d(channels, 1, 1),
        )

    def forward(self, features: Tensor, m_dec: Tensor, m_rsr: Tensor) -> Tensor:
        """Combine two masks (B, 1, H, W), given the decoder's features (B, w, H, W)."""
        g = torch.sigmoid(self.gate(torch.cat([features, m_dec, m_rsr], dim=1)).float())
        return g * m_dec + (1 - g) * m_rsr
