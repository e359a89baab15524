"""Searches from the job file to the registered model, on real Ray and a real store."""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import torch

from rsrnet.agreement import NoNotice
from rsrnet_platform import cli, spec, tune
from rsrnet_platform.errors import UserError
from rsrnet_platform.restart import Start
from rsrnet_platform.search.cross_validation import TrialTask, cross_validate
from rsrnet_platform.search.ledger import Ledger
from rsrnet_platform.store import open_client, resolve_uri

PAPER = {"model.iterations": 12, "fit.lr": 1e-4}

pytestmark = pytest.mark.ray


@pytest.fixture
def tune_file(squares_of_six_photographs: Path, tmp_path: Path) -> Path:
    """A grid of four points and the paper's, on two folds of two epochs; no training afterwards."""
    path = tmp_path / "tune.yaml"
    path.write_text(f"""{spec.FIRST_LINE}
kind: tune
name: search
space:
  model.iterations: {{grid: [1, 2]}}
  fit.lr: {{grid: [1e-3, 1e-2]}}
search: {{folds: 2, concurrent: 2}}
refit: false
data: {{root: {squares_of_six_photographs}, val: le50_val.txt, size: 32, loader_processes: 0}}
model: {{depth: 18, width: 4, iterations: 2, scales: [0, 1]}}
fit: {{epochs: 2, batch_size: 4, milestones: [], encoder_weights: none}}
storage: {tmp_path / "runs"}
tracking: {{uri: {tmp_path / "mlflow.db"}}}
""")
    return path


def load(path: Path, *overrides: str) -> spec.TuneJob:
    job = spec.load(path, overrides)
    assert isinstance(job, spec.TuneJob)
    return job


def attempt(job: spec.TuneJob) -> Path:
    return Path(job.storage) / job.name / "attempt-1"


def journal(job: spec.TuneJob) -> dict[int, dict[str, Any]]:
    """Every trial as its file says."""
    files = sorted((attempt(job) / "trials").glob("*.json"))
    return {int(path.stem): json.loads(path.read_text()) for path in files}


def rows(job: spec.TuneJob) -> list[dict[str, Any]]:
    return pq.read_table(attempt(job) / "report" / "trials.parquet").to_pylist()


def runs(job: spec.TuneJob) -> tuple[Any, dict[int, Any]]:
    """MLflow's run of a search, and those of its trials by their number."""
    client = open_client(resolve_uri(job.tracking))
    experiment = client.get_experiment_by_name(job.tracking.experiment)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], max_results=1000)
    (parent,) = (run for run in found if run.info.run_name == job.name)
    children = [run for run in found if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    numbers = [int(run.data.tags["trial"]) for run in children]
    assert len(numbers) == len(set(numbers)), "a trial has two runs"
    return parent, dict(zip(numbers, children, strict=True))


class Collector:
    """A host that only remembers: the oracle for what a trial reports."""

    rank, world_size, device = 0, 1, torch.device("cpu")
    notice = NoNotice()

    def __init__(self) -> None:
        self.reports: list[dict[str, Any]] = []

    @contextmanager
    def newest(self) -> Iterator[Start]:
        yield Start(None)

    def repeat(self, metrics: dict[str, Any]) -> None:
        raise AssertionError("there is nothing to repeat")

    def report(self, metrics: dict[str, Any], write: Callable[[Path], None]) -> None:
        self.reports.append(metrics)

    def interrupt(self, write: Callable[[Path], None]) -> None:
        raise AssertionError("nobody told it to stop")


def test_a_grid_is_searched_reported_and_tracked(ray_cluster, tune_file, capsys) -> None:
    job = load(tune_file)
    tune.run(job, fresh=False)

    trials = journal(job)
    assert [trial["status"] for trial in trials.values()] == ["finished"] * 5
    assert trials[0]["point"] == PAPER
    assert [tuple(trials[index]["point"].values()) for index in (1, 2, 3, 4)] == [
        (1, 1e-3),
        (1, 1e-2),
        (2, 1e-3),
        (2, 1e-2),
    ]

    # What a trial found is what the same trainings find by themselves.
    alone = Collector()
    cross_validate(TrialTask(spec.training(job, trials[2]["point"], "x"), job.search, frozenset()), alone)
    heard = trials[2]["reports"]
    assert [report["objective"] for report in heard] == [report["objective"] for report in alone.reports]
    folds = [max(r["metrics"]["val/iou"] for r in alone.reports if r["fold"] == fold) for fold in (0, 1)]
    assert heard[-1]["objective"] == statistics.fmean(folds)

    table = rows(job)
    assert [row["trial"] for row in table] == [0, 1, 2, 3, 4]
    assert (table[2]["fold_1"], table[2]["fold_2"]) == tuple(folds)

    parent, children = runs(job)
    assert (parent.info.status, sorted(children)) == ("FINISHED", [0, 1, 2, 3, 4])
    assert {child.info.status for child in children.values()} == {"FINISHED"}
    assert children[2].data.params["fit.lr"] == "0.01"
    assert children[2].data.metrics["fold_2/val/iou"] == alone.reports[-1]["metrics"]["val/iou"]
    assert children[2].data.metrics["objective_std"] == pytest.approx(statistics.stdev(folds))
    best = max(trials.values(), key=lambda trial: trial["reports"][-1]["objective"])
    assert parent.data.tags["best_trial"] == str(best["index"])
    artifacts = {
        item.path
        for item in open_client(resolve_uri(job.tracking)).list_artifacts(parent.info.run_id, "report")
    }
    assert {"report/report.md", "report/trials.parquet", "report/trials.csv"} <= artifacts
    assert any(path.endswith(".png") for path in artifacts)

    said = capsys.readouterr().err
    assert "5 of 5 trials done" in said
    assert "Difference" in said
    # Checkpoints of trials that ended are gone.
    assert not list((attempt(job) / "trials").glob("*/checkpoint-*"))


def test_a_search_that_is_done_says_so_again_and_more_trials_continue_it(
    ray_cluster, tune_file, capsys
) -> None:
    tune_file.write_text(
        tune_file.read_text()
        .replace("grid: [1, 2]", "choice: [1, 2]")
        .replace("grid: [1e-3", "loguniform: [1e-3")
    )
    more = ["search.algorithm=optuna", "search.trials=2"]
    tune.run(load(tune_file, *more), fresh=False)
    first = journal(load(tune_file, *more))
    assert sorted(first) == [0, 1, 2]
    capsys.readouterr()

    tune.run(load(tune_file, *more), fresh=False)
    assert "Difference" in capsys.readouterr().err
    assert journal(load(tune_file, *more)) == first

    more[1] = "search.trials=4"
    job = load(tune_file, *more)
    tune.run(job, fresh=False)
    assert {index: journal(job)[index] for index in first} == first
    assert sorted(journal(job)) == [0, 1, 2, 3, 4]
    assert len({str(trial["point"]) for trial in journal(job).values()}) == 5
    assert sorted(runs(job)[1]) == [0, 1, 2, 3, 4]


def test_hopeless_trials_are_given_up_but_not_the_papers(ray_cluster, tune_file) -> None:
    job = load(
        tune_file,
        "search.scheduler=asha",
        "search.reduction_factor=2",
        "search.grace_epochs=1",
        "search.concurrent=1",
        "space.fit.lr={grid: [1e-2, 1e-9, 1e-8]}",
    )
    tune.run(job, fresh=False)
    trials = journal(job)
    outcomes = {index: trial["status"] for index, trial in trials.items()}
    assert outcomes[0] == "finished"
    stopped = [index for index, status in outcomes.items() if status == "stopped"]
    assert stopped
    assert all(len(trials[index]["reports"]) < 4 for index in stopped)
    assert all(trials[index]["point"]["fit.lr"] < 1e-3 for index in stopped)
    _, children = runs(job)
    assert {children[index].data.tags["outcome"] for index in stopped} == {"stopped"}
    assert {child.info.status for child in children.values()} == {"FINISHED"}


def test_a_trial_that_diverges_or_fails_does_not_stop_the_search(ray_cluster, tune_file, capsys) -> None:
    # A learning rate that makes NaN, and images too large for any memory.
    job = load(
        tune_file,
        "space={fit.lr: {grid: [1e-2, 1e+30]}, data.size: {grid: [32, 300000]}}",
        "cluster.max_failures=1",
    )
    tune.run(job, fresh=False)
    trials = journal(job)
    by_point = {tuple(trial["point"].values()): trial for trial in trials.values()}
    assert by_point[1e-2, 32]["status"] == "finished"
    assert by_point[1e30, 32]["status"] == "diverged"
    assert "lower fit.lr" in by_point[1e30, 32]["error"]
    failed = by_point[1e-2, 300000]
    assert failed["status"] == "failed"
    assert "Memory" in failed["error"] or "memory" in failed["error"]
    _, children = runs(job)
    assert {index: child.info.status for index, child in children.items()} == {
        index: "FINISHED" if trial["status"] == "finished" else "FAILED" for index, trial in trials.items()
    }
    assert "diverged" in capsys.readouterr().err


def test_the_best_point_is_trained_registered_and_champion(ray_cluster, tune_file) -> None:
    job = load(tune_file, "refit=true", "space.fit.lr={grid: [1e-2]}", "tracking.model=squares")
    tune.run(job, fresh=False)
    best = max(journal(job).values(), key=lambda trial: trial["reports"][-1]["objective"])
    client = open_client(resolve_uri(job.tracking))
    version = client.get_model_version_by_alias("squares", "champion")
    run = client.get_run(version.run_id)
    assert run.info.run_name.startswith(f"search-trial-{best['index']}-")
    assert {path: json.loads(run.data.params[path]) for path in PAPER} == best["point"]
    tune.run(job, fresh=False)  # nothing is left to do
    assert [each.version for each in client.search_model_versions("name = 'squares'")] == [version.version]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("search.folds=7", "cannot make 7 folds of 6 photographs or scenes"),
        ("space.model.iteration={grid: [1]}", "the nearest is model.iterations"),
        ("cluster.cpus_per_worker=9", "room for 0"),
        ("data.root={tmp}/nowhere", "there is no dataset folder"),
        ("tracking.uri=http://127.0.0.1:9", "no MLflow server answers"),
    ],
)
def test_what_a_user_gets_wrong_is_one_message_and_leaves_nothing(
    override, message, ray_cluster, tune_file, tmp_path, capsys
) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["run", str(tune_file), "--set", override.replace("{tmp}", str(tmp_path))])
    assert left.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "runs" / "search").exists()
    assert not (tmp_path / "mlflow.db").exists()


def test_other_settings_do_not_continue_a_search(ray_cluster, tune_file) -> None:
    tune.run(load(tune_file, "space={fit.lr: {grid: [1e-2]}}"), fresh=False)
    for changes, message in [
        (["space={fit.lr: {grid: [1e-2]}}", "fit.batch_size=5"], "batch_size: 4, now 5"),
        (["space={fit.lr: {grid: [1e-3]}}"], "now \\[0.001\\]"),
        (
            ["space={fit.lr: {uniform: [1e-3, 1e-2]}}", "search.algorithm=random", "search.trials=2"],
            "now 'not there'",
        ),
        (
            ["space={fit.lr: {grid: [1e-2]}, loss.lambda: {grid: [1.0]}}"],
            "space.loss.lambda.grid: 'not there'",
        ),
    ]:
        with pytest.raises(UserError, match=message):
            tune.run(load(tune_file, *changes), fresh=False)


def test_what_a_kill_left_open_is_closed(ray_cluster, tune_file) -> None:
    """As if the process had died between the end of a trial in the journal and that of its run."""
    job = load(tune_file, "space={fit.lr: {grid: [1e-2]}}")
    tune.run(job, fresh=False)
    client = open_client(resolve_uri(job.tracking))
    client.update_run(runs(job)[1][1].info.run_id, status="RUNNING")
    left = attempt(job) / "trials" / "0001"
    left.mkdir()
    tune.run(job, fresh=False)
    assert runs(job)[1][1].info.status == "FINISHED"
    assert not left.exists()

    client.update_run(runs(job)[1][0].info.run_id, status="RUNNING")
    tune.run(job, fresh=True)
    experiment = client.get_experiment_by_name(job.tracking.experiment)
    states = [run.info.status for run in client.search_runs([experiment.experiment_id])]
    assert "RUNNING" not in states


@pytest.mark.slow
def test_images_that_vanish_stop_the_search_and_it_goes_on_when_they_are_back(
    squares_of_six_photographs, tune_file, tmp_path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(squares_of_six_photographs, data)
    changes = (f"data.root={data}", "fit.epochs=6", "cluster.address=local", "search.concurrent=1")
    job = load(tune_file, *changes)
    process = start(tune_file, *changes, home=tmp_path / "home")
    wait_until(lambda: (attempt(job) / "trials" / "0001.json").exists(), process)
    (data / "Sample" / "masks").rename(tmp_path / "away")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 2, output
    assert "cannot go on, and no other would" in output
    assert "Traceback" not in output
    assert {trial["status"] for trial in journal(job).values()} <= {"finished", "running"}
    (tmp_path / "away").rename(data / "Sample" / "masks")
    output, _ = start(tune_file, *changes, home=tmp_path / "home").communicate(timeout=300)
    assert {trial["status"] for trial in journal(job).values()} == {"finished"}
    assert {run.info.status for run in runs(job)[1].values()} == {"FINISHED"}


def test_a_dry_run_counts_and_starts_nothing(tune_file, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["run", str(tune_file), "--dry-run", "--set", "cluster.address=local"])
    assert left.value.code == 0
    said, printed = (" ".join(text.split()) for text in reversed(capsys.readouterr()))
    assert "5 trials, 10 trainings, 20 epochs at most" in said
    assert "CPU hours at most" in said
    assert "kind: tune" in printed
    assert not (tmp_path / "runs").exists()


def start(tune_file: Path, *overrides: str, home: Path) -> subprocess.Popen[str]:
    """A search in a process of its own, on a cluster of its own."""
    home.mkdir(exist_ok=True)
    changes = [part for override in overrides for part in ("--set", override)]
    environment = os.environ | {"HOME": str(home), "RAY_TMPDIR": f"/tmp/rs-{os.getpid()}-{home.name}"}
    return subprocess.Popen(
        [sys.executable, "-m", "rsrnet_platform", str(tune_file), *changes],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)


def kill_all(process: subprocess.Popen[str]) -> None:
    """SIGKILL the driver; its cluster, which nobody needs any more, too."""
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for member in family:
        if member.is_running():
            member.kill()
    psutil.wait_procs(family, timeout=30)


def test_a_killed_search_goes_on_where_it_was(tune_file, tmp_path) -> None:
    changes = ("fit.epochs=3", "search.scheduler=median", "cluster.address=local", "search.concurrent=1")
    undisturbed = load(tune_file, *changes, "name=undisturbed")
    whole = start(tune_file, *changes, "name=undisturbed", home=tmp_path / "a")
    job = load(tune_file, *changes)
    process = start(tune_file, *changes, home=tmp_path / "b")

    def in_the_middle() -> bool:
        trials = journal(job) if attempt(job).exists() else {}
        return any(
            t["status"] == "running" and 1 <= len(t["reports"]) < 5 and i >= 2 for i, t in trials.items()
        )

    wait_until(in_the_middle, process)
    kill_all(process)
    before = journal(job)
    _, children = runs(job)
    again = start(tune_file, *changes, home=tmp_path / "b")
    output, _ = again.communicate(timeout=300)
    assert again.returncode == 0, output
    output, _ = whole.communicate(timeout=300)
    assert whole.returncode == 0, output

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
        scores = [report["objective"] for report in trial["reports"]]
        assert scores == [report["objective"] for report in expected[index]["reports"]]
    parent, children_after = runs(job)
    assert parent.info.status == "FINISHED"
    assert {child.info.status for child in children_after.values()} == {"FINISHED"}
    assert children.items() <= {i: children_after[i] for i in children}.items() or set(children) <= set(
        children_after
    )


@pytest.mark.slow
def test_a_trial_whose_process_dies_goes_on_from_its_checkpoint(ray_cluster, tune_file, tmp_path) -> None:
    job = load(tune_file, "fit.epochs=6", "space={fit.lr: {grid: [1e-2]}}", "search.concurrent=1")
    process = start(
        tune_file,
        *(
            "fit.epochs=6",
            "space={fit.lr: {grid: [1e-2]}}",
            "search.concurrent=1",
            "cluster.address=local",
        ),
        home=tmp_path / "home",
    )
    wait_until(
        lambda: attempt(job).exists() and len(journal(job).get(0, {"reports": []})["reports"]) >= 2, process
    )
    actors = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "ray::ImplicitFunc" in " ".join(child.cmdline())
    ]
    assert actors
    for actor in actors:
        actor.kill()
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    steps = [report["step"] for report in journal(job)[0]["reports"]]
    assert steps == list(range(1, 13))
    alone = Collector()
    cross_validate(
        TrialTask(spec.training(job, journal(job)[0]["point"], "x"), job.search, frozenset()), alone
    )
    assert [report["objective"] for report in journal(job)[0]["reports"]] == [
        r["objective"] for r in alone.reports
    ]
    assert runs(job)[1][0].info.status == "FINISHED"


@pytest.mark.slow
def test_two_searches_share_a_store(tune_file, tmp_path) -> None:
    changes = ("cluster.address=local", "space={fit.lr: {grid: [1e-2, 1e-3]}}", "search.concurrent=1")
    names = ("one", "two")
    processes = [start(tune_file, *changes, f"name={name}", home=tmp_path / name) for name in names]
    for process in processes:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
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
        "cluster={workers: 2, address: local}",
        "search.scheduler=asha",
        "search.reduction_factor=2",
        "search.grace_epochs=1",
        "space={fit.lr: {grid: [1e-2, 1e-9, 1e-8]}}",
    )
    job = load(tune_file, *changes)
    process = start(tune_file, *changes, home=tmp_path / "home")
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
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
