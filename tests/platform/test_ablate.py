"""Ablations from the job file to the paper's tables, on real Ray and a real store."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from rsrnet import checkpoint
from rsrnet.data.iharmony4 import IHarmony4
from rsrnet.data.lists import read_list
from rsrnet.data.loader import loader
from rsrnet.data.sampler import evaluation_batches
from rsrnet.data.transforms import EvalTransform
from rsrnet.model.config import ABLATIONS, ablation
from rsrnet.validation import evaluate
from rsrnet_platform import ablate, cli, spec, train
from rsrnet_platform.errors import UserError
from rsrnet_platform.store import open_client, resolve_uri
from tests.faults.processes import kill_all
from tests.platform.tuning import attempt, journal

pytestmark = pytest.mark.ray

METRICS = ("ap", "f1", "iou")


def job_file(folder: Path, root: Path) -> Path:
    path = folder / "ablation.yaml"
    path.write_text(f"""{spec.FIRST_LINE}
kind: ablate
name: rows
data: {{root: {root}, val_fraction: 0.3, size: 32, loader_processes: 0}}
model: {{depth: 18, width: 4, iterations: 2, scales: [0, 1]}}
fit: {{epochs: 2, batch_size: 4, lr: 1e-2, milestones: [], encoder_weights: none, seed: 7}}
storage: {folder / "runs"}
tracking: {{uri: {folder / "mlflow.db"}}}
""")
    return path


def load(path: Path, *overrides: str) -> spec.AblateJob:
    job = spec.load(path, overrides)
    assert isinstance(job, spec.AblateJob)
    return job


def lines(job: spec.AblateJob, name: str) -> list[dict[str, Any]]:
    return pq.read_table(attempt(job) / ablate.RESULTS / f"{name}.parquet").to_pylist()


def runs(job: spec.AblateJob) -> tuple[Any, dict[str, Any]]:
    """MLflow's run of an ablation, and those of its trainings by their names."""
    client = open_client(resolve_uri(job.tracking))
    experiment = client.get_experiment_by_name(job.tracking.experiment)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], max_results=1000)
    (parent,) = (run for run in found if run.info.run_name == job.name)
    children = [run for run in found if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    names = [run.info.run_name for run in children]
    assert len(names) == len(set(names)), "a training has two runs"
    return parent, dict(zip(names, children, strict=True))


def scores_by_hand(job: spec.AblateJob, model: Path) -> dict[str, float]:
    """Means over the test list by the training loop's own evaluation."""
    test = read_list(job.data.root, job.data.test)
    dataset = IHarmony4(job.data.root, test, EvalTransform(job.data.size))
    batches = loader(dataset, evaluation_batches(len(test), 16, 0, 1), 0)
    found = evaluate(checkpoint.load_model(model), batches, "cpu")
    return {
        f"{mask}/{metric}": found[f"val/{metric}" if mask == "m_fnl" else f"val/{mask}/{metric}"]
        for mask in ("m_fnl", "m_rsr", "m_dec")
        for metric in METRICS
    }


@dataclass
class Ablated:
    """One ablation of all rows that the tests share."""

    job: spec.AblateJob
    tables: str
    said: str

    def again(self, *overrides: str) -> tuple[str, str]:
        """Run it again; what it prints on the standard output, and says."""
        return run(load(Path(self.job.storage).parent / "ablation.yaml", *overrides))


def run(job: spec.AblateJob) -> tuple[str, str]:
    with redirect_stdout(io.StringIO()) as printed, redirect_stderr(io.StringIO()) as said:
        ablate.run(job, fresh=False)
    return printed.getvalue(), said.getvalue()


@pytest.fixture(scope="module")
def ablated(
    _ray_cluster_of_the_session: Any,
    squares_of_six_photographs: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Ablated:
    import ray

    if not ray.is_initialized():
        ray.init(address=_ray_cluster_of_the_session.address, log_to_driver=False)
    job = load(job_file(tmp_path_factory.mktemp("ablation"), squares_of_six_photographs))
    return Ablated(job, *run(job))


def test_every_row_gets_the_same_and_differs_as_table_2_says(ablated: Ablated) -> None:
    job = ablated.job
    trials = journal(job)
    assert [trial["point"]["row"] for trial in trials.values()] == list(ABLATIONS)
    assert {(trial["status"], len(trial["reports"])) for trial in trials.values()} == {("finished", 2)}
    parent, children = runs(job)
    assert {run.info.status for run in [parent, *children.values()]} == {"FINISHED"}
    full = children["rows-full-7"].data.params
    for row, changes in ABLATIONS.items():
        params = children[f"rows-{row}-7"].data.params
        differing = {key for key in full if params[key] != full[key]} - {"name"}
        assert differing == {f"model.{key}" for key in changes}
        card = checkpoint.read_card(attempt(job) / ablate.MODELS / f"{row}-7")
        assert card.model == ablation(row, job.model)
        best = max(report["score"] for report in trials[list(ABLATIONS).index(row) + 1]["reports"])
        assert card.metrics["val/iou"] == best


def test_a_row_is_what_kind_train_makes_of_its_job_file(ablated: Ablated, tmp_path: Path) -> None:
    """Same images held out, same order, same seed, same best epoch: the weights are equal."""
    _, children = runs(ablated.job)
    client = open_client(resolve_uri(ablated.job.tracking))
    client.download_artifacts(children["rows-without_gru-7"].info.run_id, "job.yaml", str(tmp_path))
    overrides = (f"storage={tmp_path}", f"tracking.uri={tmp_path}/m.db", "cluster.workers=0")
    alone = spec.load(tmp_path / "job.yaml", overrides)
    assert isinstance(alone, spec.TrainJob)
    train.run(alone, fresh=False)
    kept = attempt(ablated.job) / ablate.MODELS / "without_gru-7"
    epoch = checkpoint.read_card(kept).epoch
    theirs = checkpoint.load_model(tmp_path / alone.name / "attempt-1" / f"checkpoint-{epoch:06d}")
    ours = checkpoint.load_model(kept).state_dict()
    assert all(torch.equal(ours[name], value) for name, value in theirs.state_dict().items())


def test_scores_are_those_of_the_kept_models(ablated: Ablated) -> None:
    parent, children = runs(ablated.job)
    found = {(line["row"], line["mask"], line["metric"]): line for line in lines(ablated.job, "rows")}
    trainings = {line["row"]: line for line in lines(ablated.job, "trainings")}
    every = {}
    for row in ABLATIONS:
        expected = scores_by_hand(ablated.job, attempt(ablated.job) / ablate.MODELS / f"{row}-7")
        every[row] = expected
        for name, value in expected.items():
            mask, metric = name.split("/")
            if (row, mask) == ("unet", "m_rsr"):
                assert (row, mask, metric) not in found
                continue
            assert found[row, mask, metric]["ours"] == pytest.approx(value, abs=1e-6)
            assert parent.data.metrics[f"{row}/{name}"] == pytest.approx(value, abs=1e-6)
            assert children[f"rows-{row}-7"].data.metrics[f"test/{name}"] == pytest.approx(value, abs=1e-6)
            assert trainings[row][f"{mask}_{metric}"] == pytest.approx(value, abs=1e-6)
    for row in set(ABLATIONS) - {"full"}:
        expected_difference = every[row]["m_fnl/iou"] - every["full"]["m_fnl/iou"]
        assert found[row, "m_fnl", "iou"]["difference"] == pytest.approx(expected_difference, abs=1e-6)
    with (attempt(ablated.job) / ablate.RESULTS / "rows.csv").open() as file:
        assert [line["row"] for line in csv.DictReader(file)] == [row for row, _, _ in found]
    assert len(lines(ablated.job, "images")) == 9 * 5


def test_the_papers_tables_are_printed_with_ours_beside_them(ablated: Ablated) -> None:
    table_2, table_3, _ = ablated.tables.split("Table 2")[1].replace("IoU % of", "Table 3").split("Table 3")
    ours = {(line["row"], line["mask"], line["metric"]): line["ours"] for line in lines(ablated.job, "rows")}

    def cells(table: str, start: str) -> list[str]:
        (line,) = (line for line in table.splitlines() if line.startswith(f"│ {start} "))
        return [cell.strip().split(" ± ")[0] for cell in line.strip("│").split("│")]

    # As section 4.4 prints them.
    assert cells(table_2, "5 w/o GRU") == [
        "5 w/o GRU",
        "81.66",
        f"{100 * ours['without_gru', 'm_fnl', 'ap']:.1f}",
        "0.7564",
        f"{ours['without_gru', 'm_fnl', 'f1']:.3f}",
        "70.52",
        f"{100 * ours['without_gru', 'm_fnl', 'iou']:.1f}",
    ]
    assert cells(table_3, "full")[:4] == ["full", "rsr", "82.19", f"{100 * ours['full', 'm_rsr', 'ap']:.1f}"]
    assert "compare signs and order, not values" in " ".join(ablated.said.split())
    assert "Each row was trained once" in ablated.said
    assert max(map(len, ablated.tables.splitlines())) <= 100
    report = (attempt(ablated.job) / ablate.RESULTS / "report.md").read_text()
    assert "| 8 w/o weighted upsample | 81.24 |" in report
    assert (attempt(ablated.job) / ablate.RESULTS / "differences.png").stat().st_size > 0
    client = open_client(resolve_uri(ablated.job.tracking))
    artifacts = {item.path for item in client.list_artifacts(runs(ablated.job)[0].info.run_id, "ablation")}
    assert {"ablation/report.md", "ablation/rows.csv", "ablation/differences.png"} <= artifacts


def test_what_is_done_is_not_done_again(ablated: Ablated) -> None:
    """Killed while it tested: only what was lost is tested again; nothing is trained."""
    before = journal(ablated.job)
    folder = attempt(ablated.job)
    (lost, damaged, *kept) = sorted((folder / ablate.SCORES).rglob("*.json"))
    whole, times = lost.read_text(), {path: path.stat().st_mtime_ns for path in kept}
    lost.unlink()
    damaged.write_text('[{"path": "Sam')
    shutil.rmtree(folder / ablate.RESULTS)
    tables, _ = ablated.again()
    assert tables == ablated.tables
    assert json.loads(lost.read_text()) == json.loads(whole)
    assert len(json.loads(damaged.read_text())) == 5
    assert {path: path.stat().st_mtime_ns for path in kept} == times
    assert journal(ablated.job) == before


def test_a_row_that_failed_is_told_of_and_the_others_stand(ablated: Ablated) -> None:
    path = attempt(ablated.job) / "trials" / "0001.json"
    whole = path.read_text()
    path.write_text(json.dumps(json.loads(whole) | {"status": "diverged", "error": "the loss is nan"}))
    try:
        tables, said = ablated.again()
        assert "unet-7 is missing: diverged, the loss is nan" in said
        assert "UNet + RSR" in tables
        assert "1 UNet " not in tables
        status = {line["row"]: line["status"] for line in lines(ablated.job, "trainings")}
        assert (status["unet"], status["rsr"]) == ("diverged", "finished")
    finally:
        path.write_text(whole)


def test_more_repeats_and_rows_continue_an_ablation(
    ray_cluster, squares_of_six_photographs, tmp_path
) -> None:
    path = job_file(tmp_path, squares_of_six_photographs)
    job = load(path, "rows=[full]", "fit.epochs=1")
    tables, _ = run(job)
    assert "IoU % of" not in tables
    first = journal(job)
    tables, said = run(load(path, "rows=[full, unet]", "fit.epochs=1", "repeats=2"))
    after = journal(job)
    assert {index: after[index] for index in first} == first
    assert {(trial["point"]["row"], trial["point"]["fit.seed"]) for trial in after.values()} == {
        ("full", 7),
        ("full", 8),
        ("unet", 7),
        ("unet", 8),
    }
    assert "± s.d." in tables
    assert "trained once" not in said
    found = {(line["row"], line["seed"]): line["m_fnl_iou"] for line in lines(job, "trainings")}
    assert found["full", 7] != found["full", 8]
    (line,) = (
        line
        for line in lines(job, "rows")
        if (line["row"], line["mask"], line["metric"]) == ("unet", "m_fnl", "iou")
    )
    both = torch.tensor([found["unet", seed] - found["full", seed] for seed in (7, 8)], dtype=torch.float64)
    assert line["difference"] == pytest.approx(both.mean().item())
    assert line["difference_seed_deviation"] == pytest.approx(both.std().item())
    with pytest.raises(UserError, match=r"fit.epochs: 1, now 2"):
        run(load(path, "rows=[full]"))


@pytest.mark.slow
def test_models_of_trainings_with_workers_of_their_own_are_kept(
    ray_cluster, squares_of_six_photographs, tmp_path
) -> None:
    job = load(
        job_file(tmp_path, squares_of_six_photographs),
        *("rows=[similarity_only]", "cluster.workers=2", "fit.epochs=3"),
    )
    run(job)
    (trial,) = journal(job).values()
    card = checkpoint.read_card(attempt(job) / ablate.MODELS / "similarity_only-7")
    assert card.metrics["val/iou"] == trial["reports"][-1]["score"]
    (line,) = lines(job, "trainings")
    expected = scores_by_hand(job, Path(line["model"]))
    assert line["m_fnl_iou"] == pytest.approx(expected["m_fnl/iou"], abs=1e-6)
    assert not (attempt(job) / "trials" / "0003").exists()


def test_no_row_trained_is_an_error(ray_cluster, squares_of_six_photographs, tmp_path) -> None:
    job = load(job_file(tmp_path, squares_of_six_photographs), "rows=[full]", "fit.lr=1e+30")
    with pytest.raises(UserError, match=r"(?s)No row of rows was trained to the end: .*lower fit.lr"):
        run(job)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rows=[unett, full]", "the nearest is unet"),
        ("rows=[full, full]", "different rows of Table 2"),
        ("rows=[]", "at least one"),
        ("model.reasoning=conv", "model.reasoning = 'conv': gru, the full model's"),
        ("model.scales=[]", "at least one scale"),
        ("repeats=0", "a whole number, at least 1"),
        ("cluster.workers=0", "run on Ray"),
        ("data.test=none.txt", "there is no list"),
    ],
)
def test_what_a_user_gets_wrong_is_one_message_and_leaves_nothing(
    override, message, ray_cluster, squares_of_six_photographs, tmp_path, capsys
) -> None:
    path = job_file(tmp_path, squares_of_six_photographs)
    with pytest.raises(SystemExit) as left:
        cli.main(["run", str(path), "--set", override])
    assert left.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert sorted(item.name for item in tmp_path.iterdir() if item.name != "runs") == ["ablation.yaml"]
    assert not (tmp_path / "runs" / "rows").exists()


def test_a_damaged_test_image_is_told_before_anything_is_trained(
    ray_cluster, squares_of_six_photographs, tmp_path, capsys
) -> None:
    root = tmp_path / "data"
    shutil.copytree(squares_of_six_photographs, root)
    broken = root / read_list(root, "le50_test.txt")[0].path
    broken.write_bytes(broken.read_bytes()[:100])
    path = job_file(tmp_path, root)
    with pytest.raises(SystemExit) as left:
        cli.main(["run", str(path), "--set", "rows=[unet]"])
    assert left.value.code == 2
    assert broken.name in capsys.readouterr().err
    assert not (tmp_path / "runs" / "rows").exists()

    job = load(path, "rows=[unet]", "data.on_bad_image=skip", "fit.epochs=1")
    run(job)
    assert len(lines(job, "images")) == 4


def test_a_dry_run_counts_and_starts_nothing(squares_of_six_photographs, tmp_path, capsys) -> None:
    path = job_file(tmp_path, squares_of_six_photographs)
    with pytest.raises(SystemExit) as left:
        cli.main(["run", str(path), "--dry-run", "--set", "cluster.address=local", "--set", "repeats=2"])
    assert left.value.code == 0
    said, printed = (" ".join(text.split()) for text in reversed(capsys.readouterr()))
    assert "18 trials, 18 trainings, 36 epochs at most" in said
    assert "CPU hours at most" in said
    assert "kind: ablate" in printed
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def started(squares_of_six_photographs: Path, tmp_path: Path) -> Iterator[Any]:
    """Starts an ablation in a process of its own, on a cluster of its own."""
    home = tmp_path / "home"
    home.mkdir()
    path = job_file(tmp_path, squares_of_six_photographs)
    processes = []

    def start(*overrides: str) -> subprocess.Popen[str]:
        changes = [part for override in overrides for part in ("--set", override)]
        environment = os.environ | {"HOME": str(home), "RAY_TMPDIR": f"/tmp/rs-{os.getpid()}-ablate"}
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "rsrnet_platform", str(path), *changes],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        return processes[-1]

    yield start
    for process in processes:
        kill_all(process)


@pytest.mark.slow
def test_a_killed_ablation_goes_on_where_it_was(started, tmp_path, ablated: Ablated) -> None:
    changes = (
        "cluster.address=local",
        "rows=[unet, without_msm]",
        "concurrent=1",
    )
    job = load(tmp_path / "ablation.yaml", *changes)
    process = started(*changes)
    while not (attempt(job).exists() and journal(job).get(6, {}).get("reports")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    kill_all(process)
    before = journal(job)
    again = started(*changes)
    output, _ = again.communicate(timeout=300)
    assert again.returncode == 0, output
    after = journal(job)
    assert after[1] == before[1]  # not trained again
    assert after[6]["reports"][: len(before[6]["reports"])] == before[6]["reports"]
    # As if nothing had happened.
    for name in ("unet-7", "without_msm-7"):
        ours = checkpoint.load_model(attempt(job) / ablate.MODELS / name).state_dict()
        undisturbed = checkpoint.load_model(attempt(ablated.job) / ablate.MODELS / name).state_dict()
        assert all(torch.equal(ours[key], value) for key, value in undisturbed.items())
    parent, children = runs(job)
    assert {run.info.status for run in [parent, *children.values()]} == {"FINISHED"}
    assert set(children) == {"rows-unet-7", "rows-without_msm-7"}
