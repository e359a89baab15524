"""What a search knows of its trials: on disk, in numbers, and in the line that says how far it is."""

from __future__ import annotations

import json
import os
import random
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsrnet_platform.search.screen import Screen, seconds_left, short
from rsrnet_platform.search.trials import Journal, Report, Status, Trial, best

NUMBERS = st.floats(allow_nan=False)
SCORES = st.floats(0, 1)
SETTINGS = st.one_of(
    st.integers(), NUMBERS, st.text(max_size=9), st.lists(st.integers(0, 9), max_size=4), st.booleans()
)


def trained(scores: list[list[float]], *, epochs: int | None = None, **changes: Any) -> Trial:
    """A trial that scored so after each epoch of each fold, an epoch a second."""
    longest = max(map(len, scores), default=1) if epochs is None else epochs
    trial = Trial(1, {"fit.lr": 1e-3}, folds=len(scores), epochs=longest, status="finished")
    bests: list[float] = []
    for fold, of_fold in enumerate(scores):
        for epoch in range(1, len(of_fold) + 1):
            score = max(of_fold[:epoch])
            step = fold * longest + epoch
            objective = fmean([*bests, score])
            trial.add(Report(step, fold, epoch, score, objective, time=trial.started + step))
        bests.append(max(of_fold, default=0.0))
    for name, value in changes.items():
        setattr(trial, name, value)
    return trial


# On disk

REPORTS = st.builds(
    Report,
    step=st.integers(1, 10**6),
    fold=st.integers(0, 9),
    epoch=st.integers(1, 99),
    score=NUMBERS,
    objective=NUMBERS,
    time=NUMBERS,
)
TRIALS = st.builds(
    Trial,
    index=st.integers(0, 20_000),
    point=st.dictionaries(st.text(max_size=9), SETTINGS, max_size=4),
    folds=st.integers(1, 9),
    epochs=st.integers(1, 99),
    status=st.sampled_from(["running", "finished", "stopped", "diverged", "failed"]),
    reports=st.lists(REPORTS, max_size=5),
    started=NUMBERS,
    error=st.none() | st.text(max_size=30),
    run_id=st.none() | st.text(max_size=9),
)


@given(st.lists(TRIALS, max_size=6, unique_by=lambda trial: trial.index))
def test_what_is_kept_is_read_back(tmp_path_factory: pytest.TempPathFactory, trials: list[Trial]) -> None:
    folder = tmp_path_factory.mktemp("attempt")
    journal = Journal(folder)
    for trial in trials:
        journal.keep(trial)
    again = Journal(folder)
    assert again.trials == {trial.index: trial for trial in trials}
    assert again.in_order() == journal.in_order() == sorted(trials, key=lambda trial: trial.index)


def test_newest_state_of_a_trial_is_what_counts(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    trial = Trial(3, {"fit.lr": 1e-3}, folds=2, epochs=1)
    journal.keep(trial)
    trial.add(Report(1, 0, 1, 0.5, 0.5, 9.0))
    journal.keep(trial)
    assert Journal(tmp_path).trials[3].reports == [Report(1, 0, 1, 0.5, 0.5, 9.0)]
    trial.status, trial.error = "failed", "boom"
    journal.keep(trial)
    assert Journal(tmp_path).trials == {3: trial}


@pytest.mark.parametrize("part", [0, 1, 40, -1])
def test_what_a_kill_leaves_behind_disturbs_nothing(tmp_path: Path, part: int) -> None:
    journal = Journal(tmp_path)
    kept = trained([[0.5, 0.6], [0.4, 0.7]])
    journal.keep(kept)
    (folder,) = tmp_path.iterdir()
    (written,) = folder.iterdir()
    # Killed while it wrote another trial, and this one again; checkpoints lie beside.
    for name in ("0001", "0002"):
        (folder / f"{name}.partial").write_text(written.read_text()[:part])
    (folder / "0001" / "checkpoint-000004").mkdir(parents=True)
    again = Journal(tmp_path)
    assert again.trials == {1: kept}
    other = Trial(2, {}, folds=1, epochs=1)
    again.keep(other)
    assert Journal(tmp_path).trials == {1: kept, 2: other}


def test_file_of_a_trial_is_whole_at_every_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it is that fails while a trial is written."""
    journal = Journal(tmp_path)
    trial = trained([[0.5]], status="running")
    journal.keep(trial)
    before = Journal(tmp_path).trials[1]

    def full(descriptor: int) -> None:
        raise OSError("no space left on device")

    trial.status = "finished"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="no space"):
            journal.keep(trial)
    assert Journal(tmp_path).trials == {1: before}
    assert before.status == "running"


def test_points_are_written_so_that_people_can_read_them(tmp_path: Path) -> None:
    Journal(tmp_path).keep(Trial(7, {"fit.lr": 1e-4, "model.scales": [0, 1]}, folds=1, epochs=1))
    assert json.loads((tmp_path / "trials" / "0007.json").read_text())["point"] == {
        "fit.lr": 1e-4,
        "model.scales": [0, 1],
    }


# In numbers


@given(st.lists(st.integers(1, 30), max_size=40))
def test_a_step_is_taken_once(steps: list[int]) -> None:
    trial = Trial(1, {}, folds=3, epochs=10)
    highest = 0
    for number, step in enumerate(steps):
        report = Report(step, 0, step, score=number, objective=number, time=number)
        assert trial.add(report) == (step > highest)
        highest = max(highest, step)
        assert trial.step == highest
    numbers = [number for number, step in enumerate(steps) if step > max(steps[:number], default=0)]
    assert [report.score for report in trial.reports] == numbers


@given(
    st.tuples(st.integers(1, 5), st.integers(1, 6)).flatmap(
        lambda shape: st.lists(
            st.lists(SCORES, min_size=shape[1], max_size=shape[1]), min_size=shape[0], max_size=shape[0]
        )
    ),
    st.data(),
)
def test_score_of_a_fold_is_its_best_epoch(scores: list[list[float]], data: st.DataObject) -> None:
    trial = trained(scores)
    bests = np.max(scores, axis=1)
    assert trial.scores == list(bests)
    assert trial.step == trial.steps == np.size(scores)
    assert trial.objective == pytest.approx(np.mean(bests))
    if len(bests) > 1:
        assert trial.spread == pytest.approx(np.std(bests, ddof=1), abs=1e-12)
    else:
        assert trial.spread is None
    # Given up in the middle, only what was trained to the end has a score.
    trial.status = "stopped"
    trial.reports = trial.reports[: data.draw(st.integers(1, trial.steps))]
    folds, epoch = divmod(trial.step, trial.epochs)
    assert trial.scores == list(bests[:folds])
    begun = [*bests[:folds], *([max(scores[folds][:epoch])] if epoch else [])]
    assert trial.objective == pytest.approx(np.mean(begun))
    assert (trial.spread is None) == (folds < 2)
    assert trial.ended == trial.reports[-1].time


def test_trial_without_a_score_has_no_objective() -> None:
    silent = Trial(1, {}, folds=2, epochs=3, started=7.0)
    assert (silent.objective, silent.spread, silent.scores, silent.step) == (None, None, [], 0)
    assert (silent.steps, silent.ended) == (6, 7.0)
    assert trained([[0.5], [0.6]], status="diverged").objective is None
    assert trained([[0.5], [0.75]], status="failed").objective == 0.625


def test_best_is_the_first_of_the_best_finished_trials() -> None:
    trials = [
        trained([[0.9]], index=0, status="stopped"),
        trained([[0.5]], index=1),
        trained([[0.7]], index=2),
        trained([[0.7]], index=3),
        trained([[0.99]], index=4, status="running"),
        trained([[0.99]], index=5, status="diverged"),
    ]
    assert best(trials) is trials[2]
    assert best([trials[0], *trials[4:]]) is None
    assert best([]) is None
    worthless = trained([[0.0]])
    assert best([worthless]) is worthless


# How long it will take


def state(total: int, at_once: int, steps: int, now: int) -> list[Trial]:
    """The trials begun by now, of a search whose trials all take so many steps and steps a second."""
    trials = []
    for index in range(total):
        done = min(steps, now - index // at_once * steps)
        if done > 0:
            status = "finished" if done == steps else "running"
            trials.append(trained([[0.5] * done], epochs=steps, index=index, status=status))
    return trials


@given(st.integers(1, 9), st.integers(1, 12), st.integers(1, 12), st.data())
def test_estimate_is_right_where_every_epoch_takes_the_same(
    rounds: int, at_once: int, steps: int, data: st.DataObject
) -> None:
    total = rounds * at_once  # every place is taken until the end
    now = data.draw(st.integers(1, rounds * steps))
    left = seconds_left(state(total, at_once, steps, now), total, at_once, now)
    assert left == pytest.approx(rounds * steps - now)


@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 12), st.data())
def test_places_that_no_trial_needs_delay_nothing(
    total: int, more: int, steps: int, data: st.DataObject
) -> None:
    now = data.draw(st.integers(1, steps))
    left = seconds_left(state(total, total, steps, now), total, total + more, now)
    assert left == pytest.approx(steps - now)


def test_last_trial_is_no_faster_because_places_are_empty() -> None:
    # The third of three, alone in its second half; what two did at once would take 3 seconds for it.
    assert seconds_left(state(3, 2, 10, now=15), 3, 2, 15) == pytest.approx(5, abs=1)


@st.composite
def states(draw: st.DrawFn) -> list[Trial]:
    """Trials in any state, one report at least."""
    trials = []
    for index in range(draw(st.integers(1, 6))):
        done = draw(st.integers(index == 0, 10))
        status = draw(st.sampled_from(["running", "finished", "stopped", "diverged", "failed"]))
        trials.append(trained([[0.5] * done], epochs=10, index=index, status=status))
    return trials


@given(states(), st.integers(0, 9), st.integers(1, 9), st.floats(0.1, 1e6))
def test_estimate_grows_with_what_is_to_come(
    trials: list[Trial], to_come: int, at_once: int, seconds: float
) -> None:
    estimates = [seconds_left(trials, len(trials) + n, at_once, seconds) for n in (to_come, to_come + 1)]
    assert None not in estimates
    assert 0 <= estimates[0] <= estimates[1]  # type: ignore[operator]
    if all(trial.status != "running" for trial in trials):
        assert seconds_left(trials, len(trials), at_once, seconds) == 0
    twice = seconds_left(trials, len(trials) + to_come, at_once, 2 * seconds)
    assert twice == pytest.approx(2 * estimates[0])  # type: ignore[operator]


def test_nothing_is_estimated_before_the_first_report() -> None:
    assert seconds_left([], 5, 2, 3.0) is None
    assert seconds_left([Trial(0, {}, folds=2, epochs=3)], 5, 2, 3.0) is None


def test_trials_given_up_early_shorten_the_estimate() -> None:
    whole = trained([[0.5] * 10])
    stopped = trained([[0.5] * 2], epochs=10, status="stopped")
    # 12 epochs in 12 seconds, 8 trials to come: of 10 epochs each, or of 6 as these two.
    assert seconds_left([whole, stopped], 10, 1, 12.0) == pytest.approx(8 * 6)


# In words


@dataclass
class Books:
    """What the screen asks the ledger for."""

    trials: list[Trial]
    running: list[Trial]
    seconds: float

    @property
    def journal(self) -> Books:
        return self

    def in_order(self) -> list[Trial]:
        return self.trials


def line(trials: list[Trial], total: int, at_once: int = 2, seconds: float = 100.0) -> str:
    running = [trial for trial in trials if trial.status == "running"]
    return Screen(Books(trials, running, seconds), lambda: total, at_once).line()  # type: ignore[arg-type]


def test_line_says_how_far_the_search_is() -> None:
    trials = [
        trained([[0.5, 0.6], [0.8, 0.7]], index=0),
        trained([[0.5, 0.9], [0.8, 0.7]], index=1),
        trained([[0.1]], index=2, epochs=2, status="stopped"),
        trained([[0.1]], index=3, epochs=2, status="stopped"),
        trained([[0.1]], index=4, epochs=2, status="diverged"),
        trained([[]], index=5, epochs=2, status="failed"),
        trained([[0.1]], index=6, epochs=2, status="running"),
        trained([[]], index=7, epochs=2, status="running"),
    ]
    said = line(trials, 20)
    assert said.startswith("6 of 20 trials done (2 stopped, 1 diverged, 1 failed), 2 running, 12 to come; ")
    assert "; best: trial 1, 0.850; 1 min 40 s so far, about " in said
    assert said.endswith(" left")


def test_line_says_only_what_is_known() -> None:
    running = trained([[0.5]], epochs=4, status="running")
    assert line([running], 3).startswith("0 of 3 trials done, 1 running, 2 to come; 1 min 40 s so far, about")
    assert "best" not in line([running], 3)
    silent = Trial(0, {}, folds=1, epochs=4)
    assert line([silent], 1) == "0 of 1 trials done, 1 running, 0 to come; 1 min 40 s so far"
    done = trained([[0.5] * 4])
    assert line([done], 1) == (
        "1 of 1 trials done, 0 running, 0 to come; best: trial 1, 0.500; 1 min 40 s so far"
    )


def test_line_before_the_first_trial() -> None:
    assert line([], 4, seconds=0.2).startswith("0 of 4 trials done, 0 running, 4 to come; ")


def test_trials_that_an_earlier_start_left_are_to_come() -> None:
    left = trained([[0.5]], epochs=4, status="running")
    screen = Screen(Books([left], [], 100.0), lambda: 3, 1)  # type: ignore[arg-type]
    assert screen.line().startswith("0 of 3 trials done, 0 running, 3 to come")


def test_counts_of_a_line_add_up() -> None:
    draw = random.Random(0)
    every: list[Status] = ["running", "finished", "stopped", "diverged", "failed"]
    for total in range(1, 30):
        begun = draw.randint(0, total)
        trials = [trained([[0.5]], index=index, status=draw.choice(every)) for index in range(begun)]
        words = line(trials, total).replace(",", "").split()
        done, running, to_come = (
            int(words[words.index(word) + move]) for word, move in (("of", -1), ("running", -1), ("to", -1))
        )
        assert done + running + to_come == total
        assert running == sum(trial.status == "running" for trial in trials)


def test_point_in_a_few_words() -> None:
    point = {"model.iterations": 8, "loss.lambda": 0.8, "model.scales": [0, 1], "fit.lr": 0.00012345}
    assert short(Trial(1, point, 1, 1)) == "iterations 8, lambda 0.8, scales [0, 1], lr 0.000123"
