"""The training recipe: what is set once for a training, beside the network and the loss (paper, section 4.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rsrnet.config import require


@dataclass(frozen=True)
class FitConfig:
    """The training recipe (section 4.2). The defaults are the paper's."""

    epochs: int = 60
    """Passes over the training images (paper: 60)."""

    batch_size: int = 32
    """Images a step over all workers together, whatever their number (paper: 32)."""

    lr: float = 1e-4
    """Initial learning rate of Adam (paper: 1e-4)."""

    weight_decay: float = 1e-4
    """L2 penalty of Adam (paper: 1e-4)."""

    milestones: tuple[int, ...] = (30, 40, 50, 55)
    """Epochs after which the learning rate is multiplied by `lr_decay` (paper: 30, 40, 50, 55)."""

    lr_decay: float = 0.5
    """Factor at each milestone (paper: 0.5)."""

    seed: int = 42
    """Seed of the initial weights, the sample order and the augmentation (paper: 42)."""

    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    """Arithmetic of the network (paper: float32). tf32: float32 whose products a GPU rounds to 10 bits; other devices
    have no such thing. bfloat16 is autocast; losses and masks stay in float32."""

    checkpoint_iterations: bool = False
    """Whether to keep nothing of the inside of an iteration for the backward pass, but to make it again: less memory,
    more time (docs/speed.md), the same gradients."""

    compile: bool = False
    """Whether torch.compile compiles the network for the steps, which takes a minute first: for long trainings
    (docs/speed.md says what it gives). Needs a C++ compiler."""

    encoder_weights: str = "imagenet"
    """Start of the encoder: `imagenet` (torchvision's weights), `none` (random), or the path of a ResNet state dict."""

    on_nonfinite: Literal["stop", "skip"] = "stop"
    """What a loss that is NaN or infinite does: `stop` ends the training, naming and saving the batch; `skip` leaves
    the step out on all workers and counts it (`train/skipped_steps`), up to ten in a row."""

    def __post_init__(self) -> None:
        require(
            self,
            epochs=(self.epochs >= 1, "a whole number, at least 1"),
            batch_size=(self.batch_size >= 1, "a whole number, at least 1"),
            lr=(self.lr > 0, "a number above 0"),
            weight_decay=(self.weight_decay >= 0, "a number, at least 0"),
            milestones=(
                all(b > a for a, b in zip((0, *self.milestones), self.milestones, strict=False)),
                "epochs in rising order, each at least 1",
            ),
            lr_decay=(0 < self.lr_decay <= 1, "a number above 0, at most 1"),
            seed=(0 <= self.seed < 2**32, "a whole number from 0 to 2**32 - 1"),
            precision=(self.precision in ("float32", "tf32", "bfloat16"), "float32, tf32 or bfloat16"),
            on_nonfinite=(self.on_nonfinite in ("stop", "skip"), "stop or skip"),
            encoder_weights=(bool(self.encoder_weights), "imagenet, none or a path"),
        )
