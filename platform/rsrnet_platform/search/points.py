"""Which points a search tries, and in which order: the paper's own first.

A grid and random draws are known beforehand; Optuna proposes each point when there is room for it, knowing how
the earlier ones did.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from rsrnet_platform.search.config import SearchConfig
from rsrnet_platform.search.space import Domain
from rsrnet_platform.search.trials import Point, Trial

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial, TrialState
    from optuna.trial import Trial as OptunaTrial

PATIENCE = 100
"""Draws in a row that bring nothing new before a space counts as exhausted: a trial repeated finds the same."""


def count(space: Mapping[str, Domain], search: SearchConfig, paper: Point) -> int:
    """How many trials a search has."""
    if search.algorithm == "optuna":
        return 1 + (search.trials or 0)
    return len(planned(space, search, paper))


def planned(space: Mapping[str, Domain], search: SearchConfig, paper: Point) -> list[Point]:
    """The points that are known beforehand: all of a grid's and a random search's, of Optuna's only the paper's.

    The same arguments give the same points, each once; more ``trials`` only add to them.
    """
    points = [dict(paper)]
    if search.algorithm == "grid":
        points += _combinations(space)
    elif search.algorithm == "random":
        for drawn in _draws(space, search):
            points += [{path: (fixed | drawn)[path] for path in space} for fixed in _combinations(space)]
    return [point for index, point in enumerate(points) if index == 0 or point != points[0]]


def _combinations(space: Mapping[str, Domain]) -> list[dict[str, Any]]:
    """Every combination of the values of ``grid`` domains; the first setting varies slowest."""
    grids = {path: domain.values for path, domain in space.items() if domain.kind == "grid"}
    return [dict(zip(grids, values, strict=True)) for values in product(*grids.values())]


def _draws(space: Mapping[str, Domain], search: SearchConfig) -> list[dict[str, Any]]:
    """Different draws from every domain but ``grid`` ones; fewer than asked for if there are hardly more."""
    source = random.Random(search.seed)  # noqa: S311 - no secret
    found: dict[str, dict[str, Any]] = {}
    missed = 0
    while len(found) < (search.trials or 0) and missed < PATIENCE:
        drawn = {path: domain.draw(source) for path, domain in space.items() if domain.kind != "grid"}
        missed = missed + 1 if json.dumps(drawn) in found else 0
        found[json.dumps(drawn)] = drawn
    return list(found.values())


class Proposals:
    """Optuna's multivariate TPE over a space.

    Args:
        space: no ``grid`` domain in it.
        seed: of the sampler; each trial has its own, made of this and its number, so that a search that goes on
            proposes what an earlier start of it did not.
        done: trials that ended before; they are told to Optuna as if it had proposed them.
        begun: points of trials that will be tried anyway.
        trials: how many points will be asked for: about a third of them, at most ten, are draws for TPE to learn from.
    """

    def __init__(
        self,
        space: Mapping[str, Domain],
        seed: int,
        done: Sequence[Trial],
        begun: Sequence[Point] = (),
        trials: int = 30,
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._distributions = {path: _distribution(domain) for path, domain in space.items()}
        self._seed = seed
        self._study = optuna.create_study(direction="maximize")
        self._asked: dict[int, OptunaTrial] = {}
        self._startup = min(10, max(3, trials // 3))
        self._tried: list[Point] = list(begun)
        for trial in done:
            self.tell(trial)

    def ask(self, index: int) -> Point | None:
        """The point of the trial of that number: one that was not tried; None if hardly any is left."""
        from optuna.samplers import TPESampler
        from optuna.trial import TrialState

        seed = random.Random(f"{self._seed}/{index}").getrandbits(32)  # noqa: S311 - no secret
        self._study.sampler = TPESampler(
            multivariate=True, constant_liar=True, seed=seed, n_startup_trials=self._startup
        )
        for _ in range(PATIENCE):
            asked = self._study.ask(self._distributions)
            point = {path: _decoded(value) for path, value in asked.params.items()}
            if point not in self._tried:
                self._asked[index] = asked
                self._tried.append(point)
                return point
            self._study.tell(asked.number, state=TrialState.FAIL)
        return None

    def tell(self, trial: Trial) -> None:
        """Say how a trial ended.

        One that was given up counts as pruned: its objective is over fewer epochs, and TPE ranks it behind those
        that were trained to the end. One that scored nothing counts as 0, the lowest score there is.
        """
        from optuna.trial import TrialState

        state = TrialState.PRUNED if trial.status == "stopped" else TrialState.COMPLETE
        value = None if state == TrialState.PRUNED else trial.objective or 0.0
        self._tried.append(trial.point)
        asked = self._asked.pop(trial.index, None)
        if asked is not None:
            for report in trial.reports:
                asked.report(report.objective, report.step)
            self._study.tell(asked, value, state=state)
        elif (frozen := self._frozen(trial, value, state)) is not None:
            self._study.add_trial(frozen)

    def _frozen(self, trial: Trial, value: float | None, state: TrialState) -> FrozenTrial | None:
        """A trial that Optuna did not propose; None outside the space, of which it could not learn."""
        import optuna

        try:
            return optuna.trial.create_trial(
                params={
                    path: _encoded(trial.point[path], each) for path, each in self._distributions.items()
                },
                distributions=self._distributions,
                value=value,
                state=state,
                intermediate_values={report.step: report.objective for report in trial.reports},
            )
        except ValueError:
            return None


def _distribution(domain: Domain) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if domain.listed:
        # As JSON, because Optuna's categories cannot be lists, such as scale sets.
        return CategoricalDistribution([json.dumps(value) for value in domain.values])
    low, high = domain.values
    if domain.kind == "randint":
        return IntDistribution(low, high)
    return FloatDistribution(low, high, log=domain.kind == "loguniform")


def _encoded(value: Any, distribution: BaseDistribution) -> Any:
    from optuna.distributions import CategoricalDistribution

    return json.dumps(value) if isinstance(distribution, CategoricalDistribution) else value


def _decoded(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value
