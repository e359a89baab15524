"""How a search goes about it. Light: part of the schema of job files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rsrnet.config import require


@dataclass(frozen=True)
class SearchConfig:
    """How the points of a space are chosen, judged and given up."""

    algorithm: Literal["grid", "random", "optuna"] = "grid"
    """`grid`: every combination of `grid` domains. `random`: `trials` draws for each such combination. `optuna`:
    `trials` points proposed by multivariate TPE. The paper's own point comes first, besides."""

    trials: int | None = None
    """Points to draw (`random`, `optuna`), each different while the space has others; more of them continue a finished
    search."""

    scheduler: Literal["none", "asha", "median"] = "none"
    """What gives up on a trial early: nothing, successive halving, or the median of the others at the same epoch.
    The paper's own point is never given up."""

    grace_epochs: int | None = None
    """Epochs, counted over the folds, that every trial gets; null: one fold, `fit.epochs`. With fewer a slow start
    is given up that would have been the best (tests/benchmarks/bench_asha.py)."""

    reduction_factor: int = 3
    """ASHA: one trial in so many goes on at each rung; rungs are this far apart, as a factor of epochs."""

    folds: int = 5
    """Parts of the training list; each validates once. No photograph or scene is in two (paper: cross-validation,
    the number not given). 1, which only an ablation has: no parts, but the validation images of the training."""

    metric: Literal["val/ap", "val/f1", "val/iou"] = "val/iou"
    """Score of a fold: its best epoch by this metric. The objective is the mean over the folds."""

    seed: int = 42
    """Chooses the folds and the points."""

    concurrent: int | None = None
    """Trials at once at most; null: as many as the cluster has room for."""

    def __post_init__(self) -> None:
        draws = self.algorithm != "grid"
        require(
            self,
            trials=(
                self.trials is not None and self.trials >= 1 if draws else self.trials is None,
                f"a whole number, at least 1: how many points {self.algorithm} draws"
                if draws
                else "null: a grid has as many trials as combinations; random and optuna draw",
            ),
            grace_epochs=(
                self.grace_epochs is None or self.grace_epochs >= 1,
                "a whole number, at least 1, or null",
            ),
            reduction_factor=(self.reduction_factor >= 2, "a whole number, at least 2"),
            folds=(self.folds >= 1, "a whole number, at least 1"),
            seed=(0 <= self.seed < 2**32, "a whole number from 0 to 2**32 - 1"),
            concurrent=(
                self.concurrent is None or self.concurrent >= 1,
                "a whole number, at least 1, or null",
            ),
        )
