"""How the figures of a search show trials: a colour for each status, the marks of the best and the paper's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rsrnet_platform.drawing import BLUE, GREEN, ORANGE, PURPLE, VERMILION, YELLOW
from rsrnet_platform.search.report.outcome import comparison
from rsrnet_platform.search.trials import Status, Trial

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

STATUS: dict[Status, tuple[str, str]] = {
    "finished": (BLUE, ""),
    "stopped": ("#8FBFDB", "|"),
    "diverged": (ORANGE, "X"),
    "failed": (VERMILION, "X"),
    "running": (GREEN, ">"),
}
"""Colour of each status, and the marker at the end of a trial of it."""

BEST, PAPERS = "best", "the paper's own point"
"""What the legends call these two trials."""


def marked(trials: Sequence[Trial]) -> dict[str, Trial]:
    """The finished trials that every figure points out, by what the legends call them."""
    found = comparison(trials)
    if found is None:
        return {}
    if found.best is found.paper:
        return {f"{BEST}: {PAPERS}": found.best}
    return ({PAPERS: found.paper} if found.paper else {}) | {BEST: found.best}


def mark(axes: Axes, name: str, x: float, y: float) -> Artist:
    """Point out a trial: a star for the best, else a diamond."""
    star = name.startswith(BEST)
    (artist,) = axes.plot(
        [x],
        [y],
        linestyle="",
        marker="*" if star else "D",
        markersize=13 if star else 7,
        color=YELLOW if star else PURPLE,
        markeredgecolor="black",
        markeredgewidth=0.8,
        clip_on=False,
        zorder=10,
    )
    return artist
