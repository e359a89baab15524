"""RSRNet (section 3.1): a UNet with the Recurrent Self-Reasoning module in its bottleneck."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rsrnet.model.config import RSRNetConfig
from rsrnet.model.decoder import AdaptiveCombination, Decoder
from rsrnet.model.encoder import Encoder
from rsrnet.model.reasoning import Reasoning, SimilarityReasoning

MULTIPLE = 16
"""Sides the network works on are multiples of this; other sizes are padded, and the masks cropped back."""

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's RGB values, which the pretrained encoder expects."""


@dataclass(frozen=True)
class RSRNetOutput:
    """The masks of a batch: probabilities in float32, 1 = inharmonious."""

    masks: Tensor
    """The upsampled mask of every iteration, (B, K, H, W); K = 0 without RSR module."""

    m_rsr: Tensor
    """The last of them, (B, 1, H, W); M_dec where there is no RSR module."""

    m_dec: Tensor
    """The decoder's mask, (B, 1, H, W)."""

    m_fnl: Tensor
    """The final mask, (B, 1, H, W)."""


class RSRNet(nn.Module):
    """Localizes the inharmonious region of RGB images of any size.

    Args:
        config: the architecture; the default is the paper's.

    Example:
        >>> output = RSRNet(RSRNetConfig(width=16))(torch.rand(1, 3, 224, 224))
        >>> output.m_fnl.shape, output.masks.shape
        (torch.Size([1, 1, 224, 224]), torch.Size([1, 12, 224, 224]))
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: RSRNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or RSRNetConfig()
        self.encoder = Encoder(config.depth, config.width)
        self.reasoning: Reasoning | SimilarityReasoning | None = None
        if config.reasoning == "similarity":
            self.reasoning = SimilarityReasoning(config)
        elif config.reasoning != "none":
            self.reasoning = Reasoning(config)
        self.decoder = Decoder(self.encoder.channels, guided=self.reasoning is not None)
        self.combination = None
        if self.reasoning is not None and config.combination == "adaptive":
            self.combination = AdaptiveCombination(config.width)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor, iterations: int | None = None) -> RSRNetOutput:
        """Localize the inharmonious regions.

        Args:
            images: RGB in [0, 1], (B, 3, H, W), any H and W.
            iterations: K, where it shall differ from the configuration's.

        Raises:
            ValueError: if ``images`` has another shape.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images must have shape (B, 3, H, W), not {tuple(images.shape)}")
        height, width = images.shape[2:]
        features = self.encoder(self._prepare(images))
        if self.reasoning is None:
            m_dec, _ = self.decoder(features, None)
            m_dec = m_dec[..., :height, :width]
            return RSRNetOutput(m_dec[:, :0], m_dec, m_dec, m_dec)
        guidance, masks = self.reasoning(features[3], iterations)
        m_dec, decoded = self.decoder(features, guidance)
        m_fnl = self._combine(decoded, m_dec, masks[:, -1:])
        masks, m_dec, m_fnl = (mask[..., :height, :width] for mask in (masks, m_dec, m_fnl))
        return RSRNetOutput(masks, masks[:, -1:], m_dec, m_fnl)

    def _prepare(self, images: Tensor) -> Tensor:
        """Normalise, and repeat the last row and column up to the next multiple of 16."""
        height, width = images.shape[2:]
        padding = (0, -width % MULTIPLE, 0, -height % MULTIPLE)
        return F.pad((images - self.mean) / self.std, padding, mode="replicate")

    def _combine(self, decoded: Tensor, m_dec: Tensor, m_rsr: Tensor) -> Tensor:
        """M_fnl of (B, 1, H, W) from the two masks, as the configuration says."""
        if self.combination is not None:
            return self.combination(decoded, m_dec, m_rsr)
        return m_dec if self.config.combination == "decoder" else (m_dec + m_rsr) / 2
