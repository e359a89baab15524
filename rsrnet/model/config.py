"""The configuration of the network: every row of the paper's Tables 2 and 3 is one of these."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from rsrnet.config import require


@dataclass(frozen=True)
class RSRNetConfig:
    """Architecture of RSRNet. The defaults are the paper's model."""

    depth: Literal[18, 34] = 34
    """Layers of the ResNet whose four stages form the encoder (paper: 34)."""

    width: int = 64
    """Channels of the first stage; every other width is a multiple of it (paper: 64, narrow ones suit CPUs)."""

    iterations: int = 12
    """K, the number of steps of the RSR module (paper: 12)."""

    scales: tuple[int, ...] = (0, 1, 2, 3)
    """Neighbourhoods of the similarity map, side 2l + 1 each (Eq. 2; paper: 0, 1, 2, 3). Empty: without MSM."""

    reasoning: Literal["gru", "conv", "similarity", "none"] = "gru"
    """What updates the mask: the ConvGRU, two convolutions (w/o GRU), the similarity map alone, or no RSR."""

    context: Literal["conventional", "style"] = "conventional"
    """Feature map beside the similarity map in X^k: F_c, or F_s again (w/o F_c)."""

    upsampling: Literal["convex", "bilinear"] = "convex"
    """From H/8 to H: learnt weights over nine neighbours, or bilinear (w/o weighted upsample)."""

    combination: Literal["adaptive", "average", "decoder"] = "adaptive"
    """M_fnl: combined by the learnt mask G, the plain average of M_rsr and M_dec, or M_dec alone."""

    hidden_init: Literal["tanh", "zeros"] = "tanh"
    """H^0: tanh of a projection of the context map, or zeros (the paper does not say)."""

    def __post_init__(self) -> None:
        require(
            self,
            depth=(self.depth in (18, 34), "18 or 34"),
            width=(self.width >= 4 and self.width % 4 == 0, "a multiple of 4, at least 4"),
            iterations=(self.iterations >= 1, "a whole number, at least 1"),
            scales=(
                all(scale >= 0 for scale in self.scales) and len(set(self.scales)) == len(self.scales),
                "different whole numbers, each at least 0",
            ),
            reasoning=(
                self.reasoning in ("gru", "conv", "similarity", "none"),
                "gru, conv, similarity or none",
            ),
            context=(self.context in ("conventional", "style"), "conventional or style"),
            upsampling=(self.upsampling in ("convex", "bilinear"), "convex or bilinear"),
            combination=(
                self.combination in ("adaptive", "average", "decoder")
                and (self.reasoning != "none" or self.combination == "decoder"),
                "adaptive, average or decoder; only decoder without a mask of the RSR module (reasoning: none)",
            ),
            hidden_init=(self.hidden_init in ("tanh", "zeros"), "tanh or zeros"),
        )


ABLATIONS: dict[str, dict[str, Any]] = {
    "unet": {"reasoning": "none", "combination": "decoder"},
    "rsr": {"combination": "decoder"},
    "similarity_only": {"reasoning": "similarity", "combination": "decoder"},
    "simple_average": {"combination": "average"},
    "without_gru": {"reasoning": "conv"},
    "without_msm": {"scales": ()},
    "without_fc": {"context": "style"},
    "without_weighted_upsample": {"upsampling": "bilinear"},
    "full": {},
}
"""Rows 1 to 9 of Table 2 (5 to 9 are Table 3): what each changes in the full model's configuration."""


def ablation(row: str, config: RSRNetConfig | None = None) -> RSRNetConfig:
    """The configuration of one row of Table 2, starting from ``config`` (default: the paper's)."""
    return replace(config or RSRNetConfig(), **ABLATIONS[row])
