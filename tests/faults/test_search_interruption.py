"""SIGTERM and Ctrl-C to a search: its trials save themselves behind the step in hand, and go on there."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rsrnet import checkpoint
from rsrnet_platform import spec, tune
from rsrnet_platform.interruption import Stopped
from rsrnet_platform.search import trial_actor
from rsrnet_platform.search.cross_validation import Done, TrialTask, cross_validate
from rsrnet_platform.shelf import SNAPSHOT
from tests.faults.processes import finish, require_no_orphans, start, wait_for
from tests.platform.conftest import client_of
from tests.platform.tuning import attempt, journal, load, objectives, runs, write_tune_file

FOLDS, EPOCHS, GRACE = 2, 20, 30


@pytest.fixture
def tune_file(squares_of_six_photographs: Path, tmp_path: Path) -> Path:
    """The paper's point and another one, at once; three steps an epoch."""
    return write_tune_file(
        tmp_path,
        squares_of_six_photographs,
        space="{fit.lr: {grid: [1e-2]}}",
        search=f"{{folds: {FOLDS}}}",
        epochs=EPOCHS,
        batch_size=2,
    )


class StopAfter:
    """Asks to stop once a number of steps and validation batches are done."""

    def __init__(self, steps: int | None) -> None:
        self.most, self.steps = steps, 0

    def asked(self) -> bool:
        self.steps += 1
        return self.most is not None and self.steps >= self.most

    def due(self) -> bool:
        return False

    look = due


@pytest.mark.parametrize("stop_at", [1, 8, 31], ids=["first epoch", "first fold", "second fold"])
def test_a_trial_told_to_stop_goes_on_behind_its_last_step(tune_file, tmp_path, monkeypatch, stop_at) -> None:
    job = load(tune_file, "fit.epochs=3")
    task = TrialTask(spec.training(job, {"fit.lr": 1e-2}, "x"), job.search, frozenset())
    heard: list[dict[str, Any]] = []
    monkeypatch.setattr(trial_actor.tune, "report", heard.append)

    def run(folder: str, stop_after: int | None) -> int:
        """Steps it took, with the batches of validation."""
        notice = StopAfter(stop_after)
        cross_validate(task, trial_actor.ActorHost(tmp_path / folder, False, notice))
        return notice.steps

    steps = run("whole", None)
    whole = list(heard)
    heard.clear()
    with pytest.raises(Stopped, match="Stopped in epoch"):
        run("stopped", stop_at)
    newest = max((tmp_path / "stopped").glob("checkpoint-*"))
    assert newest.name.endswith("-interrupted")
    assert checkpoint.load_training(newest)["partial"]["step"] > 0
    assert Done.read(newest).steps == len(heard)
    # No step is taken again; what asks at the end of an interrupted step or validation asks twice.
    assert steps - stop_at <= run("stopped", None) <= steps - stop_at + 3
    numbers = [without_times(report) for report in unrepeated(heard)]
    assert numbers == [without_times(report) for report in whole]
    assert not list((tmp_path / "stopped").glob("*interrupted"))


def unrepeated(reports: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without what a trial that goes on repeats."""
    return [each for number, each in enumerate(reports) if each not in reports[:number]]


def without_times(report: dict[str, Any]) -> dict[str, Any]:
    metrics = {key: value for key, value in report["metrics"].items() if not key.startswith("time/")}
    return {**report, "metrics": metrics}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "workers"), [(signal.SIGTERM, 1), (signal.SIGTERM, 2), (signal.SIGINT, 1)], ids=str
)
def test_a_search_told_to_stop_goes_on_where_its_trials_were(
    ray_cluster, tune_file, record_property, sent, workers
) -> None:
    settings = {"cluster.workers": workers, "cluster.grace": GRACE}
    job = load(tune_file, f"cluster.workers={workers}")
    first = start(tune_file, settings, RAY_ADDRESS=ray_cluster.address)
    wait_for(lambda: [len(trial["reports"]) > 1 for trial in journal(job).values()] == [True] * 2, first)
    first.send_signal(sent)
    asked = time.monotonic()
    said = finish(first, seconds=2 * GRACE)
    seconds = time.monotonic() - asked
    assert first.returncode == 128 + sent, said
    assert f"{sent.name}: saving a checkpoint, in up to {GRACE} s." in said
    assert "Stopped with 2 trials in hand. The same job goes on from there." in said
    assert "Traceback" not in said
    before = journal(job)
    assert [trial["status"] for trial in before.values()] == ["running"] * 2
    kept = sorted(attempt(job).glob("trials/*/*interrupted"))
    for each, trial in zip(kept, before.values(), strict=True):
        # With workers of their own a trial may end before its last report arrives; it repeats that one.
        assert len(trial["reports"]) <= Done.read(each).steps <= len(trial["reports"]) + (workers > 1)
    assert all(checkpoint.load_training(each)["partial"]["step"] > 0 for each in kept)
    assert [run.info.status for run in runs_of_all(job)] == ["KILLED"] * 3
    require_no_orphans()
    for snapshot in attempt(job).glob(f"trials/*/{SNAPSHOT}"):  # of Ray Train's: with workers of their own
        snapshot.write_bytes(b"")  # as one who is killed while writing it leaves it

    second = start(tune_file, settings, RAY_ADDRESS=ray_cluster.address)
    said = finish(second)
    assert second.returncode == 0, said
    whole = load(tune_file, f"cluster.workers={workers}", "name=whole", "tracking.experiment=whole")
    tune.run(whole, fresh=False)
    require_same_trials(job, whole)
    require_no_orphans()
    place = "in an actor each" if workers == 1 else f"on {workers} workers each"
    record_property("fault", f"search gets {sent.name}, two trials {place}, {GRACE} s of notice")
    record_property(
        "outcome",
        f"both trials keep a checkpoint in the middle of their epoch, exit {first.returncode} after {seconds:.1f} s; "
        "the same job goes on at their next steps, bitwise the objectives of an undisturbed search",
    )


@pytest.mark.ray
@pytest.mark.slow
def test_a_search_whose_notice_is_too_short_leaves_with_the_code_of_its_signal(
    ray_cluster, tune_file, record_property
) -> None:
    """Who sent the signal queues the job again by that code; Ray has another one for what leaves while it waits."""
    settings = {"cluster.grace": 0}
    job = load(tune_file, "cluster.grace=0")
    first = start(tune_file, settings, RAY_ADDRESS=ray_cluster.address)
    wait_for(lambda: [len(trial["reports"]) > 1 for trial in journal(job).values()] == [True] * 2, first)
    first.terminate()
    said = finish(first)
    assert first.returncode == 143, said
    assert "No checkpoint within 0 s (cluster.grace)" in said
    assert "Traceback" not in said
    second = start(tune_file, settings, RAY_ADDRESS=ray_cluster.address)
    said = finish(second)
    assert second.returncode == 0, said
    assert {trial["status"] for trial in journal(job).values()} == {"finished"}
    assert {run.info.status for run in runs_of_all(job)} == {"FINISHED"}
    require_no_orphans()
    record_property("fault", "search gets SIGTERM, notice too short for a checkpoint")
    record_property("outcome", "exit 143; the trials go on after their last epochs")


def require_same_trials(job: spec.TuneJob, other: spec.TuneJob) -> None:
    """Both searches are finished, with every epoch of every trial once and the same objectives."""
    for ours, theirs in zip(journal(job).values(), journal(other).values(), strict=True):
        assert (ours["status"], theirs["status"]) == ("finished", "finished")
        assert [report["step"] for report in ours["reports"]] == list(range(1, FOLDS * EPOCHS + 1))
        assert objectives(ours["reports"]) == objectives(theirs["reports"])
    for search in (job, other):
        assert {run.info.status for run in runs_of_all(search)} == {"FINISHED"}
    for index, run in runs(job)[1].items():
        points = client_of(job).get_metric_history(run.info.run_id, "objective")
        assert [point.value for point in points] == objectives(journal(job)[index]["reports"])


def runs_of_all(job: spec.TuneJob) -> list[Any]:
    """MLflow's runs of a search and its trials."""
    parent, children = runs(job)
    return [parent, *children.values()]
