"""Searches from the job file to the registered model, on real Ray and a real store."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from rsrnet_platform import cli, spec, tune
from rsrnet_platform.errors import UserError
from rsrnet_platform.search.cross_validation import TrialTask, cross_validate
from rsrnet_platform.store import open_client, resolve_uri
from tests.platform.tuning import Collector, attempt, journal, load, objectives, rows, runs, write_grid_file

PAPER = {"model.iterations": 12, "fit.lr": 1e-4}

pytestmark = pytest.mark.ray


@pytest.fixture
def tune_file(squares_of_six_photographs: Path, tmp_path: Path) -> Path:
    return write_grid_file(tmp_path, squares_of_six_photographs)


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
    assert objectives(heard) == objectives(alone.reports)
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


def test_a_dry_run_counts_and_starts_nothing(tune_file, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["run", str(tune_file), "--dry-run", "--set", "cluster.address=local"])
    assert left.value.code == 0
    said, printed = (" ".join(text.split()) for text in reversed(capsys.readouterr()))
    assert "5 trials, 10 trainings, 20 epochs at most" in said
    assert "CPU hours at most" in said
    assert "kind: tune" in printed
    assert not (tmp_path / "runs").exists()
