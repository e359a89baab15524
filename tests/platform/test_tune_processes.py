"""Searches in processes of their own, as users start them: killed, side by side, with workers for each trial."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from rsrnet_platform import spec, tune
from rsrnet_platform.search.cross_validation import TrialTask, cross_validate
from rsrnet_platform.search.ledger import Ledger
from tests.faults.processes import command_of, finish, kill_all, start, wait_for
from tests.platform.tuning import Collector, attempt, journal, load, objectives, runs, write_grid_file

pytestmark = pytest.mark.ray


@pytest.fixture
def tune_file(squares_of_six_photographs: Path, tmp_path: Path) -> Path:
    return write_grid_file(tmp_path, squares_of_six_photographs)


def start_alone(tune_file: Path, *overrides: str, home: Path) -> subprocess.Popen[str]:
    """A search in a process of its own, on a cluster of its own."""
    home.mkdir(exist_ok=True)
    settings = dict(override.split("=", 1) for override in (*overrides, "cluster.address=local"))
    return start(tune_file, settings, HOME=str(home), RAY_TMPDIR=f"/tmp/rs-{os.getpid()}-{home.name}")


def test_a_killed_search_goes_on_where_it_was(tune_file, tmp_path) -> None:
    changes = ("fit.epochs=3", "search.scheduler=median", "search.concurrent=1")
    undisturbed = load(tune_file, *changes, "name=undisturbed")
    whole = start_alone(tune_file, *changes, "name=undisturbed", home=tmp_path / "a")
    job = load(tune_file, *changes)
    process = start_alone(tune_file, *changes, home=tmp_path / "b")

    def in_the_middle() -> bool:
        return any(
            trial["status"] == "running" and 1 <= len(trial["reports"]) < 5 and index >= 2
            for index, trial in journal(job).items()
        )

    wait_for(in_the_middle, process)
    kill_all(process)
    before = journal(job)
    ids = run_ids(job)
    again = start_alone(tune_file, *changes, home=tmp_path / "b")
    said = finish(again)
    assert again.returncode == 0, said
    said = finish(whole)
    assert whole.returncode == 0, said

    after = journal(job)
    for index, trial in before.items():
        if trial["status"] != "running":
            assert after[index] == trial  # not run again
        else:
            assert after[index]["reports"][: len(trial["reports"])] == trial["reports"]
    expected = journal(undisturbed)
    assert {i: (t["status"], t["point"]) for i, t in after.items()} == {
        i: (t["status"], t["point"]) for i, t in expected.items()
    }
    for index, trial in after.items():
        assert objectives(trial["reports"]) == objectives(expected[index]["reports"])
    parent, children = runs(job)
    assert parent.info.status == "FINISHED"
    assert {child.info.status for child in children.values()} == {"FINISHED"}
    assert ids.items() <= run_ids(job).items()


def run_ids(job: spec.TuneJob) -> dict[int, str]:
    """MLflow's runs of the trials, by their number."""
    return {index: run.info.run_id for index, run in runs(job)[1].items()}


@pytest.mark.slow
def test_a_trial_whose_process_dies_goes_on_from_its_checkpoint(tune_file, tmp_path) -> None:
    changes = ("fit.epochs=6", "space={fit.lr: {grid: [1e-2]}}", "search.concurrent=1")
    job = load(tune_file, *changes)
    process = start_alone(tune_file, *changes, home=tmp_path / "home")
    wait_for(lambda: len(journal(job).get(0, {"reports": []})["reports"]) >= 2, process)
    actors = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "ray::ImplicitFunc" in command_of(child)
    ]
    assert actors
    for actor in actors:
        with suppress(psutil.NoSuchProcess):
            actor.kill()
    said = finish(process)
    assert process.returncode == 0, said
    trial = journal(job)[0]
    assert [report["step"] for report in trial["reports"]] == list(range(1, 13))
    alone = Collector()
    cross_validate(TrialTask(spec.training(job, trial["point"], "x"), job.search, frozenset()), alone)
    assert objectives(trial["reports"]) == objectives(alone.reports)
    assert runs(job)[1][0].info.status == "FINISHED"


@pytest.mark.slow
def test_images_that_vanish_stop_the_search_and_it_goes_on_when_they_are_back(
    squares_of_six_photographs, tune_file, tmp_path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(squares_of_six_photographs, data)
    changes = (f"data.root={data}", "fit.epochs=6", "search.concurrent=1")
    job = load(tune_file, *changes)
    process = start_alone(tune_file, *changes, home=tmp_path / "home")
    wait_for((attempt(job) / "trials" / "0001.json").exists, process)
    (data / "Sample" / "masks").rename(tmp_path / "away")
    said = finish(process)
    assert process.returncode == 2, said
    assert "cannot go on, and no other would" in said
    assert "Traceback" not in said
    assert {trial["status"] for trial in journal(job).values()} <= {"finished", "running"}
    (tmp_path / "away").rename(data / "Sample" / "masks")
    again = start_alone(tune_file, *changes, home=tmp_path / "home")
    said = finish(again)
    assert again.returncode == 0, said
    assert {trial["status"] for trial in journal(job).values()} == {"finished"}
    assert {run.info.status for run in runs(job)[1].values()} == {"FINISHED"}


@pytest.mark.slow
def test_two_searches_share_a_store(tune_file, tmp_path) -> None:
    changes = ("space={fit.lr: {grid: [1e-2, 1e-3]}}", "search.concurrent=1")
    names = ("one", "two")
    processes = [start_alone(tune_file, *changes, f"name={name}", home=tmp_path / name) for name in names]
    for process in processes:
        said = finish(process)
        assert process.returncode == 0, said
    for name in names:
        job = load(tune_file, *changes, f"name={name}")
        parent, children = runs(job)
        assert parent.info.status == "FINISHED"
        assert sorted(children) == [0, 1, 2]
        assert {child.info.run_name for child in children.values()} == {f"{name}-{i:04d}" for i in range(3)}


@pytest.mark.slow
def test_trials_with_workers_of_their_own_free_them_when_given_up(tune_file, tmp_path) -> None:
    """On a cluster with room for one trial: the next one starts only when the last has freed everything."""
    changes = (
        "cluster.workers=2",
        "search.scheduler=asha",
        "search.reduction_factor=2",
        "search.grace_epochs=1",
        "space={fit.lr: {grid: [1e-2, 1e-9, 1e-8]}}",
    )
    job = load(tune_file, *changes)
    process = start_alone(tune_file, *changes, home=tmp_path / "home")
    said = finish(process)
    assert process.returncode == 0, said
    outcomes = [trial["status"] for trial in journal(job).values()]
    assert len(outcomes) == 4
    assert outcomes[0] == "finished"
    assert "stopped" in outcomes[1:3]
    assert "running" not in outcomes


@pytest.mark.slow
def test_a_search_that_is_slow_to_listen_hears_the_last_report_of_workers(
    ray_cluster, tune_file, monkeypatch
) -> None:
    """The trial is at its end by then: an end that overtakes the last report would stop Tune for ever."""
    listen = Ledger.hear

    def hear(ledger: Ledger, index: int, result: dict[str, Any]) -> None:
        time.sleep(8)  # longer than a group of workers takes to end
        listen(ledger, index, result)

    monkeypatch.setattr(Ledger, "hear", hear)
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster.address)
    job = load(tune_file, "cluster.workers=2", "space={fit.lr: {grid: [1e-4]}}", "search.scheduler=none")
    tune.run(job, fresh=False)
    (trial,) = journal(job).values()
    assert trial["status"] == "finished"
    assert [report["step"] for report in trial["reports"]] == [1, 2, 3, 4]
