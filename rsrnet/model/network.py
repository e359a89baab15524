"""RSRNet (section 3.1): a UNet with the Recurrent Self-Reasoning module in its bottleneck."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rsrnet.model.config import RSRNetConfig
from rsrnet.model.decoder import AdaptiveCombination, Decoder
from rsrnet.model.encoder import Encoder
from rsrnet.model.pixelwise import PixelConv
from rsrnet.model.reasoning import Reasoning, SimilarityReasoning
from rsrnet.model.recurrence import IterationsError, Reasoned

MULTIPLE = 16
"""Sides the network works on are multiples of this; other sizes are padded, and the masks cropped back."""

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's RGB values, which the pretrained encoder expects."""


@dataclass(frozen=True)
class RSRNetOutput:
    """The masks of a batch: probabilities in float32, 1 = inharmonious."""

    masks: Tensor
    """The upsampled mask of every iteration, (B, K, H, W); only the last one, (B, 1, H, W), if no more was asked for;
    none, (B, 0, H, W), without RSR module."""

    m_rsr: Tensor
    """The last of them, (B, 1, H, W); M_dec where there is no RSR module."""

    m_dec: Tensor
    """The decoder's mask, (B, 1, H, W)."""

    m_fnl: Tensor
    """The final mask, (B, 1, H, W)."""

    changes: Tensor
    """How far each iteration moved the mask, see :func:`rsrnet.model.recurrence.change`, (B, K)."""

    iterations: Tensor
    """Iterations that each image took, (B,) int64; 0 without RSR module."""


class RSRNet(nn.Module):
    """Localizes the inharmonious region of RGB images of any size.

    Args:
        config: the architecture; the default is the paper's.

    Attributes:
        checkpoint_iterations: whether training keeps nothing of the inside of an iteration, but makes it again in the
            backward pass: less memory, more time, the same gradients.
        memory_format: how maps lie in memory, see :meth:`lay_out`.

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
        self.checkpoint_iterations = False
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
        self.lay_out(torch.channels_last)

    def lay_out(self, memory_format: torch.memory_format) -> None:
        """Choose how maps and kernels lie in memory; the values are the same.

        Channels last is what convolutions are fastest on, on processors (large maps of few channels) and on tensor
        cores.
        """
        self.memory_format = memory_format
        self.to(memory_format=memory_format)
        for module in self.modules():
            if isinstance(module, PixelConv):
                module.lay_out_as_matrix()

    def forward(
        self,
        images: Tensor,
        iterations: int | None = None,
        tolerance: float | None = None,
        *,
        every_mask: bool = True,
    ) -> RSRNetOutput:
        """Localize the inharmonious regions.

        Args:
            images: RGB in [0, 1], (B, 3, H, W), any H and W.
            iterations: K, where it shall differ from the configuration's.
            tolerance: early exit, in evaluation mode only: an image is done with the iteration that moves its mask
                by no more than this in any pixel of the module's resolution. None: K iterations for every image.
            every_mask: whether to upsample the mask of every iteration, which only the loss needs.

        Raises:
            ValueError: if ``images`` has another shape.
            IterationsError: if ``iterations`` or ``tolerance`` cannot be followed.
        """
        self.check(iterations, tolerance)
        features = self._encode(images)
        if self.reasoning is None:
            m_dec, _ = self.decoder(features, None)
            m_dec = m_dec[..., : images.shape[2], : images.shape[3]]
            nothing = m_dec.new_zeros(m_dec.shape[0], 0)
            return RSRNetOutput(m_dec[:, :0], m_dec, m_dec, m_dec, nothing, nothing.sum(1).long())
        reasoned = self.reasoning(
            features[3],
            iterations,
            tolerance,
            every_mask=every_mask,
            checkpointed=self.checkpoint_iterations,
        )
        return self._decode(images, features, reasoned)

    def unrolled(self, images: Tensor, iterations: int | None = None) -> Iterator[RSRNetOutput]:
        """What :meth:`forward` would give with 1, 2, ... K iterations, at the price of one encoding.

        Args:
            images: as in :meth:`forward`.
            iterations: as in :meth:`forward`.

        Returns:
            K outputs, each decoded when it is asked for.

        Raises:
            ValueError: if ``images`` has another shape.
            IterationsError: if there is no RSR module, or ``iterations`` is below 1.
        """
        if self.reasoning is None:
            raise IterationsError("a network without RSR module (reasoning: none) has no iterations to show")
        self.check(iterations)
        features = self._encode(images)
        reasoned: Reasoned = self.reasoning(features[3], iterations)
        steps = range(1, reasoned.masks.shape[1] + 1)
        return (self._decode(images, features, reasoned.until(k)) for k in steps)

    def check(self, iterations: int | None = None, tolerance: float | None = None) -> None:
        """Refuse what :meth:`forward` could not follow.

        Raises:
            IterationsError: saying why.
        """
        if self.reasoning is None and (iterations, tolerance) != (None, None):
            raise IterationsError(
                "a network without RSR module (reasoning: none) has no iterations to choose"
            )
        if iterations is not None and (type(iterations) is not int or iterations < 1):
            raise IterationsError(f"iterations = {iterations}: a whole number, at least 1")
        if tolerance is not None and not (isinstance(tolerance, int | float) and 0 <= tolerance < 1):
            raise IterationsError(f"tolerance = {tolerance}: a number from 0 to below 1, or None")
        if tolerance is not None and self.training:
            raise IterationsError("early exit is for evaluation: call eval() first, or leave tolerance out")

    def _decode(self, images: Tensor, features: list[Tensor], reasoned: Reasoned) -> RSRNetOutput:
        """The masks of the decoder and the combination, guided by the last of the RSR module's."""
        height, width = images.shape[2:]
        m_dec, decoded = self.decoder(features, reasoned.masks[:, -1:])
        m_fnl = self._combine(decoded, m_dec, reasoned.upsampled[:, -1:])
        masks, m_dec, m_fnl = (mask[..., :height, :width] for mask in (reasoned.upsampled, m_dec, m_fnl))
        return RSRNetOutput(masks, masks[:, -1:], m_dec, m_fnl, reasoned.changes, reasoned.iterations)

    def _encode(self, images: Tensor) -> list[Tensor]:
        """The encoder's five feature maps.

        Raises:
            ValueError: if ``images`` has another shape than (B, 3, H, W).
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images must have shape (B, 3, H, W), not {tuple(images.shape)}")
        return self.encoder(self._prepare(images))

    def _prepare(self, images: Tensor) -> Tensor:
        """Normalise, and repeat the last row and column up to the next multiple of 16."""
        height, width = images.shape[2:]
        padding = (0, -width % MULTIPLE, 0, -height % MULTIPLE)
        prepared = F.pad((images - self.mean) / self.std, padding, mode="replicate")
        return prepared.contiguous(memory_format=self.memory_format)

    def _combine(self, decoded: Tensor, m_dec: Tensor, m_rsr: Tensor) -> Tensor:
        """M_fnl of (B, 1, H, W) from the two masks, as the configuration says."""
        if self.combination is not None:
            return self.combination(decoded, m_dec, m_rsr)
        return m_dec if self.config.combination == "decoder" else (m_dec + m_rsr) / 2
