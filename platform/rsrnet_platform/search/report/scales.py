"""Where the values of a searched setting stand on an axis: linear, logarithmic, or one place a value."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from rsrnet_platform.search.report.outcome import show

FEW = 8
"""Up to so many values of a setting are told apart one by one."""

LOG_DECADES = 1.5
"""Positive numbers that span more are shown on a logarithmic axis."""

LONGEST_LABEL = 16


@dataclass(frozen=True)
class Scale:
    """The axis of a setting.

    A position is a number that grows evenly along the axis: the value itself, its decimal logarithm, or the
    rank of the value.
    """

    kind: Literal["linear", "log", "category"]

    values: tuple[Any, ...]
    """The different values, in order."""

    few: bool
    """Whether the values are few and none between them was meant to be tried, as in a grid."""

    def position(self, value: Any) -> float:
        """Where a value stands."""
        if self.kind == "category":
            return float(self.values.index(value))
        return math.log10(value) if self.kind == "log" else float(value)

    def coordinate(self, position: float) -> float:
        """What Matplotlib calls this place on an axis of this kind."""
        return 10.0**position if self.kind == "log" else position

    @property
    def limits(self) -> tuple[float, float]:
        """Positions of the first and the last value; an interval around the only one, if there is but one."""
        low, high = self.position(self.values[0]), self.position(self.values[-1])
        margin = 0.5 * (abs(low) or 1.0) if self.kind == "linear" else 0.5
        return (low, high) if low < high else (low - margin, high + margin)

    @property
    def gap(self) -> float:
        """Smallest distance of two values; of the limits, if there is but one."""
        positions = [self.position(value) for value in self.values]
        distances = (b - a for a, b in pairwise(positions))
        return min(distances, default=self.limits[1] - self.limits[0])

    def ticks(self, share: Callable[[str], float]) -> dict[float, str]:
        """Labels by position: as many as stand clear of each other.

        Args:
            share: part of the axis that a label takes.
        """
        low, high = self.limits
        candidates = [
            {position: label(value) for position, value in ticks.items()} for ticks in self._ticks()
        ]
        kept = [_apart(ticks, lambda text: share(text) * (high - low)) for ticks in candidates]
        whole = (ticks for ticks, candidate in zip(kept, candidates, strict=True) if ticks == candidate)
        return next(whole, kept[-1])

    @property
    def by_value(self) -> bool:
        """Whether each value has its own tick."""
        return self.kind == "category" or self.few or len(self.values) == 1

    def _ticks(self) -> list[dict[float, Any]]:
        """Values to label by position, the most labels first."""
        low, high = self.limits
        if self.by_value:
            return [{self.position(value): value for value in self.values}]
        if self.kind == "linear":
            return [{tick: tick for tick in even_values(low, high, count)} for count in (5, 4, 3, 2)]
        digits = ((1, 3), (1,)) if high - low < 3 else ((1,),)
        return [{place: 10.0**place for place in _round_logarithms(low, high, leading)} for leading in digits]


def scale_of(values: Iterable[Any]) -> Scale:
    """The axis that suits the values of a setting, of which there is at least one."""
    given = list(values)
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in given):
        distinct = sorted({json.dumps(value): value for value in given}.values(), key=_order)
        return Scale("category", tuple(distinct), len(distinct) <= FEW)
    numbers = sorted(set(given))
    whole = all(isinstance(number, int) for number in numbers)
    few = len(numbers) <= FEW and (whole or 2 * len(numbers) <= len(given))
    wide = numbers[0] > 0 and math.log10(numbers[-1] / numbers[0]) > LOG_DECADES
    return Scale("log" if wide else "linear", tuple(numbers), few)


def even_values(low: float, high: float, intervals: int = 5) -> list[float]:
    """Round numbers, evenly spaced, within limits."""
    from matplotlib.ticker import MaxNLocator

    margin = 1e-9 * (high - low)
    ticks = MaxNLocator(intervals, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [float(tick) for tick in ticks if low - margin <= tick <= high + margin]


def label(value: Any) -> str:
    """The value of a setting, short enough for a tick."""
    text = show(value).replace(", ", ",") if isinstance(value, list) else show(value)
    return text if len(text) <= LONGEST_LABEL else f"{text[:8]}…{text[-7:]}"


def _round_logarithms(low: float, high: float, leading: Iterable[int]) -> list[float]:
    """Logarithms within limits of the numbers whose only digit is one of some."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    logarithms = [power + math.log10(digit) for power in powers for digit in leading]
    return [value for value in logarithms if low - 1e-9 <= value <= high + 1e-9]


def _apart(ticks: dict[float, str], length: Callable[[str], float]) -> dict[float, str]:
    """Leave out labels that would touch the one before."""
    kept: dict[float, str] = {}
    end = -math.inf
    for position, text in ticks.items():
        half = length(text) / 2 * (1 - 1e-9)
        if position - half >= end:
            kept[position] = text
            end = position + half
    return kept


def _order(value: Any) -> tuple[Any, ...]:
    """Sorts values of any types: numbers, then texts, then lists by length, each by their values; null last."""
    if isinstance(value, list | tuple):
        return 2, len(value), [_order(item) for item in value]
    if isinstance(value, str):
        return 1, value
    return (3,) if value is None else (0, value)


def side_by_side(keys: Iterable[Hashable], width: float, step: float) -> list[float]:
    """Offsets that set things of the same place side by side, around it, in the order given.

    Args:
        keys: the place of each.
        width: at most between the first and the last of a place.
        step: at most between neighbours.
    """
    places = list(keys)
    members = Counter(places)
    seen: Counter[Hashable] = Counter()
    offsets = []
    for key in places:
        between = min(step, width / max(members[key] - 1, 1))
        offsets.append((seen[key] - (members[key] - 1) / 2) * between)
        seen[key] += 1
    return offsets
