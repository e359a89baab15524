"""The space of a search: which settings of a training vary, and over what.

Written in a job file as ``path: {domain: values}``::

    space:
      model.iterations: {grid: [4, 8, 12]}     # each of them
      model.scales: {choice: [[0], [0, 1]]}    # one of them; lists are values
      loss.lambda: {uniform: [0.5, 1.0]}       # a number between two
      fit.lr: {loguniform: [1e-5, 1e-3]}       # the same, uniform in its logarithm
      fit.batch_size: {randint: [8, 32]}       # a whole number, both ends included
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import combinations, product
from typing import Any, Literal, TypeAlias, cast, get_args

from rsrnet.config import Problem

Kind: TypeAlias = Literal["grid", "choice", "uniform", "loguniform", "randint"]
KINDS: tuple[str, ...] = get_args(Kind)

SEARCHABLE = ("model.", "loss.", "fit.", "data.size")
"""Settings (by dotted path or its beginning) that may vary: the others say where a training computes, or which
images it learns from, and those are the same for every trial."""

Try: TypeAlias = Callable[[Mapping[str, Any]], list[Problem]]
"""Tells what is wrong with values of some settings, by dotted path, by the rules of the training job."""


@dataclass(frozen=True)
class Domain:
    """What one setting varies over."""

    kind: Kind
    values: tuple[Any, ...]
    """Every value (``grid``, ``choice``), or the two ends."""

    @property
    def listed(self) -> bool:
        """Whether the values stand one by one."""
        return self.kind in ("grid", "choice")

    def draw(self, source: random.Random) -> Any:
        """Draw a value."""
        if self.listed:
            return source.choice(self.values)
        low, high = self.values
        if self.kind == "randint":
            return source.randint(low, high)
        if self.kind == "uniform":
            return source.uniform(low, high)
        # exp(log(x)) may leave the interval by a rounding error.
        return min(max(math.exp(source.uniform(math.log(low), math.log(high))), low), high)


def parse(given: Mapping[str, Any]) -> dict[str, Domain]:
    """Read a space that :func:`problems` found nothing wrong with.

    Args:
        given: domains by dotted path, such as ``{"model.iterations": {"grid": [4, 8]}}``.
    """
    return {path: _domain(value) for path, value in given.items()}


def problems(given: Mapping[str, Any], known: Sequence[str], try_values: Try) -> list[Problem]:
    """Tell everything that is wrong with a space.

    Args:
        given: as in :func:`parse`.
        known: the dotted path of every setting of a training job.
        try_values: the training job's own rules.
    """
    if not given:
        return [
            Problem(
                "space", {}, "at least one setting to search, such as `fit.lr: {loguniform: [1e-5, 1e-3]}`"
            )
        ]
    found: list[Problem] = []
    for path, value in given.items():
        found += _path_problems(path, value, known) or _domain_problems(path, value, try_values)
    return found


def misfits(space: Mapping[str, Domain], algorithm: str) -> list[Problem]:
    """Tell which domains an algorithm cannot search."""
    if algorithm == "grid":
        misfit = [path for path, domain in space.items() if domain.kind != "grid"]
        allowed = "a `grid` domain, or search.algorithm `random` or `optuna`, which draw"
    elif algorithm == "optuna":
        misfit = [path for path, domain in space.items() if domain.kind == "grid"]
        allowed = "a `choice` domain: optuna proposes points, it does not try every value"
    else:
        misfit = list(space) if all(domain.kind == "grid" for domain in space.values()) else []
        allowed = "with only `grid` domains there is nothing to draw: search.algorithm `grid`"
    return [
        Problem(f"space.{path}", {space[path].kind: list(space[path].values)}, allowed) for path in misfit
    ]


def clashes(space: Mapping[str, Domain], paper: Mapping[str, Any], try_values: Try) -> list[Problem]:
    """Tell which values, each allowed by itself, exclude each other.

    Args:
        space: has no other problem.
        paper: the paper's own point.
        try_values: the training job's own rules; they join two settings of a section at most.
    """
    found = [
        Problem("space", dict(paper), f"the paper's own point, which comes first, is no training: {problem}")
        for problem in try_values(paper)
    ]
    listed = {path: domain.values for path, domain in space.items() if domain.listed}
    for pair in combinations(listed, 2):
        if len({path.partition(".")[0] for path in pair}) == 1:
            points = [
                dict(zip(pair, both, strict=True)) for both in product(*(listed[path] for path in pair))
            ]
            found += [
                Problem("space", point, f"exclude each other: {problem}")
                for point in points
                for problem in try_values(point)
            ]
    return found


def _domain(value: Mapping[str, Any]) -> Domain:
    ((kind, values),) = value.items()
    return Domain(cast(Kind, kind), tuple(values))


def _path_problems(path: str, value: Any, known: Sequence[str]) -> list[Problem]:
    searchable = [other for other in known if other.startswith(SEARCHABLE)]
    if path in searchable:
        return []
    if path in known:
        allowed = (
            "cannot vary: it is the same for every trial; what can is in model, loss, fit, and data.size"
        )
        return [Problem(f"space.{path}", value, allowed)]
    # Nearest in writing; then the right name in the wrong section, or in none; then whatever is similar.
    named = {other.rpartition(".")[2]: other for other in searchable}
    near = (
        get_close_matches(path, searchable, n=1, cutoff=0.8)
        or [named[name] for name in get_close_matches(path.rpartition(".")[2], named, n=1, cutoff=0.7)]
        or get_close_matches(path, searchable, n=1, cutoff=0.6)
    )
    nearest = f"; the nearest is {near[0]}" if near else ""
    return [Problem(f"space.{path}", value, f"no such setting of a training job{nearest}")]


def _domain_problems(path: str, value: Any, try_values: Try) -> list[Problem]:
    where = f"space.{path}"
    if not isinstance(value, Mapping) or len(value) != 1 or next(iter(value)) not in KINDS:
        return [Problem(where, value, f"one domain: {', '.join(f'{{{kind}: [...]}}' for kind in KINDS)}")]
    ((kind, values),) = value.items()
    where = f"{where}.{kind}"
    if not isinstance(values, list | tuple) or not values:
        return [Problem(where, values, "a list of values")]
    wrong = _values_problem(kind, values)
    if wrong:
        return [Problem(where, values, wrong)]
    tried = [problem for each in values for problem in _value_problems(path, each, where, try_values)]
    if not tried and kind in ("uniform", "loguniform"):
        # Both ends may be whole numbers; what lies between is not.
        between = values[0] + 0.501 * (values[1] - values[0])
        tried = [
            Problem(where, values, f"{problem.allowed}; {kind} draws fractions: take randint or choice")
            for problem in try_values({path: between})
        ]
    if not tried and kind == "randint":
        # Both ends may be multiples of a number; what lies between is not.
        middle = (values[0] + values[1]) // 2
        between_ends = [problem for each in (middle, middle + 1) for problem in try_values({path: each})]
        tried = [
            Problem(where, values, f"{problem.allowed}; {kind} draws every whole number: take choice")
            for problem in between_ends[:1]
        ]
    return tried


def _value_problems(path: str, value: Any, where: str, try_values: Try) -> list[Problem]:
    """What is wrong with a value by the rules of the training job, told of the domain that it stands in."""
    return [
        Problem(where, problem.value, problem.allowed)
        if f"{problem.field}.".startswith(f"{path}.")
        else Problem(where, value, f"excluded by {problem}")
        for problem in try_values({path: value})
    ]


def _values_problem(kind: str, values: Sequence[Any]) -> str | None:
    """What is wrong with the values of a domain, whatever they are for."""
    if kind in ("grid", "choice"):
        return "different values" if any(one == other for one, other in combinations(values, 2)) else None
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if (
        len(values) != 2
        or len(numbers) != 2
        or not all(-math.inf < number < math.inf for number in numbers)
        or not values[0] < values[1]
    ):
        return "two numbers, the smaller first"
    if kind == "loguniform" and values[0] <= 0:
        return "two numbers above 0"
    if kind == "randint" and not all(isinstance(value, int) for value in values):
        return "two whole numbers"
    return None
