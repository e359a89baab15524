"""What a search found: the best point against the paper's, and how trials are told of in words."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import stdev
from typing import Any

from rsrnet_platform.search.trials import Status, Trial, best

PAPER = 0
"""Number of the trial of the paper's own point."""

WORDS: dict[Status, str] = {
    "finished": "finished",
    "stopped": "stopped early",
    "diverged": "diverged",
    "failed": "failed",
    "running": "running",
}
"""Each status in words, in the order they are told."""


@dataclass(frozen=True)
class Comparison:
    """The best trial against the paper's own point, on the same folds."""

    best: Trial
    """The finished trial with the highest objective."""

    paper: Trial | None
    """The trial of the paper's own point; None: it did not finish."""

    difference: float | None
    """Objective of the best less that of the paper's; None without the paper's."""

    spread: float | None
    """Standard deviation (n - 1) over the folds of the difference of the scores, which are paired: every trial
    is judged on the same folds, so how hard a fold is cancels out. None without the paper's, or for one fold."""

    @property
    def decisive(self) -> bool:
        """Whether the difference is larger than its spread over the folds."""
        return self.difference is not None and self.spread is not None and self.difference > self.spread


def comparison(trials: Sequence[Trial]) -> Comparison | None:
    """Compare the best trial with the paper's own point.

    Args:
        trials: all of a search, in any state; the paper's own point is number 0.

    Returns:
        The comparison, or None if no trial finished.
    """
    winner = best(list(trials))
    if winner is None:
        return None
    paper = next((trial for trial in finished(trials) if trial.index == PAPER), None)
    return Comparison(winner, paper, *difference(winner, paper))


def difference(trial: Trial, paper: Trial | None) -> tuple[float | None, float | None]:
    """How much better than the paper's own point a finished trial is, and the spread of that over the folds."""
    if paper is None or trial.objective is None or paper.objective is None:
        return None, None
    folds = [ours - theirs for ours, theirs in zip(trial.scores, paper.scores, strict=True)]
    return trial.objective - paper.objective, stdev(folds) if len(folds) > 1 else None


def finished(trials: Sequence[Trial]) -> list[Trial]:
    """The trials that were judged on every fold, the best first, of equals the one with the lower number."""
    return sorted(
        (trial for trial in trials if trial.status == "finished"),
        key=lambda trial: (-(trial.objective or 0.0), trial.index),
    )


def searched(trials: Sequence[Trial]) -> list[str]:
    """Dotted paths of the settings that the search varies."""
    return list(trials[0].point) if trials else []


def statuses(trials: Sequence[Trial]) -> str:
    """How the trials ended, such as `12 finished, 3 stopped early`."""
    counts = Counter(trial.status for trial in trials)
    return ", ".join(f"{counts[status]} {word}" for status, word in WORDS.items() if counts[status]) or "none"


def effort(trials: Sequence[Trial]) -> str:
    """Epochs trained, out of those of all trials in full, such as `30 of 60 (50 %)`."""
    done, full = sum(trial.step for trial in trials), sum(trial.steps for trial in trials)
    return f"{done} of {full} ({100 * done / full:.0f} %)" if full else "0"


def length(trials: Sequence[Trial]) -> float:
    """Seconds from the start of the search to the last report."""
    return max((trial.ended for trial in trials), default=0.0)


def time_unit(seconds: float) -> tuple[float, str]:
    """Length of a second in the unit that suits a time, and the unit."""
    if seconds < 180:
        return 1.0, "seconds"
    return (1 / 60, "minutes") if seconds < 3 * 3600 else (1 / 3600, "hours")


def show(value: Any) -> str:
    """Write the value of a setting as YAML would, numbers with three digits: `0.0001`, `3.2e-05`, `[1, 2, 4]`."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(show, value))}]"
    if isinstance(value, float):
        return f"{value:.3g}"
    return value if isinstance(value, str) else json.dumps(value)


def measured(value: float | None, spread: float | None, sign: str = "") -> str:
    """A score and its spread over the folds, such as `0.701 ± 0.020`; empty for no score."""
    if value is None:
        return ""
    return f"{value:{sign}.3f}" + (f" ± {spread:.3f}" if spread is not None else "")
