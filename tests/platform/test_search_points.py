"""The points of a search: grids and draws, which are known beforehand, and what Optuna proposes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsrnet_platform.search import points, space
from rsrnet_platform.search.config import SearchConfig
from rsrnet_platform.search.points import Proposals
from rsrnet_platform.search.trials import Point, Report, Status, Trial

PAPER: dict[str, Any] = {
    "model.iterations": 12,
    "loss.lambda": 0.8,
    "model.scales": [0, 1, 2, 3],
    "fit.lr": 1e-4,
}
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "model.iterations": st.integers(10, 14),
    "loss.lambda": st.sampled_from([0.5, 0.8, 1.0]),
    "model.scales": st.sampled_from([[0], [0, 1], [0, 1, 2, 3], []]),
    "fit.lr": st.sampled_from([1e-5, 1e-4, 1e-3]),
}
DRAWN: dict[str, Any] = {
    "model.iterations": {"randint": [4, 16]},
    "loss.lambda": {"uniform": [0.5, 1.0]},
    "model.scales": {"choice": [[0], [0, 1], [0, 1, 2, 3]]},
    "fit.lr": {"loguniform": [1e-5, 1e-3]},
}
SMALL: dict[str, Any] = {"model.iterations": {"randint": [10, 13]}, "model.scales": {"choice": [[0], [0, 1]]}}
"""Eight points."""

EIGHT = {(iterations, scales) for iterations in (10, 11, 12, 13) for scales in ("[0]", "[0, 1]")}


def paper(given_: dict[str, Any]) -> dict[str, Any]:
    return {path: PAPER[path] for path in given_}


def key(point: Point) -> str:
    return json.dumps(point)


def is_in(point: Point, given_: dict[str, Any]) -> bool:
    """Whether a point is one of a space."""
    if list(point) != list(given_):
        return False
    for path, domain in given_.items():
        ((kind, values),) = domain.items()
        value = point[path]
        if kind in ("grid", "choice"):
            ok = value in values
        else:
            ok = values[0] <= value <= values[1] and isinstance(value, int) == (kind == "randint")
        if not ok:
            return False
    return True


# Grids and draws


@st.composite
def grids(draw: st.DrawFn) -> dict[str, Any]:
    paths = draw(st.lists(st.sampled_from(list(VALUES)), min_size=1, unique=True))
    return {
        path: {"grid": draw(st.lists(VALUES[path], min_size=1, max_size=4, unique_by=str))} for path in paths
    }


@given(grids())
def test_grid_is_every_combination_once_after_the_papers(given_: dict[str, Any]) -> None:
    domains = space.parse(given_)
    found = points.planned(domains, SearchConfig(), paper(given_))
    assert found[0] == paper(given_)
    assert len({key(point) for point in found}) == len(found)
    combinations = math.prod(len(domain["grid"]) for domain in given_.values())
    assert len(found) == combinations + (not is_in(paper(given_), given_))
    assert all(is_in(point, given_) for point in found[1:])
    assert points.count(domains, SearchConfig(), paper(given_)) == len(found)


def test_grid_varies_its_first_setting_slowest() -> None:
    domains = space.parse({"model.iterations": {"grid": [4, 12]}, "fit.lr": {"grid": [1e-3, 1e-4]}})
    found = points.planned(domains, SearchConfig(), {"model.iterations": 12, "fit.lr": 1e-4})
    assert [tuple(point.values()) for point in found] == [(12, 1e-4), (4, 1e-3), (4, 1e-4), (12, 1e-3)]


def randoms(given_: dict[str, Any], trials: int, seed: int = 42) -> list[Point]:
    search = SearchConfig("random", trials=trials, seed=seed)
    found = points.planned(space.parse(given_), search, paper(given_))
    assert points.count(space.parse(given_), search, paper(given_)) == len(found)
    return found


@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.integers(0, 20))
def test_draws_are_the_seeds_and_more_of_them_only_add(seed: int, trials: int, more: int) -> None:
    found = randoms(DRAWN, trials, seed)
    assert found[0] == PAPER
    assert len(found) == trials + 1
    assert all(is_in(point, DRAWN) for point in found)
    assert randoms(DRAWN, trials + more, seed)[: trials + 1] == found
    assert randoms(DRAWN, trials, seed ^ 1)[1:] != found[1:]


def test_every_combination_of_grids_gets_the_same_draws() -> None:
    mixed = DRAWN | {"model.iterations": {"grid": [4, 8, 12]}, "fit.lr": {"grid": [1e-4, 1e-3]}}
    found = randoms(mixed, 5)
    assert len(found) == 1 + 5 * 6
    groups = [found[start : start + 6] for start in range(1, 31, 6)]
    for group in groups:
        assert all(is_in(point, mixed) for point in group)
        assert len({key({path: p[path] for path in ("loss.lambda", "model.scales")}) for p in group}) == 1
        assert {(p["model.iterations"], p["fit.lr"]) for p in group} == {
            (k, lr) for k in (4, 8, 12) for lr in (1e-4, 1e-3)
        }
    assert len({group[0]["loss.lambda"] for group in groups}) == 5


def test_no_draw_comes_twice_nor_is_the_papers() -> None:
    small = SMALL | {"model.scales": {"choice": [[0], [0, 1, 2, 3]]}}  # the paper's among them
    for trials in (3, 8, 50):
        found = randoms(small, trials)
        assert len({key(point) for point in found}) == len(found)
    assert len(randoms(small, 50)) == 8  # all there are
    assert randoms(small, 5) == randoms(small, 50)[: len(randoms(small, 5))]


# Optuna's proposals


def ended(index: int, point: Point, objective: float, status: Status = "finished") -> Trial:
    trial = Trial(index, point, folds=1, epochs=1, status=status)
    trial.add(Report(1, 0, 1, objective, objective, float(index)))
    return trial


def search(
    given_: dict[str, Any], trials: int, judge: Callable[[Point], float], seed: int, known: int = 0
) -> list[Trial]:
    """Ask and tell one after another; the last of them is not told. ``known`` of them are told by a restart."""
    proposals = Proposals(space.parse(given_), seed, [])
    found: list[Trial] = []
    for index in range(1, trials + 1):
        if (point := proposals.ask(index)) is None:
            break
        found.append(ended(index, point, judge(point)))
        if index == known:
            proposals = Proposals(space.parse(given_), seed, found)
        else:
            proposals.tell(found[-1])
    return found


def closeness(point: Point) -> float:
    """Objective with its only maximum at a learning rate of 1e-4 and a lambda of 0.9."""
    return math.exp(-(math.log10(point["fit.lr"] / 1e-4) ** 2) - (4 * (point["loss.lambda"] - 0.9)) ** 2)


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_proposals_are_of_the_space(seed: int) -> None:
    trials = search(DRAWN, 30, closeness, seed)
    assert all(is_in(trial.point, DRAWN) for trial in trials)
    assert {key(trial.point["model.scales"]) for trial in trials} == {"[0]", "[0, 1]", "[0, 1, 2, 3]"}
    assert json.loads(json.dumps(trials[0].point)) == trials[0].point


def test_every_kind_of_value_comes_back_as_it_was_written() -> None:
    choices = {
        "fit.encoder_weights": ["imagenet", "none", "12", "[0]"],
        "model.depth": [18, 34],
        "fit.lr": [1e-4, 3e-4],
        "fit.milestones": [[], [3], [3, 5]],
    }
    trials = search({path: {"choice": values} for path, values in choices.items()}, 40, lambda point: 0.5, 3)
    for path, values in choices.items():
        seen = {(type(trial.point[path]), str(trial.point[path])) for trial in trials}
        assert seen == {(type(value), str(value)) for value in values}


@pytest.mark.parametrize("restart", [0, 30])
def test_proposals_concentrate_where_trials_did_well(restart: int) -> None:
    def is_near(point: Point) -> bool:
        return abs(math.log10(point["fit.lr"] / 1e-4)) < 0.3 and abs(point["loss.lambda"] - 0.9) < 0.075

    uniform = (0.6 / 2) * (0.15 / 0.5)  # share of the space that is near
    late = [trial.point for seed in range(3) for trial in search(DRAWN, 60, closeness, seed, restart)[30:]]
    assert sum(map(is_near, late)) / len(late) > 3 * uniform


def test_lists_are_learnt_as_well() -> None:
    scales = {"model.scales": {"choice": [[0], [0, 1], [0, 1, 2], [1], [2]]}} | {
        "fit.lr": {"loguniform": [1e-5, 1e-3]}
    }
    late = [
        trial.point["model.scales"]
        for seed in range(4)
        for trial in search(scales, 60, lambda p: 0.9 if p["model.scales"] == [0, 1, 2] else 0.1, seed)[30:]
    ]
    assert late.count([0, 1, 2]) / len(late) > 1.5 / 5


def test_each_seed_draws_its_own_points_as_the_domains_say() -> None:
    """Before Optuna knows anything; the share of 200 draws is known within 0.13 (four standard deviations)."""
    wide = DRAWN | {"fit.lr": {"loguniform": [1e-5, 1e-1]}}
    first = [Proposals(space.parse(wide), seed, []).ask(1) for seed in range(200)]
    assert len({key(point) for point in first}) == 200
    assert sum(point["fit.lr"] < 1e-4 for point in first) / 200 == pytest.approx(0.25, abs=0.13)
    assert sum(point["loss.lambda"] < 0.625 for point in first) / 200 == pytest.approx(0.25, abs=0.13)


def test_trials_outside_the_space_are_accepted() -> None:
    outside = {"model.iterations": {"choice": [2, 4]}, "loss.lambda": {"uniform": [0.1, 0.2]}}
    papers = ended(0, paper(outside), 0.9)
    told = Proposals(space.parse(outside), 1, [papers])
    assert is_in(told.ask(1), outside)
    told.tell(papers)
    assert is_in(told.ask(2), outside)


@pytest.mark.parametrize(
    ("status", "objective", "counts_as"),
    [("diverged", 0.9, 0.0), ("failed", 0.4, 0.4), ("finished", 0.9, 0.9)],
)
@pytest.mark.parametrize("asked", [True, False])
def test_what_a_trial_counts_as(status: Status, objective: float, counts_as: float, asked: bool) -> None:
    """Whether it was proposed by this process or by one before it."""

    def next_after(trials: list[Trial]) -> list[Point]:
        proposals = Proposals(space.parse(DRAWN), 7, [] if asked else trials)
        if asked:
            assert [proposals.ask(trial.index) for trial in trials] == [trial.point for trial in trials]
            for trial in trials:
                proposals.tell(trial)
        return [proposals.ask(index) for index in range(30, 33)]

    asker = Proposals(space.parse(DRAWN), 7, [])
    proposed = [asker.ask(index) for index in range(1, 21)]

    def told(status: Status, objective: float) -> list[Trial]:
        # Every other one ended so, the rest with scores between.
        return [
            ended(index, point, objective, status) if index % 2 else ended(index, point, 0.1 + 0.02 * index)
            for index, point in enumerate(proposed, 1)
        ]

    assert next_after(told(status, objective)) == next_after(told("finished", counts_as))
    assert next_after(told("finished", 0.0)) != next_after(told("finished", 0.9))


@pytest.mark.parametrize("asked", [True, False])
def test_trials_that_were_given_up_rank_behind_those_that_were_not(asked: bool) -> None:
    """However well they stood then: they were judged on fewer epochs."""
    proposals = Proposals(space.parse(DRAWN), 7, [])
    proposed = [proposals.ask(index) for index in range(1, 41)]
    trials = [
        ended(index, point, *((0.9, "stopped") if point["fit.lr"] < 1e-4 else (0.5, "finished")))
        for index, point in enumerate(proposed, 1)
    ]
    if asked:
        for trial in trials:
            proposals.tell(trial)
    else:
        proposals = Proposals(space.parse(DRAWN), 7, trials)
    later = [proposals.ask(index)["fit.lr"] for index in range(50, 80)]
    assert sum(lr >= 1e-4 for lr in later) / len(later) > 0.75


def test_a_small_budget_is_not_spent_on_random_draws_alone() -> None:
    """The same trials told, another proposal: so TPE was asked, after a third of nine."""

    def fourth(objectives: list[float]) -> Point | None:
        asker = Proposals(space.parse(DRAWN), 7, [], trials=9)
        for index, value in enumerate(objectives, 1):
            asker.tell(ended(index, asker.ask(index), value))
        return asker.ask(4)

    assert fourth([0.1, 0.5, 0.9]) != fourth([0.9, 0.5, 0.1])


def test_trial_that_never_scored_counts_as_zero() -> None:
    proposals = Proposals(space.parse(DRAWN), 7, [])
    point = proposals.ask(1)
    proposals.tell(Trial(1, point, folds=1, epochs=1, status="failed"))
    assert is_in(proposals.ask(2), DRAWN)


@given(st.integers(0, 2**32 - 1), st.integers(0, 4), st.integers(0, 4))
def test_search_that_goes_on_proposes_other_points_than_before(seed: int, told: int, running: int) -> None:
    first = Proposals(space.parse(DRAWN), seed, [])
    before = {index: first.ask(index) for index in range(1, told + running + 1)}
    done = [ended(index, before[index], 0.5) for index in range(1, told + 1)]
    again = Proposals(space.parse(DRAWN), seed, done)
    after = [again.ask(index) for index in range(told + running + 1, told + running + 4)]
    proposed = [key(point) for point in [*before.values(), *after]]
    assert len(set(proposed)) == len(proposed)
    # What was running ends later, and is told to the process that did not propose it.
    for index in range(told + 1, told + running + 1):
        again.tell(ended(index, before[index], 0.5))
    assert key(again.ask(99)) not in proposed


def test_restart_after_every_trial_changes_nothing() -> None:
    """One trial at a time, killed between any two: the same search."""
    whole = search(DRAWN, 25, closeness, 11)
    for known in (1, 9, 24):
        assert [trial.point for trial in search(DRAWN, 25, closeness, 11, known)] == [t.point for t in whole]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("restart", [0, 4])
def test_no_point_is_proposed_twice_before_all_were(seed: int, restart: int) -> None:
    trials = search(SMALL, 8, lambda point: 0.5 + 0.04 * (point["model.iterations"] == 12), seed, restart)
    assert {(t.point["model.iterations"], str(t.point["model.scales"])) for t in trials} == EIGHT


def test_running_trials_are_not_proposed_again_either() -> None:
    proposals = Proposals(
        space.parse(SMALL), 2, [ended(0, {"model.iterations": 12, "model.scales": [0]}, 0.5)]
    )
    assert len({key(proposals.ask(index)) for index in range(1, 8)}) == 7


def test_exhausted_space_gives_each_point_once() -> None:
    trials = search(SMALL, 12, lambda point: 0.5, 4)
    assert all(is_in(trial.point, SMALL) for trial in trials)
    assert len(trials) == len({key(trial.point) for trial in trials}) == 8


def test_count_of_proposals_is_as_many_as_asked_for_and_the_papers() -> None:
    domains = space.parse(DRAWN)
    optuna = SearchConfig("optuna", trials=17)
    assert points.count(domains, optuna, PAPER) == 18
    assert points.planned(domains, optuna, PAPER) == [PAPER]
