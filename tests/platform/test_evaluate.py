"""`kind: evaluate`, through its job file's door."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from rsrnet import checkpoint
from rsrnet.data.errors import BadDataError
from rsrnet.data.iharmony4 import IHarmony4
from rsrnet.data.lists import read_list, read_train_val
from rsrnet.data.loader import loader
from rsrnet.data.sampler import evaluation_batches
from rsrnet.data.transforms import EvalTransform
from rsrnet.evaluation.measure import Evaluator
from rsrnet.model.config import RSRNetConfig
from rsrnet.model.network import RSRNet
from rsrnet.validation import evaluate as engine_evaluate
from rsrnet_platform import evaluate, spec
from rsrnet_platform.errors import UserError
from rsrnet_platform.lookup import RegistryError
from rsrnet_platform.store import open_client, resolve_uri

MakeJob = Callable[..., spec.EvaluateJob]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("model")
    config = RSRNetConfig(depth=18, width=4, iterations=2)
    checkpoint.save(folder, RSRNet(config), checkpoint.ModelCard(config, size=32))
    return folder


@pytest.fixture
def make(squares: Path, model: Path, tmp_path: Path) -> MakeJob:
    def job(root: Path = squares, data: dict[str, Any] | None = None, **more: Any) -> spec.EvaluateJob:
        made = spec.parse(
            {
                "kind": "evaluate",
                "name": "scores",
                "model": str(model),
                "data": {"root": str(root), "val": "le50_val.txt", "size": 32, **(data or {})},
                "batch_size": 1,
                "pictures": 2,
                "cluster": {"workers": 0},
                "tracking": {"uri": str(tmp_path / "mlflow.db")},
                "storage": str(tmp_path / "runs"),
                **more,
            }
        )
        assert isinstance(made, spec.EvaluateJob)
        return made

    return job


def results(job: spec.EvaluateJob, attempt: int = 1) -> Path:
    return Path(job.storage) / job.name / f"attempt-{attempt}" / evaluate.RESULTS


def rows(job: spec.EvaluateJob, attempt: int = 1) -> list[dict[str, Any]]:
    return pq.read_table(results(job, attempt) / "images.parquet").to_pylist()


def runs_of(job: spec.EvaluateJob) -> list[Any]:
    client = open_client(resolve_uri(job.tracking))
    experiment = client.get_experiment_by_name(job.tracking.experiment)
    return list(client.search_runs([experiment.experiment_id]))


def test_numbers_are_those_of_the_training_loop(
    make: MakeJob, squares: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = make()
    evaluate.run(job, fresh=False)
    test = read_list(squares, "le50_test.txt")
    images = loader(IHarmony4(squares, test, EvalTransform(32)), evaluation_batches(len(test), 2, 0, 1), 0)
    wanted = engine_evaluate(checkpoint.load_model(model), images, "cpu")
    (run,) = runs_of(job)
    assert run.info.status == "FINISHED"
    for mask, prefix in (("m_fnl", "val/"), ("m_rsr", "val/m_rsr/"), ("m_dec", "val/m_dec/")):
        for metric in ("ap", "f1", "iou"):
            assert run.data.metrics[f"All/{mask}/{metric}"] == pytest.approx(
                wanted[prefix + metric], abs=1e-6
            )
    assert len(rows(job)) == len(test)
    assert f"{100 * wanted['val/ap']:.2f}" in capsys.readouterr().out


def test_everything_is_in_the_folder_and_in_mlflow(make: MakeJob) -> None:
    job = make(description="as a test")
    evaluate.run(job, fresh=False)
    (run,) = runs_of(job)
    client = open_client(resolve_uri(job.tracking))
    kept = {Path(each.path).name for each in client.list_artifacts(run.info.run_id, evaluate.RESULTS)}
    written = {path.name for path in results(job).iterdir()}
    assert kept == written
    assert written >= {"images.parquet", "summary.json", "report.md", "best.png", "median.png", "worst.png"}
    report = (results(job) / "report.md").read_text()
    assert all(f"]({name})" in report for name in written - {"report.md", "summary.json"})
    assert run.data.tags["mlflow.note.content"] == "as a test"
    means = {part["name"]: part for part in json.loads((results(job) / "summary.json").read_text())["slices"]}
    assert means["All"]["images"] == 5
    found = [row["m_dec.raw.native.iou"] for row in rows(job)]
    assert means["All"]["means"]["m_dec.raw.native.iou"] == pytest.approx(sum(found) / 5)
    assert not list((Path(job.storage) / job.name / "attempt-1").glob("rows-*"))


@pytest.mark.ray
def test_any_number_of_workers_gives_the_same_numbers(ray_cluster: object, make: MakeJob) -> None:
    alone = make(name="alone", batch_size=2)
    evaluate.run(alone, fresh=False)
    for workers in (1, 3):
        shared = make(name=f"by-{workers}", batch_size=2, cluster={"workers": workers})
        evaluate.run(shared, fresh=False)
        for one, other in zip(rows(alone), rows(shared), strict=True):
            assert one == pytest.approx(other, abs=1e-6)


def test_registered_model_is_pinned_to_its_version(make: MakeJob, model: Path, tmp_path: Path) -> None:
    from rsrnet_platform import registry
    from rsrnet_platform.store import prepare
    from rsrnet_platform.tracking import Tracker

    job = make(
        model="models:/squares@champion", tracking={"uri": str(tmp_path / "mlflow.db"), "model": "squares"}
    )
    uri = prepare(job.tracking)
    with Tracker.of_attempt(uri, job.tracking, "t", "a", params={}, tags={}, job_yaml="") as tracker:
        registry.register(uri, tracker.run_id, model, job.tracking, metrics={"val/iou": 0.1}, tags={})
    evaluate.run(job, fresh=False)
    (run,) = [run for run in runs_of(job) if run.info.run_name == "scores"]
    assert run.data.params["model"] == run.data.tags["model"] == "models:/squares/1"
    of_run = make(name="of-run", model=f"runs:/{tracker.run_id}")
    evaluate.run(of_run, fresh=False)
    assert rows(of_run) == rows(job)


def test_unknown_model_is_refused_before_anything_starts(make: MakeJob, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"no-model.*has no model\.safetensors"):
        evaluate.run(make(model=str(tmp_path / "no-model")), fresh=False)
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "mlflow.db").exists()


def test_killed_job_goes_on_in_the_same_run(make: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make()
    scored: list[str] = []
    plain = Evaluator.__call__

    def counting(self: Evaluator, composites: Any) -> Any:
        if len(scored) == 4:
            raise KeyboardInterrupt
        scored.extend(composite.path for composite in composites)
        return plain(self, composites)

    monkeypatch.setattr(Evaluator, "__call__", counting)
    with pytest.raises(KeyboardInterrupt):
        evaluate.run(job, fresh=False)
    assert [run.info.status for run in runs_of(job)] == ["KILLED"]
    assert len(scored) == 4
    scored.append("the interruption")
    evaluate.run(job, fresh=False)
    assert len(scored) == 6  # the fifth image alone
    assert [run.info.status for run in runs_of(job)] == ["FINISHED"]
    monkeypatch.undo()
    again = make(name="again")
    evaluate.run(again, fresh=False)
    assert rows(job) == rows(again)


def test_finished_or_fresh_evaluation_is_another_run(make: MakeJob) -> None:
    job = make()
    evaluate.run(job, fresh=False)
    evaluate.run(job, fresh=False)
    evaluate.run(job, fresh=True)
    assert rows(job, 1) == rows(job, 2) == rows(job, 3)
    assert [run.info.status for run in runs_of(job)] == ["FINISHED"] * 3


def test_validation_images_are_those_that_a_training_held_out(
    make: MakeJob, squares_of_six_photographs: Path
) -> None:
    job = make(squares_of_six_photographs, {"val": None, "val_fraction": 0.3}, split="val", seed=5)
    evaluate.run(job, fresh=False)
    held_out = read_train_val(job.data, 5).val
    assert [row["path"] for row in rows(job)] == [composite.path for composite in held_out]


def test_images_of_training_photographs_are_left_out_of_a_slice_of_its_own(
    make: MakeJob, squares: Path, tmp_path: Path
) -> None:
    root = tmp_path / "leaking"
    shutil.copytree(squares, root)
    lines = (root / "le50_test.txt").read_text().splitlines()
    with (root / "le50_train.txt").open("a") as train:
        train.write(f"{lines[0]}\n{lines[3]}\n")
    job = make(root)
    evaluate.run(job, fresh=False)
    slices = {
        part["name"]: part for part in json.loads((results(job) / "summary.json").read_text())["slices"]
    }
    clean = [rows(job)[index]["m_fnl.published.input.f1"] for index in (1, 2, 4)]
    unseen = slices["Sample, leak-free"]
    assert unseen["images"] == 3
    assert unseen["means"]["m_fnl.published.input.f1"] == pytest.approx(sum(clean) / 3)


def test_missing_file_is_refused_before_anything_starts(make: MakeJob, squares: Path, tmp_path: Path) -> None:
    root = tmp_path / "incomplete"
    shutil.copytree(squares, root)
    lost = read_list(root, "le50_test.txt")[2]
    (root / lost.mask_path).unlink()
    with pytest.raises(BadDataError, match=f"{lost.mask_path}: there is no such file"):
        evaluate.run(make(root), fresh=False)
    assert not (tmp_path / "runs/scores").exists()


def test_damaged_image_stops_or_is_skipped_by_name(
    make: MakeJob, squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "damaged"
    shutil.copytree(squares, root)
    bad = read_list(root, "le50_test.txt")[2]
    (root / bad.path).write_bytes((root / bad.path).read_bytes()[:200])
    with pytest.raises(
        BadDataError, match=f"1 of 5 composites cannot be used:\n  {bad.path}: cannot be decoded"
    ):
        evaluate.run(make(root), fresh=False)
    job = make(root, {"on_bad_image": "skip"}, name="skipping")
    evaluate.run(job, fresh=False)
    assert bad.path in capsys.readouterr().err
    errors = [row["error"] for row in rows(job)]
    assert [error is None for error in errors] == [True, True, False, True, True]
    slices = json.loads((results(job) / "summary.json").read_text())["slices"]
    assert slices[-1]["images"] == 4


def test_run_of_another_kind_is_left_alone(make: MakeJob) -> None:
    job = make()
    state = Path(job.storage) / job.name / "state.json"
    evaluate.run(job, fresh=False)
    before = json.loads(state.read_text())
    before["settings"]["kind"] = "train"
    state.write_text(json.dumps(before))
    for fresh in (False, True):
        with pytest.raises(UserError, match=r"run of a job of kind train\. .*another name"):
            evaluate.run(job, fresh=fresh)
    assert json.loads(state.read_text()) == before


def test_missing_training_list_is_told(make: MakeJob, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate.run(make(data={"train": "typo.txt"}), fresh=False)
    assert "No leak-free slices: there is no list" in capsys.readouterr().err
