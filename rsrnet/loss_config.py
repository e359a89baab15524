"""The configuration of the loss; without torch, so that checking a job file stays fast."""

from __future__ import annotations

from dataclasses import dataclass

from rsrnet.config import require


@dataclass(frozen=True)
class LossConfig:
    """Weights of the training loss (section 3.4)."""

    lambda_: float = 0.8
    """Weight of a mask relative to that of the next iteration, above 0 and at most 1 (paper: 0.8)."""

    def __post_init__(self) -> None:
        require(self, lambda_=(0 < self.lambda_ <= 1, "a number above 0, at most 1"))
