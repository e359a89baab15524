"""`kind: iterations` and `kind: robustness`, through their job files' door."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from rsrnet import checkpoint
from rsrnet.data.lists import read_list
from rsrnet.evaluation.corruptions import CORRUPTIONS
from rsrnet.evaluation.iterations import CHANGES, COLUMNS, PHOTOGRAPH, Exit
from rsrnet.evaluation.robustness import COLUMNS as CORRUPTED
from rsrnet.model.config import RSRNetConfig, ablation
from rsrnet.model.network import RSRNet
from rsrnet.model.recurrence import IterationsError
from rsrnet_platform import evaluate, iterations, robustness, spec
from rsrnet_platform.errors import UserError
from rsrnet_platform.evaluation import iterations as iterations_report
from rsrnet_platform.evaluation import robustness as robustness_report
from rsrnet_platform.store import open_client, resolve_uri

RUN: dict[str, Callable[..., None]] = {
    "evaluate": evaluate.run,
    "iterations": iterations.run,
    "robustness": robustness.run,
}
EACH = pytest.mark.parametrize("kind", ["iterations", "robustness"])
Do = Callable[..., spec.ScoringJob]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("model")
    config = RSRNetConfig(depth=18, width=4, iterations=2)
    checkpoint.save(folder, RSRNet(config), checkpoint.ModelCard(config, size=32))
    return folder


@pytest.fixture(scope="module")
def do(squares: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Do:
    home = tmp_path_factory.mktemp("home")

    def run(kind: str, root: Path = squares, data: dict[str, Any] | None = None, **more: Any) -> Any:
        given: dict[str, Any] = {
            "kind": kind,
            "name": kind,
            "model": str(model),
            "data": {"root": str(root), "val": "le50_val.txt", "size": 32, **(data or {})},
            "batch_size": 1,
            "pictures": 0,
            "cluster": {"workers": 0},
            "tracking": {"uri": str(home / "mlflow.db")},
            "storage": str(home / "runs"),
        }
        if kind == "iterations":
            given |= {"iterations": 4, "tolerances": [0.45, 0.2, 0.001]}
        job = spec.parse({**given, **more})
        RUN[kind](job, fresh=False)
        return job

    return run


@pytest.fixture(scope="module")
def jobs(do: Do) -> dict[str, spec.ScoringJob]:
    """One job of each kind, run."""
    more = {"pictures": 2, "description": "a look inside"}
    return {kind: do(kind, **(more if kind != "evaluate" else {"native": False})) for kind in RUN}


def results(job: spec.ScoringJob) -> Path:
    return Path(job.storage) / job.name / "attempt-1" / evaluate.RESULTS


def rows(job: spec.ScoringJob) -> list[dict[str, Any]]:
    return pq.read_table(results(job) / "images.parquet").to_pylist()


def summary(job: spec.ScoringJob) -> dict[str, Any]:
    return json.loads((results(job) / "summary.json").read_text())


def logged(job: spec.ScoringJob) -> tuple[Any, Any]:
    client = open_client(resolve_uri(job.tracking))
    experiment = client.get_experiment_by_name(job.tracking.experiment)
    (run,) = client.search_runs([experiment.experiment_id], f"attributes.run_name = '{job.name}'")
    return client, run


def one_image(squares: Path, tmp_path: Path) -> Path:
    root = tmp_path / "one"
    shutil.copytree(squares, root)
    first = (root / "le50_test.txt").read_text().splitlines()[0]
    (root / "le50_test.txt").write_text(first + "\n")
    return root


@EACH
def test_what_is_in_the_folder_is_in_mlflow_too(jobs: dict[str, spec.ScoringJob], kind: str) -> None:
    job = jobs[kind]
    client, run = logged(job)
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.note.content"] == "a look inside"
    kept = {Path(each.path).name for each in client.list_artifacts(run.info.run_id, evaluate.RESULTS)}
    written = {path.name for path in results(job).iterdir()}
    assert kept == written
    pictures = {"iterations": {"strips.png"}, "robustness": {"examples-1.png", "examples-2.png"}}[kind]
    tables = {"images.parquet", f"{kind}.csv", "summary.json", "report.md"}
    assert written == {f"{kind}.png", *tables, *pictures}
    for picture in (*pictures, f"{kind}.png"):
        with Image.open(results(job) / picture) as image:
            assert np.asarray(image.convert("L")).std() > 10
    report = (results(job) / "report.md").read_text()
    assert all(sentence in report for sentence in summary(job)["in_words"])


def test_training_and_clean_scores_are_those_of_an_evaluation(jobs: dict[str, spec.ScoringJob]) -> None:
    expected, iterated, changed = (rows(jobs[kind]) for kind in RUN)
    for wanted, by_k, by_strength in zip(expected, iterated, changed, strict=True):
        assert wanted["path"] == by_k["path"] == by_strength["path"]
        for column in COLUMNS:
            mask, metric = column.split(".")
            score = wanted[f"{mask}.published.input.{metric}"]
            assert by_k[column][1] == pytest.approx(score, abs=1e-6)  # trained with K = 2
            for corruption in CORRUPTIONS:
                assert by_strength[f"{corruption}.{column}"][0] == pytest.approx(score, abs=1e-6)


def test_curves_over_k_are_means_of_the_images(jobs: dict[str, spec.ScoringJob]) -> None:
    job = jobs["iterations"]
    found = rows(job)
    client, run = logged(job)
    for column in ("m_rsr.ap", "m_dec.iou", "m_fnl.f1"):
        means = np.mean([row[column] for row in found], axis=0)
        assert len(means) == 4
        history = client.get_metric_history(run.info.run_id, column.replace(".", "/"))
        assert {point.step: point.value for point in history} == pytest.approx(dict(enumerate(means, 1)))
        with (results(job) / "iterations.csv").open() as file:
            assert [float(row[column]) for row in csv.DictReader(file)] == pytest.approx(means)
    medians = np.median([row[CHANGES] for row in found], axis=0)
    assert [row["change.median"] for row in summary(job)["iterations"]] == pytest.approx(medians)


def test_early_exits_are_what_a_plain_loop_finds(jobs: dict[str, spec.ScoringJob]) -> None:
    job = jobs["iterations"]
    found, told = rows(job), summary(job)
    _, run = logged(job)
    for made, time in zip(told["early_exit"], told["times"][1:], strict=True):
        tolerance = made["tolerance"]
        stops = [next((k for k in (0, 1) if row[CHANGES][k] <= tolerance), 1) for row in found]
        f1 = np.mean([row["m_fnl.f1"][k] for row, k in zip(found, stops, strict=True)])
        assert made["iterations"] == pytest.approx(np.mean(stops) + 1)
        assert made["scores"]["m_fnl.f1"] == pytest.approx(f1)
        key = f"early_exit/{tolerance:g}"
        assert run.data.metrics[f"{key}/m_fnl/f1"] == pytest.approx(f1)
        assert run.data.metrics[f"{key}/time_saved"] == pytest.approx(time["saved"])
    assert [time["tolerance"] for time in told["times"]] == [None, 0.45, 0.2, 0.001]


def test_curves_over_strengths_are_means_of_the_images(jobs: dict[str, spec.ScoringJob]) -> None:
    job = jobs["robustness"]
    found = rows(job)
    client, run = logged(job)
    history = client.get_metric_history(run.info.run_id, "jpeg/m_fnl/f1")
    means = np.mean([row["jpeg.m_fnl.f1"] for row in found], axis=0)
    assert {point.step: point.value for point in history} == pytest.approx(dict(enumerate(means)))
    with (results(job) / "robustness.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [(row["corruption"], row["strength"]) for row in table] == [
        (name, str(strength)) for name in CORRUPTIONS for strength in range(6)
    ]
    assert [float(row["m_fnl.f1"]) for row in table if row["corruption"] == "jpeg"] == pytest.approx(means)


@EACH
@pytest.mark.ray
def test_workers_find_the_same(
    ray_cluster: object, do: Do, jobs: dict[str, spec.ScoringJob], kind: str
) -> None:
    shared = do(kind, name=f"shared-{kind}", cluster={"workers": 2})
    columns = [*COLUMNS, CHANGES] if kind == "iterations" else CORRUPTED
    for one, other in zip(rows(jobs[kind]), rows(shared), strict=True):
        assert one["path"] == other["path"]
        for column in columns:
            assert one[column] == pytest.approx(other[column], abs=1e-6)


@EACH
def test_single_image_without_examples(do: Do, squares: Path, tmp_path: Path, kind: str) -> None:
    more = {"tolerances": []} if kind == "iterations" else {}
    job = do(kind, one_image(squares, tmp_path), name=f"one-{kind}", **more)
    assert len(rows(job)) == 1
    assert "nan" not in (results(job) / "report.md").read_text()
    assert {path.suffix for path in results(job).iterdir()} == {".png", ".csv", ".parquet", ".json", ".md"}


@EACH
def test_damaged_image_is_skipped_by_name(do: Do, squares: Path, tmp_path: Path, kind: str) -> None:
    root = tmp_path / "damaged"
    shutil.copytree(squares, root)
    bad = read_list(root, "le50_test.txt")[2]
    (root / bad.path).write_bytes(b"")
    job = do(kind, root, {"on_bad_image": "skip"}, name=f"damaged-{kind}", pictures=1)
    assert [bool(row["error"]) for row in rows(job)] == [False, False, True, False, False]
    assert bad.path in rows(job)[2]["error"]
    assert summary(job)["images"] == 4


def test_models_without_enough_iterations_are_refused_before_anything_starts(
    do: Do, model: Path, tmp_path: Path
) -> None:
    where = {"storage": str(tmp_path / "runs"), "tracking": {"uri": str(tmp_path / "mlflow.db")}}
    with pytest.raises(UserError, match=r"iterations = 1: .* was trained with 2"):
        do("iterations", iterations=1, **where)
    config = ablation("unet", RSRNetConfig(depth=18, width=4, iterations=2))
    checkpoint.save(tmp_path / "unet", RSRNet(config), checkpoint.ModelCard(config, size=32))
    with pytest.raises(IterationsError, match="without RSR module"):
        do("iterations", model=str(tmp_path / "unet"), **where)
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "mlflow.db").exists()
    assert summary(do("robustness", name="unet", model=str(tmp_path / "unet")))["images"] == 5


def outcome(f1: list[float], saved: list[float], lost: list[float]) -> iterations_report.Outcome:
    """Two images alike, trained with K = 2."""
    lists = {column: np.array([f1, f1]) for column in (*COLUMNS, CHANGES)}
    lists[PHOTOGRAPH] = np.array([0.0, 1.0])
    exits = [
        Exit(0.1 / (index + 1), 1.5, dict.fromkeys(COLUMNS, f1[1] - loss), dict.fromkeys(COLUMNS, 0.0))
        for index, loss in enumerate(lost)
    ]
    times = [{"tolerance": None, "seconds": 1.0, "saved": 0.0}]
    times += [
        {"tolerance": each.tolerance, "seconds": 1 - s, "saved": s}
        for each, s in zip(exits, saved, strict=True)
    ]
    return iterations_report.Outcome("n", "m", 32, 2, [{}, {}], lists, exits, times)


def test_words_say_which_k_and_which_tolerance_are_worth_it() -> None:
    best, spared = iterations_report.sentences(outcome([0.5, 0.6, 0.7], [0.4, 0.3], [0.1, 0.004]))
    assert "best at K = 3: F1 +0.1000 ± 0.0000 against K = 2 of the training, more than twice" in best
    assert "tolerance of 0.05: 1.5 of 2 iterations" in spared  # the first saves more, and costs too much
    assert "30 % of the time saved" in spared
    flat, costly = iterations_report.sentences(outcome([0.5, 0.6, 0.604], [0.4], [0.1]))
    assert flat.startswith("No K up to 3 beats")
    assert costly == "Every early exit costs more than half a point of F1."


def test_words_say_what_costs_most_and_least() -> None:
    row = {column: [0.8, 0.7, 0.7, 0.7, 0.7, 0.6] for column in CORRUPTED}
    row["exposure.m_fnl.f1"][5] = 0.1
    row["resize.m_fnl.f1"] = [0.8, 0.8, 0.8, 0.8, 0.8, 0.9]
    (said,) = robustness_report.sentences(
        robustness_report.Outcome("n", "m", 32, [row | {"group": group} for group in "ab"])
    )
    assert "0.800 on clean images" in said
    assert "exposure costs most (-0.7000 ± 0.0000)" in said
    assert "resizing costs least (+0.1000 ± 0.0000)" in said
