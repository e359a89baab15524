"""SIGTERM and Ctrl-C to a search: its trials save themselves behind the step in hand, and go on there."""

from __future__ import annotations

import json
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

FOLDS, EPOCHS, GRACE = 2, 20, 30


@pytest.fixture
def tune_file(squares_of_six_photographs: Path, tmp_path: Path) -> Path:
    """The paper's point and another one, at once; three steps an epoch."""
    path = tmp_path / "tune.yaml"
    path.write_text(f"""{spec.FIRST_LINE}
kind: tune
name: search
space: {{fit.lr: {{grid: [1e-2]}}}}
search: {{folds: {FOLDS}}}
refit: false
data: {{root: {squares_of_six_photographs}, val: le50_val.txt, size: 32, loader_processes: 0}}
model: {{depth: 18, width: 4, iterations: 2, scales: [0, 1]}}
fit: {{epochs: {EPOCHS}, batch_size: 2, milestones: [], encoder_weights: none}}
storage: {tmp_path / "runs"}
tracking: {{uri: {tmp_path / "mlflow.db"}}}
""")
    return path


def load(path: Path, *overrides: str) -> spec.TuneJob:
    job = spec.load(path, overrides)
    assert isinstance(job, spec.TuneJob)
    return job


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
    kept = sorted(folder_of(job).glob("trials/*/*interrupted"))
    assert [Done.read(each).steps for each in kept] == [len(trial["reports"]) for trial in before.values()]
    assert all(checkpoint.load_training(each)["partial"]["step"] > 0 for each in kept)
    assert [run.info.status for run in runs(job)] == ["KILLED"] * 3
    require_no_orphans()
    for snapshot in folder_of(job).glob(f"trials/*/{SNAPSHOT}"):  # of Ray Train's: with workers of their own
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


def require_same_trials(job: spec.TuneJob, other: spec.TuneJob) -> None:
    """Both searches are finished, with every epoch of every trial once and the same objectives."""
    for ours, theirs in zip(journal(job).values(), journal(other).values(), strict=True):
        assert (ours["status"], theirs["status"]) == ("finished", "finished")
        assert [report["step"] for report in ours["reports"]] == list(range(1, FOLDS * EPOCHS + 1))
        assert objectives(ours) == objectives(theirs)
    for run, theirs in zip(runs(job), runs(other), strict=True):
        assert (run.info.status, theirs.info.status) == ("FINISHED", "FINISHED")
        if trial := run.data.tags.get("trial"):
            points = client_of(job).get_metric_history(run.info.run_id, "objective")
            assert [point.value for point in points] == objectives(journal(job)[int(trial)])


def objectives(trial: dict[str, Any]) -> list[float]:
    return [report["objective"] for report in trial["reports"]]


def folder_of(job: spec.TuneJob) -> Path:
    return Path(job.storage) / job.name / "attempt-1"


def journal(job: spec.TuneJob) -> dict[int, dict[str, Any]]:
    """Every trial as its file says."""
    files = sorted((folder_of(job) / "trials").glob("*.json"))
    return {int(path.stem): json.loads(path.read_text()) for path in files}


def runs(job: spec.TuneJob) -> list[Any]:
    """MLflow's runs of a search and its trials, by their names."""
    client = client_of(job)
    experiment = client.get_experiment_by_name(job.tracking.experiment)
    return sorted(client.search_runs([experiment.experiment_id]), key=lambda run: run.info.run_name)
