"""The Recurrent Self-Reasoning module (section 3.2), which works at 1/8 of the image's resolution.

Letters in the shapes: B images, C channels of F_s and F_c, D of the hidden state, L scales, K iterations,
h x w = H/8 x W/8.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rsrnet.model.config import RSRNetConfig
from rsrnet.model.lean import convolve_joined, join, made_again
from rsrnet.model.pixelwise import PixelConv
from rsrnet.model.recurrence import Reasoned, State, unroll

STRIDE = 8
"""Ratio between the image's resolution and the module's."""

THRESHOLD = 0.5
"""Epsilon of Eq. 1: below it a pixel counts as background."""


def _in_float32(formula: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Compute a formula in float32: sums over a map and cosines lose too much in bfloat16."""

    @wraps(formula)
    def precise(first: Tensor, second: Any) -> Tensor:
        with torch.autocast(first.device.type, enabled=False):
            return formula(first.float(), second)

    return precise


def feature_head(in_channels: int, out_channels: int) -> nn.Sequential:
    """Style or conventional head (section 3.1): 3x3 convolution, ReLU, 1x1 convolution."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1),
        nn.ReLU(inplace=True),
        PixelConv(out_channels, out_channels),
    )


@_in_float32
def background_prototype(style: Tensor, mask: Tensor) -> Tensor:
    """Mean style feature of the background, f_bg (Eq. 1).

    Where no pixel is background the mean is taken over the whole image: Eq. 1 would divide by zero.

    Args:
        style: F_s, (B, C, h, w).
        mask: M^(k-1), (B, 1, h, w), 1 = inharmonious.

    Returns:
        (B, C).
    """
    background = (mask < THRESHOLD).to(style.dtype)
    count = background.sum((2, 3), keepdim=True)
    weights = torch.where(count > 0, background / count.clamp(min=1), 1 / background[0].numel())
    return (style * weights).sum((2, 3))


@_in_float32
def local_directions(style: Tensor, scales: tuple[int, ...]) -> Tensor:
    """Unit vectors of the neighbourhood sums of F_s, the part of Eq. 2 that no iteration changes.

    A mean stands for the sum: the cosine does not see the factor.

    Args:
        style: F_s, (B, C, h, w).
        scales: the neighbourhood of scale l has side 2l + 1.

    Returns:
        (B, L, C, h, w).
    """
    means = [
        F.avg_pool2d(style, 2 * scale + 1, stride=1, padding=scale) if scale else style for scale in scales
    ]
    return F.normalize(torch.stack(means, dim=1), dim=2)


@_in_float32
def similarity_map(directions: Tensor, prototype: Tensor) -> Tensor:
    """Multi-scale similarity map S: cosine of every local mean style with the background's (Eq. 2).

    Args:
        directions: from :func:`local_directions`, (B, L, C, h, w).
        prototype: f_bg, (B, C).

    Returns:
        (B, L, h, w), values in [-1, 1].
    """
    return torch.einsum("blchw,bc->blhw", directions, F.normalize(prototype, dim=1))


class ConvGRU(nn.Module):
    """Convolutional gated recurrent unit with 3x3 kernels (section 3.2.2).

    F_c, a part of its input X, is the same in every iteration. Convolutions are linear: what they make of F_c is
    computed once and added in every iteration, which saves half of the unit's arithmetic. The gates z and r share a
    convolution.

    Args:
        hidden_channels: D.
        input_channels: of the rest of X; one of them, the last, stands behind F_c in X.
        context_channels: of F_c.
    """

    def __init__(self, hidden_channels: int, input_channels: int, context_channels: int) -> None:
        super().__init__()
        channels = hidden_channels + input_channels + context_channels
        self.conv_z = nn.Conv2d(channels, hidden_channels, 3, padding=1)
        self.conv_r = nn.Conv2d(channels, hidden_channels, 3, padding=1)
        self.conv_h = nn.Conv2d(channels, hidden_channels, 3, padding=1)
        self.parts = [hidden_channels + input_channels - 1, context_channels, 1]

    def unchanging(self, context: Tensor) -> Tensor:
        """What the three convolutions make of F_c, (B, C, h, w), and their biases: (B, 3D, h, w)."""
        convolutions = (self.conv_z, self.conv_r, self.conv_h)
        weight = torch.cat([each.weight.split(self.parts, dim=1)[1] for each in convolutions])
        bias = torch.cat([each.bias for each in convolutions if each.bias is not None])
        return F.conv2d(context, weight, bias, padding=1)

    def weights(self) -> tuple[Tensor, Tensor]:
        """The weights for the rest: of z and r, (2D, D + C', 3, 3), and of the candidate, (D, D + C', 3, 3)."""
        z, r, h = (
            torch.cat(each.weight.split(self.parts, dim=1)[::2], dim=1)
            for each in (self.conv_z, self.conv_r, self.conv_h)
        )
        return torch.cat([z, r]), h

    def forward(
        self, hidden: Tensor, x: Tensor, unchanging: Tensor, weights: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Map H^(k-1), (B, D, h, w), to H^k.

        Args:
            hidden: H^(k-1).
            x: X^k without F_c, (B, C', h, w).
            unchanging: from :meth:`unchanging`.
            weights: from :meth:`weights`.
        """
        channels = hidden.shape[1]
        of_gates, of_candidate = unchanging.split([2 * channels, channels], dim=1)
        gates = of_gates + convolve_joined([hidden, x], partial(F.conv2d, weight=weights[0], padding=1))
        z, r = torch.sigmoid(gates).chunk(2, dim=1)
        candidate = of_candidate + F.conv2d(join([r * hidden, x]), weights[1], padding=1)
        return torch.lerp(hidden, torch.tanh(candidate), z)


class ConvexUpsampling(nn.Module):
    """8x upsampling by a weighted combination of nine neighbours (section 3.2.2, after RAFT).

    Two convolutions predict the weights, 8 x 8 x 9 for every pixel; a softmax over the nine makes every output
    a convex combination. The mask is padded with its own border: zeros would pull the borders of the image
    towards background.
    """

    def __init__(self, hidden_channels: int, channels: int) -> None:
        super().__init__()
        self.weights = nn.Sequential(
            nn.Conv2d(hidden_channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            PixelConv(channels, 9 * STRIDE**2),
        )

    def forward(self, mask: Tensor, hidden: Tensor) -> Tensor:
        """Map a mask (B, 1, h, w) and the hidden state (B, D, h, w) to a mask (B, 1, 8h, 8w)."""
        batch, _, height, width = mask.shape
        # 0.25 balances the gradients of this head against those of the mask, as in RAFT.
        logits = 0.25 * self.weights(hidden).float()
        # Pixels first, as the logits lie in memory.
        weights = logits.permute(0, 2, 3, 1).reshape(-1, 9, STRIDE**2).softmax(dim=1)
        neighbours = F.unfold(F.pad(mask, (1, 1, 1, 1), mode="replicate"), 3).transpose(1, 2)
        blocks = (weights * neighbours.reshape(-1, 9, 1)).sum(dim=1).view(batch, height, width, STRIDE**2)
        return F.pixel_shuffle(blocks.permute(0, 3, 1, 2), STRIDE)


def bilinear_upsampling(mask: Tensor) -> Tensor:
    """8x bilinear upsampling: the row "w/o weighted upsample" of Table 2, (B, 1, h, w) to (B, 1, 8h, 8w)."""
    return F.interpolate(mask, scale_factor=STRIDE, mode="bilinear", align_corners=False)


class Iterated(nn.Module):
    """What iterates: ``_step`` is one iteration, ``_upsample`` makes a state's mask one of the image's resolution."""

    def compile(self, *args: Any, **how: Any) -> None:
        """Compile one iteration, the upsampling and the heads: in a whole, every iteration would be compiled anew.

        Args:
            *args: of :func:`torch.compile`.
            **how: of :func:`torch.compile`.
        """
        for name in ("_step", "_upsample"):
            setattr(self, name, torch.compile(getattr(self, name), *args, **how))
        for name in ("style_head", "context_head"):
            if (head := getattr(self, name, None)) is not None:
                head.compile(*args, **how)

    def __getstate__(self) -> dict[str, Any]:
        """Without what was compiled, which computes with the parameters of this one: a copy has its own."""
        state = super().__getstate__()
        return {name: value for name, value in state.items() if name not in ("_step", "_upsample")}


class Reasoning(Iterated):
    """K iterations between the background's style and the pixels unlike it (section 3.2).

    The residuals are summed as logits and the mask is their sigmoid, so that it stays between 0 and 1 with a
    gradient everywhere; M^0 itself is exactly zero, which makes the first prototype the mean over the image.
    """

    def __init__(self, config: RSRNetConfig) -> None:
        super().__init__()
        channels, hidden_channels = 4 * config.width, 2 * config.width
        self.iterations = config.iterations
        self.scales = config.scales
        self.zero_start = config.hidden_init == "zeros"
        # A head that nothing reads is not built: F_s without MSM, F_c where F_s takes its place.
        uses_style = bool(config.scales) or config.context == "style"
        self.style_head = feature_head(8 * config.width, channels) if uses_style else None
        uses_conventional = config.context == "conventional"
        self.context_head = feature_head(8 * config.width, channels) if uses_conventional else None
        self.mask_conv = _conv_relu(1, config.width)
        self.similarity_conv = _conv_relu(len(self.scales), config.width) if self.scales else None
        input_channels = config.width * (2 if self.scales else 1) + channels + 1
        if config.reasoning == "gru":
            self.update: ConvGRU | None = ConvGRU(hidden_channels, input_channels - channels, channels)
            self.initial = PixelConv(channels, hidden_channels) if not self.zero_start else None
        else:
            # Without GRU: two convolutions, those of the residual, make the mask of X^k itself.
            hidden_channels = input_channels
            self.update, self.initial = None, None
        self.residual = nn.Sequential(
            nn.Conv2d(hidden_channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            PixelConv(channels, 1),
        )
        self.upsample = ConvexUpsampling(hidden_channels, channels) if config.upsampling == "convex" else None

    def forward(
        self,
        features: Tensor,
        iterations: int | None = None,
        tolerance: float | None = None,
        *,
        every_mask: bool = True,
        checkpointed: bool = False,
    ) -> Reasoned:
        """Reason about the encoder's features of stage 4, (B, 8w, h, w).

        Args:
            features: the feature map.
            iterations: K, where it shall differ from the configuration's.
            tolerance: leave an image alone once its mask stands still, see :func:`~rsrnet.model.recurrence.unroll`.
            every_mask: whether to upsample the mask of every iteration, as the loss needs them, or the last one only.
            checkpointed: whether to keep nothing of the inside of an iteration, but to make it again in the backward
                pass.
        """
        style, context = self._feature_maps(features)
        logits = torch.zeros_like(features[:, :1], dtype=torch.float32)
        start = State(
            mask=torch.zeros_like(logits),
            style=style,
            context=self.update.unchanging(context) if self.update else context,
            directions=local_directions(style, self.scales) if self.scales else None,
            hidden=self._initial_hidden(context) if self.update else None,
            logits=logits,
        )
        weights = self.update.weights() if self.update else None
        step: Callable[[State], State] = partial(self._step, weights=weights)
        upsample: Callable[[State], Tensor] = self._upsample
        if checkpointed:
            step, upsample = made_again(step), made_again(upsample)
        count = self.iterations if iterations is None else iterations
        return unroll(start, step, upsample, count, tolerance, every_mask=every_mask)

    def _step(self, state: State, weights: tuple[Tensor, Tensor] | None) -> State:
        """One iteration: prototype, similarity map, X^k, H^k and the residual of the mask."""
        inputs = [self.mask_conv(state.mask)]
        if state.directions is not None and self.similarity_conv is not None:
            prototype = background_prototype(state.style, state.mask)
            inputs.append(self.similarity_conv(similarity_map(state.directions, prototype)))
        mask = state.mask.to(inputs[0].dtype)
        if self.update is not None and weights is not None:
            hidden = self.update(state.hidden, join([*inputs, mask]), state.context, weights)
        else:
            hidden = join([*inputs, state.context, mask])
        logits = state.logits + self.residual(hidden).float()
        return state._replace(mask=torch.sigmoid(logits), hidden=hidden, logits=logits)

    def _upsample(self, state: State) -> Tensor:
        return self.upsample(state.mask, state.hidden) if self.upsample else bilinear_upsampling(state.mask)

    def _feature_maps(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """F_s and F_c, (B, C, h, w) each; where one head is not built, the other's map stands for both."""
        maps = [head(features) for head in (self.style_head, self.context_head) if head is not None]
        return maps[0], maps[-1]

    def _initial_hidden(self, context: Tensor) -> Tensor:
        """H^0, (B, D, h, w): tanh of a projection of the context map, or zeros."""
        if self.initial is not None:
            return torch.tanh(self.initial(context))
        batch, channels, height, width = context.shape
        return context.new_zeros(batch, channels // 2, height, width)


class SimilarityReasoning(Iterated):
    """Row 3 of Table 2: the similarity map of scale 0 is itself the mask, K times, as in K-means.

    A cosine of 1 is certain background and -1 certain foreground, so the mask is (1 - S) / 2.
    """

    def __init__(self, config: RSRNetConfig) -> None:
        super().__init__()
        self.iterations = config.iterations
        self.style_head = feature_head(8 * config.width, 4 * config.width)

    def forward(
        self,
        features: Tensor,
        iterations: int | None = None,
        tolerance: float | None = None,
        *,
        every_mask: bool = True,
        checkpointed: bool = False,
    ) -> Reasoned:
        """Cluster the encoder's features of stage 4, (B, 8w, h, w); see :meth:`Reasoning.forward`."""
        style = self.style_head(features)
        mask = torch.zeros_like(style[:, :1], dtype=torch.float32)
        start = State(mask, style, style, local_directions(style, (0,)))
        step, upsample = self._step, self._upsample
        if checkpointed:
            step, upsample = made_again(step), made_again(upsample)
        count = self.iterations if iterations is None else iterations
        return unroll(start, step, upsample, count, tolerance, every_mask=every_mask)

    @staticmethod
    def _step(state: State) -> State:
        prototype = background_prototype(state.style, state.mask)
        return state._replace(mask=(1 - similarity_map(state.directions, prototype)).clamp(0, 2) / 2)

    @staticmethod
    def _upsample(state: State) -> Tensor:
        return bilinear_upsampling(state.mask)


def _conv_relu(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.ReLU(inplace=True))
