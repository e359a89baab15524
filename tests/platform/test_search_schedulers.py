"""When trials are given up: the schedulers against their rules written down plainly, and searches that go on."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.tune.schedulers import TrialScheduler

from rsrnet_platform.search import schedulers
from rsrnet_platform.search.config import SearchConfig
from rsrnet_platform.search.schedulers import INDEX, OBJECTIVE, STEP, StandIn
from rsrnet_platform.search.trials import Report, Trial

GO_ON, STOP = TrialScheduler.CONTINUE, TrialScheduler.STOP

# Others wait for a place, so that a scheduler that could pause a trial for them would.
CONTROLLER: Any = SimpleNamespace(get_live_trials=lambda: [SimpleNamespace(status="PENDING")])


@dataclass(frozen=True)
class Event:
    """A report, and what was decided on it."""

    index: int
    step: int
    score: float
    decision: str = GO_ON


class Tune:
    """Tells a scheduler of reports, as Tune does."""

    def __init__(self, scheduler: TrialScheduler) -> None:
        self.scheduler = scheduler
        self._trials: dict[int, Any] = {}

    def decision(self, index: int, step: int, score: float) -> str:
        if index not in self._trials:
            # Its identity is another one after every start.
            self._trials[index] = StandIn(f"{id(self)}-{index}", {INDEX: index})
            self.scheduler.on_trial_add(CONTROLLER, self._trials[index])
        return self.hear(index, {STEP: step, OBJECTIVE: score, "fold": 0})

    def hear(self, index: int, result: dict[str, Any]) -> str:
        return self.scheduler.on_trial_result(CONTROLLER, self._trials[index], result)

    def end(self, index: int, last: dict[str, Any], *, by_itself: bool) -> None:
        """A function that returns has its last result repeated."""
        if by_itself:
            self.hear(index, last | {"done": True})
        self.scheduler.on_trial_complete(CONTROLLER, self._trials[index], last)


Curves = Sequence[Sequence[float]]


def play(tune: Tune, curves: Curves, at_once: int, order: random.Random) -> list[Event]:
    """Run trials with these objectives, so many at once, as fast as chance will have it."""
    events: list[Event] = []
    waiting, running = list(range(len(curves))), dict[int, int]()
    while waiting or running:
        while waiting and len(running) < at_once:
            running[waiting.pop(0)] = 0
        index = order.choice(list(running))
        running[index] += 1
        step, score = running[index], curves[index][running[index] - 1]
        decision = tune.decision(index, step, score)
        events.append(Event(index, step, score, decision))
        if decision == STOP or step == len(curves[index]):
            del running[index]
            tune.end(index, {STEP: step, OBJECTIVE: score}, by_itself=decision != STOP)
    return events


# The rules, written down plainly


class Halving:
    """Successive halving: at each rung a trial must be in the best 1 / rf of those that got there before it."""

    def __init__(self, search: SearchConfig, most_epochs: int) -> None:
        factor = search.reduction_factor
        first = min(search.grace_epochs, most_epochs)
        powers = itertools.takewhile(lambda rung: rung < most_epochs, (first * factor**k for k in range(99)))
        self._most_epochs = most_epochs
        self._at: dict[int, list[float]] = {rung: [] for rung in powers}
        self._share = 1 - 1 / factor

    def decision(self, index: int, step: int, score: float) -> str:
        enough = step < self._most_epochs
        if (before := self._at.get(step)) is not None:
            enough = not before or score >= self._percentile(sorted(before))
            before.append(score)
        return GO_ON if enough or index == 0 else STOP

    def _percentile(self, values: list[float]) -> float:
        place = self._share * (len(values) - 1)
        below = int(place)
        above = min(below + 1, len(values) - 1)
        return values[below] + (place - below) * (values[above] - values[below])


class Median:
    """The median rule: a trial's best must reach the median of what others were on average, since the grace.

    Others are those that got as far; three at least.
    """

    def __init__(self, search: SearchConfig, most_epochs: int) -> None:
        self._grace = search.grace_epochs
        self._heard: defaultdict[int, list[float]] = defaultdict(list)

    def decision(self, index: int, step: int, score: float) -> str:
        self._heard[index].append(score)
        others = [
            fmean(scores[self._grace - 1 : step])
            for other, scores in self._heard.items()
            if other != index and len(scores) >= step >= self._grace
        ]
        enough = len(others) < 3 or max(self._heard[index]) >= median(others)
        return GO_ON if enough or index == 0 else STOP


RULES: dict[str, type[Halving | Median]] = {"asha": Halving, "median": Median}


@st.composite
def searches(draw: st.DrawFn) -> tuple[SearchConfig, Curves, int, int]:
    """Settings, the objectives of every trial, how many run at once, and the seed of their order."""
    search = SearchConfig(
        scheduler=draw(st.sampled_from(sorted(RULES))),  # type: ignore[arg-type]
        grace_epochs=draw(st.integers(1, 4)),
        reduction_factor=draw(st.integers(2, 4)),
    )
    # Random numbers, which have no ties: the last bit of a percentile must not decide.
    source = random.Random(draw(st.integers(0, 2**32)))
    longest = draw(st.integers(1, 20))
    lengths = st.one_of(st.just(longest), st.integers(1, longest))
    curves = [
        [level + 0.3 * source.random() for _ in range(length)]
        for length in draw(st.lists(lengths, min_size=1, max_size=10))
        for level in [0.5 * source.random()]
    ]
    return search, curves, draw(st.integers(1, 5)), draw(st.integers(0, 2**32))


def most_epochs(curves: Curves) -> int:
    return max(map(len, curves))


@given(searches())
def test_decisions_are_those_of_the_rule(drawn: tuple[SearchConfig, Curves, int, int]) -> None:
    search, curves, at_once, seed = drawn
    scheduler = schedulers.make(search, most_epochs(curves))
    rule = RULES[search.scheduler](search, most_epochs(curves))
    for event in play(Tune(scheduler), curves, at_once, random.Random(seed)):
        assert event.decision == rule.decision(event.index, event.step, event.score)


@pytest.mark.parametrize("name", sorted(RULES))
def test_worse_trials_are_given_up_after_their_grace_but_never_the_papers(name: str) -> None:
    # The later, the worse, all a little better every epoch; the paper's is the worst.
    levels = [0.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    curves = [[level + 0.001 * step for step in range(27)] for level in levels]
    search = SearchConfig(scheduler=name, grace_epochs=3)  # type: ignore[arg-type]
    events = play(Tune(schedulers.make(search, 27)), curves, 1, random.Random(0))
    steps = {index: max(event.step for event in events if event.index == index) for index in range(7)}
    assert steps[0] == steps[1] == 27
    assert steps[6] == 3
    assert {event.index for event in events if event.decision == STOP and event.step < 27} <= set(range(2, 7))
    assert all(event.step >= 3 for event in events if event.decision == STOP)


@pytest.mark.parametrize("name", sorted(RULES))
def test_equal_trials_all_go_on(name: str) -> None:
    search = SearchConfig(scheduler=name)  # type: ignore[arg-type]
    events = play(Tune(schedulers.make(search, 9)), [[0.25] * 9] * 6, 3, random.Random(0))
    assert len(events) == 54
    assert all(event.decision == GO_ON for event in events if event.step < 9)


def test_without_a_scheduler_every_trial_goes_on() -> None:
    curves = [[0.9, 0.8], [0.1, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    events = play(Tune(schedulers.make(SearchConfig(), 2)), curves, 2, random.Random(0))
    assert [event.decision for event in events] == [GO_ON] * 10


@given(searches())
def test_answers_take_the_decisions_and_tune_is_told_to_go_on(
    drawn: tuple[SearchConfig, Curves, int, int],
) -> None:
    search, curves, at_once, seed = drawn
    answers: list[tuple[int, int, bool]] = []
    asking = schedulers.make(search, most_epochs(curves), answer=lambda *answer: answers.append(answer))
    deciding = Tune(schedulers.make(search, most_epochs(curves)))
    told = Tune(asking)
    for event in play(deciding, curves, at_once, random.Random(seed)):
        assert told.decision(event.index, event.step, event.score) == GO_ON
        assert answers.pop() == (event.index, event.step, event.decision == GO_ON)
    assert answers == []


@pytest.mark.parametrize("name", sorted(RULES))
def test_trial_that_cannot_go_on_disturbs_nobody(name: str) -> None:
    """What a diverged trial reports last has no step; with or without it, others are judged the same."""
    curves = [[0.1 * index + 0.01 * step for step in range(9)] for index in (9, 8, 7, 2, 5, 1)]
    search = SearchConfig(scheduler=name)  # type: ignore[arg-type]
    answers: list[Any] = []

    def decisions(*, diverges: bool, answer: schedulers.Answer | None = None) -> list[str]:
        tune = Tune(schedulers.make(search, 9, answer=answer))
        tune.decision(7, 1, 0.5)
        tune.decision(7, 2, 0.5)
        if diverges:
            last = {OBJECTIVE: 0.0, "error": "NaN", "diverged": True}
            assert tune.hear(7, last) == GO_ON
            tune.end(7, last, by_itself=True)
        return [event.decision for event in play(tune, curves, 2, random.Random(1))]

    assert decisions(diverges=True) == decisions(diverges=False)
    assert STOP in decisions(diverges=True)[:-1]
    decisions(diverges=True, answer=lambda *answer: answers.append(answer))
    assert {step for _, step, _ in answers} == set(range(1, 10))


# Searches that go on


def journal(events: Sequence[Event], curves: Curves, *, last_ended: bool) -> list[Trial]:
    """What is on the disk after these events.

    ``last_ended``: whether there was time to write down that the trial of the last event ended, if it did.
    """
    trials: dict[int, Trial] = {}
    for time, event in enumerate(events):
        length = len(curves[event.index])
        trial = trials.setdefault(event.index, Trial(event.index, {}, folds=1, epochs=length))
        trial.add(Report(event.step, 0, event.step, event.score, event.score, float(time)))
        if event.step == length or event.decision == STOP:
            trial.status = "finished" if event.step == length else "stopped"
    if not last_ended:
        trials[events[-1].index].status = "running"
    return list(trials.values())


@given(searches(), st.data())
def test_interrupted_search_decides_like_one_that_was_not(
    drawn: tuple[SearchConfig, Curves, int, int], data: st.DataObject
) -> None:
    search, curves, at_once, seed = drawn
    events = play(Tune(schedulers.make(search, most_epochs(curves))), curves, at_once, random.Random(seed))
    cut = data.draw(st.integers(1, len(events)))
    known = journal(events[:cut], curves, last_ended=data.draw(st.booleans()))
    order = data.draw(st.permutations(known))  # of the trials: it must not matter
    again = Tune(schedulers.make(search, most_epochs(curves), order))

    newest = {event.index: event for event in events[:cut]}
    unfinished = [trial.index for trial in known if trial.status == "running"]
    for index in unfinished:
        # A trial repeats what its newest checkpoint was reported with, some time before its next report.
        if data.draw(st.booleans()) or newest[index] == events[cut - 1]:
            event = newest[index]
            assert again.decision(index, event.step, event.score) == event.decision
    for event in events[cut:]:
        assert again.decision(event.index, event.step, event.score) == event.decision


@given(searches(), st.integers(1, 4))
def test_search_interrupted_after_every_few_reports_decides_the_same(
    drawn: tuple[SearchConfig, Curves, int, int], few: int
) -> None:
    search, curves, at_once, seed = drawn
    events = play(Tune(schedulers.make(search, most_epochs(curves))), curves, at_once, random.Random(seed))
    for start in range(0, len(events), few):
        known = journal(events[:start], curves, last_ended=True) if start else []
        again = Tune(schedulers.make(search, most_epochs(curves), known))
        for event in events[start : start + few]:
            assert again.decision(event.index, event.step, event.score) == event.decision


@pytest.mark.parametrize("name", sorted(RULES))
def test_last_decisions_before_an_interruption_stand(name: str) -> None:
    """At every moment: a trial that goes on hears again what it heard, whatever others reported since."""
    search = SearchConfig(scheduler=name)  # type: ignore[arg-type]
    heard = set()
    for seed in range(6):
        source = random.Random(seed)
        curves = [[source.random() for _ in range(9)] for _ in range(8)]
        events = play(Tune(schedulers.make(search, 9)), curves, 4, source)
        for cut in range(1, len(events) + 1):
            known = journal(events[:cut], curves, last_ended=False)
            again = Tune(schedulers.make(search, 9, source.sample(known, len(known))))
            newest = {event.index: event for event in events[:cut]}
            for event in (newest[trial.index] for trial in known if trial.status == "running"):
                assert again.decision(event.index, event.step, event.score) == event.decision
                heard.add(event.decision)
    assert heard == {GO_ON, STOP}


@pytest.mark.parametrize("name", sorted(RULES))
def test_trial_that_repeats_reports_is_decided_on_once(name: str) -> None:
    """Its process died: it begins again at an older checkpoint, or anew, and says the same."""
    search = SearchConfig(scheduler=name)  # type: ignore[arg-type]
    curves = [[0.1 * index + 0.01 * step for step in range(9)] for index in (9, 3, 5, 1, 4, 8, 6)]
    whole = play(Tune(schedulers.make(search, 9)), curves, 3, random.Random(2))
    assert STOP in [event.decision for event in whole if event.step < 9]
    tune = Tune(schedulers.make(search, 9))
    for place, event in enumerate(whole):
        assert tune.decision(event.index, event.step, event.score) == event.decision
        if event.decision == GO_ON and place % 3 == 0:
            for earlier in whole[: place + 1]:
                if earlier.index == event.index:
                    assert tune.decision(earlier.index, earlier.step, earlier.score) == GO_ON


def test_answers_are_repeated_to_a_trial_that_goes_on() -> None:
    """Its workers wait for them, and a trial that was to end does end."""
    search = SearchConfig(scheduler="asha", reduction_factor=2)
    good, bad = Trial(0, {}, 1, 4, status="finished"), Trial(1, {}, 1, 4)
    for step in (1, 2, 3, 4):
        good.add(Report(step, 0, step, 0.9, 0.9, float(step)))
    bad.add(Report(1, 0, 1, 0.1, 0.1, 5.0))
    answers: list[tuple[int, int, bool]] = []
    tune = Tune(schedulers.make(search, 4, [good, bad], lambda *answer: answers.append(answer)))
    assert answers == []
    assert tune.decision(1, 1, 0.1) == GO_ON
    assert tune.decision(2, 1, 0.95) == GO_ON
    assert answers == [(1, 1, False), (2, 1, True)]
