"""When to give up on a trial: Ray Tune's schedulers, told about epochs over all folds and the objective so far.

Two trials are compared at the same number of epochs, so on the same folds unless `fit.epochs` is searched. The
paper's own point is never given up, and a search that goes on decides as if it had not been interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from rsrnet_platform.search.config import SearchConfig
from rsrnet_platform.search.trials import Report, Trial

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController

STEP = "step"
OBJECTIVE = "objective"
INDEX = "index"
"""Keys of a result, and of a trial's ``config``, that schedulers read."""

_BY: dict[str, Any] = {"time_attr": STEP, "metric": OBJECTIVE, "mode": "max"}


Answer: TypeAlias = Callable[[int, int, bool], None]
"""Takes the number of a trial, a step it reported, and whether it may go on."""


def make(
    search: SearchConfig, most_epochs: int, known: Sequence[Trial] = (), answer: Answer | None = None
) -> TrialScheduler:
    """Make the scheduler of a search.

    Args:
        search: its settings.
        most_epochs: epochs of the longest trial, over all folds.
        known: trials of earlier starts of the search, ended or not. Later decisions are what they would have been
            without the interruption.
        answer: gets every decision, and has trials end themselves; otherwise Tune ends them.
    """
    grace = search.grace_epochs or max(1, most_epochs // search.folds)
    scheduler: _Remembering
    if search.scheduler == "asha":
        scheduler = _Asha(
            **_BY,
            max_t=most_epochs,
            grace_period=min(grace, most_epochs),
            reduction_factor=search.reduction_factor,
        )
    elif search.scheduler == "median":
        # A trial never yields: it would lose its place to wait for company, and save nothing.
        never: Any = math.inf
        scheduler = _Median(**_BY, grace_period=grace, min_time_slice=never)
    else:
        return FIFOScheduler()
    scheduler.remember(known, answer)
    return scheduler


@dataclass(frozen=True, eq=False)
class StandIn:
    """What schedulers look at in a trial of Ray's."""

    trial_id: str
    config: Mapping[str, Any]


class _Remembering(TrialScheduler):
    """Mixin: spares trial 0, and knows what trials reported before the search was interrupted.

    The scheduler proper sees a stand-in for each trial, the same one whichever start of the search it runs in, and
    each epoch once: trials that go on repeat their last report, and Tune repeats it when they end.
    """

    def remember(self, known: Sequence[Trial], answer: Answer | None) -> None:
        self._stand_ins: dict[int, StandIn] = {}
        self._newest: dict[int, tuple[int, str]] = {}
        told = [(report.time, trial.index, report, trial) for trial in known for report in trial.reports]
        # As they came: a decision depends on what had been reported by then.
        for _, index, report, trial in sorted(told, key=lambda each: each[:2]):
            result = {STEP: report.step, OBJECTIVE: report.objective}
            self._decide(index, result, self._made(trial, report))
        self._answer = answer

    def on_trial_add(self, tune_controller: TuneController, trial: Any) -> None:
        """Nothing: a trial that reports is known early enough."""

    def on_trial_result(self, tune_controller: TuneController, trial: Any, result: dict[str, Any]) -> str:
        if STEP not in result:  # why it cannot go on
            return self.CONTINUE
        index, step = trial.config[INDEX], result[STEP]
        decision = self._decide(index, {STEP: step, OBJECTIVE: result[OBJECTIVE]})
        if self._answer is None:
            return decision
        self._answer(index, step, decision == self.CONTINUE)
        return self.CONTINUE

    def on_trial_complete(self, tune_controller: TuneController, trial: Any, result: dict[str, Any]) -> None:
        """Nothing: its last report was heard before, and is not to count twice."""

    def on_trial_remove(self, tune_controller: TuneController, trial: Any) -> None:
        """Nothing: it never ran."""

    def _made(self, trial: Trial, report: Report) -> str | None:
        """The decision on an earlier report; None where a kill may have come before it was made."""
        if report is not trial.reports[-1]:
            return self.CONTINUE
        return {"stopped": self.STOP, "running": None}.get(trial.status, self.CONTINUE)

    def _decide(self, index: int, result: dict[str, Any], made: str | None = None) -> str:
        """Decide on a report; on one that was heard before, as then."""
        step, decision = self._newest.get(index, (0, self.CONTINUE))
        if result[STEP] <= step:
            return decision
        if index not in self._stand_ins:
            self._stand_ins[index] = StandIn(str(index), {INDEX: index})
            super().on_trial_add(None, self._stand_ins[index])  # type: ignore[arg-type]
        decision = self._rule(self._stand_ins[index], result, made)
        if index == 0:
            decision = self.CONTINUE
        self._newest[index] = result[STEP], decision
        return decision

    def _rule(self, stand_in: StandIn, result: dict[str, Any], made: str | None) -> str:
        """Ray's rule; it is asked again where the decision was made already, to learn what it knew."""
        return super().on_trial_result(None, stand_in, result)  # type: ignore[arg-type]


class _Asha(_Remembering, ASHAScheduler):
    pass


class _Median(_Remembering, MedianStoppingRule):
    def _rule(self, stand_in: StandIn, result: dict[str, Any], made: str | None) -> str:
        if (
            made is not None
        ):  # it learns by the report alone, and deciding looks at every report of every trial
            self._results[stand_in].append(result)
            return made
        # The rule takes no more reports of a trial that it would have stopped; trial 0 goes on all the same.
        self._stopped_trials.clear()
        return super()._rule(stand_in, result, made)
