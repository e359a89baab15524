"""Training jobs from the file to the registry: in this process, and on a real Ray cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rsrnet import Localizer, checkpoint
from rsrnet.model.network import RSRNet
from rsrnet_platform import cli, lookup, spec, train
from rsrnet_platform.errors import UserError
from rsrnet_platform.store import open_client, resolve_uri

STEPS = [1, 2, 3]


def client_of(job):
    return open_client(resolve_uri(job.tracking))


def runs_of(job):
    client = client_of(job)
    return client.search_runs([client.get_experiment_by_name(job.tracking.experiment).experiment_id])


def artifacts(job, run, path=None):
    found = client_of(job).list_artifacts(run.info.run_id, path)
    return [
        name for item in found for name in (artifacts(job, run, item.path) if item.is_dir else [item.path])
    ]


def counts(run):
    (given,) = run.inputs.dataset_inputs
    return json.loads(given.dataset.profile)


def refusal(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    assert left.value.code == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return " ".join(message.split())


def test_a_training_is_tracked_and_registered(make_job, history) -> None:
    job = make_job()
    train.run(job, fresh=False)

    (run,) = runs_of(job)
    assert run.info.status == "FINISHED"
    assert run.data.params["model.iterations"] == "2"
    assert run.data.params["loss.lambda"] == "0.8"
    assert len(run.data.tags["dataset_fingerprint"]) == 64
    assert len(run.data.tags["mlflow.source.git.commit"]) == 40
    for key in (
        "train/loss",
        "train/loss_bce",
        "train/lr",
        "val/iou",
        "val/m_rsr/ap",
        "time/images_per_second",
    ):
        assert [step for step, _ in history(job, key)] == STEPS, key
    assert counts(run) == {"training": 12, "validation": 5, "skipped": 0}
    names = artifacts(job, run)
    assert "job.yaml" in names
    for epoch in STEPS:
        assert f"pictures/epoch_{epoch:03d}_masks.png" in names
        assert f"pictures/epoch_{epoch:03d}_iterations.png" in names

    folder = lookup.resolve("models:/rsrnet@champion", job.tracking.uri)
    card = checkpoint.read_card(folder)
    best = max(history(job, "val/iou"), key=lambda point: (point[1], -point[0]))
    assert (card.epoch, card.metrics["val/iou"]) == best
    assert isinstance(checkpoint.load_model(folder), RSRNet)
    assert isinstance(Localizer(folder).model, RSRNet)
    assert Localizer(folder)(np.zeros((30, 50, 3), np.uint8)).shape == (30, 50)


def test_the_recorded_job_file_repeats_the_run(make_job, history, tmp_path) -> None:
    job = make_job()
    train.run(job, fresh=False)
    (run,) = runs_of(job)
    client_of(job).download_artifacts(run.info.run_id, "job.yaml", str(tmp_path))
    again = spec.load(tmp_path / "job.yaml")
    assert again == job
    train.run(again, fresh=True)
    first, second = (
        [p.value for p in client_of(job).get_metric_history(r.info.run_id, "train/loss")]
        for r in runs_of(job)
    )
    assert first == second


def test_starting_a_finished_job_again_changes_nothing(make_job, capsys) -> None:
    job = make_job()
    train.run(job, fresh=False)
    capsys.readouterr()
    train.run(job, fresh=False)
    assert "is trained already: models:/rsrnet/1" in " ".join(capsys.readouterr().err.split())
    assert len(runs_of(job)) == 1


def test_fresh_starts_over_in_a_run_of_its_own(make_job) -> None:
    job = make_job()
    train.run(job, fresh=False)
    train.run(make_job(fit__lr="1e-3"), fresh=True)
    assert sorted(run.data.params["fit.lr"] for run in runs_of(job)) == ["0.001", "0.002"]


def test_other_settings_under_the_same_name_are_refused(make_job) -> None:
    train.run(make_job(), fresh=False)
    with pytest.raises(UserError, match=r"fit\.lr: 0\.002, now 0\.001") as error:
        train.run(make_job(fit__lr="1e-3", description="new"), fresh=False)
    assert "--fresh" in str(error.value)
    assert "description" not in str(error.value)


def test_two_jobs_of_one_name_do_not_run_at_once(make_job) -> None:
    from rsrnet_platform.runs import hold

    job = make_job()
    with hold(job.storage, job.name), pytest.raises(UserError, match="going on in another process"):
        train.run(job, fresh=False)


def test_an_interrupted_training_goes_on_in_the_same_run(make_job, history, monkeypatch) -> None:
    """Without a cluster; an exception stands for the interruption."""
    from rsrnet_platform import worker

    job = make_job()
    done = worker.Observer.epoch_done

    def break_after_second(self, training):
        if training.epoch == 2:
            raise KeyboardInterrupt  # after the checkpoint, before its metrics
        done(self, training)

    monkeypatch.setattr(worker.Observer, "epoch_done", break_after_second)
    with pytest.raises(KeyboardInterrupt):
        train.run(job, fresh=False)
    (run,) = runs_of(job)
    assert run.info.status == "KILLED"
    monkeypatch.setattr(worker.Observer, "epoch_done", done)
    train.run(job, fresh=False)

    (run,) = runs_of(job)
    assert run.info.status == "FINISHED"
    assert [step for step, _ in history(job, "train/loss")] == STEPS
    interrupted = [value for _, value in history(job, "train/loss")]
    train.run(make_job(name="whole", tracking__experiment="whole"), fresh=False)
    whole = make_job(name="whole", tracking__experiment="whole")
    assert interrupted == [value for _, value in history(whole, "train/loss")]


def test_only_the_best_and_the_newest_checkpoint_stay(make_job) -> None:
    job = make_job(fit__epochs=6)
    train.run(job, fresh=False)
    kept = sorted(Path(job.storage, job.name, "attempt-1").glob("checkpoint-*"))
    assert kept[-1].name == "checkpoint-000006"
    assert len(kept) <= 2


def damage(root: Path, tmp_path: Path) -> Path:
    import shutil

    shutil.copytree(root, copy := tmp_path / "damaged")
    (copy / "Sample/composite_images/strain-003_1_1.jpg").write_bytes(b"\xff\xd8 truncated")
    (copy / "Sample/masks/strain-005_1.png").unlink()
    Image.new("L", (8, 8)).save(copy / "Sample/masks/strain-007_1.png")
    return copy


def test_bad_images_stop_the_job_by_name(make_job, squares, tmp_path) -> None:
    job = make_job(data__root=damage(squares, tmp_path))
    with pytest.raises(ValueError, match="3 of 17") as error:
        train.run(job, fresh=False)
    for name in ("strain-003_1_1.jpg", "strain-005_1.png", "strain-007_1_1.jpg"):
        assert name in str(error.value)
    assert not Path(job.storage, job.name, "attempt-1").exists()
    assert not (tmp_path / "mlflow.db").exists()


def test_bad_images_are_skipped_and_counted_if_the_job_says_so(make_job, squares, tmp_path) -> None:
    job = make_job(data__root=damage(squares, tmp_path), data__on_bad_image="skip")
    train.run(job, fresh=False)
    (run,) = runs_of(job)
    assert counts(run) == {"training": 9, "validation": 5, "skipped": 3}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.root={tmp}/nowhere", "there is no dataset folder {tmp}/nowhere"),
        ("data.train=missing.txt", "there is no list"),
        ("data.train=empty.txt", "lists no composite"),
        ("data.rot=x", "the nearest is data.root"),
        ("fit.lr=fast", "fit.lr = 'fast': a number"),
        ("loss.lambda=1.5", "loss.lambda = 1.5"),
        ("model.iterations=0", "model.iterations = 0: a whole number, at least 1"),
        ("model.scales=[0, -1]", "model.scales"),
        ("fit.encoder_weights={tmp}/none.pth", "no such file"),
        ("tracking.uri=http://127.0.0.1:9", "no MLflow server answers at http://127.0.0.1:9"),
        ("storage=s3://bucket/runs", "storage = 's3://bucket/runs': a folder"),
        ("storage=/proc/runs", "storage = /proc/runs: cannot be written"),
    ],
)
def test_what_a_user_gets_wrong_is_one_message(
    override, message, train_file, squares, tmp_path, capsys
) -> None:
    empty = squares / "empty.txt"
    empty.touch()
    arguments = ["run", str(train_file), "--set", override.format(tmp=tmp_path)]
    assert message.format(tmp=tmp_path) in refusal(arguments, capsys)
    assert not list(tmp_path.rglob("attempt-*")), "a refused job leaves no attempt behind"
    assert not list(tmp_path.rglob("mlartifacts/*/*")), "nor a run"


def test_more_workers_than_the_cluster_has_are_refused_at_once(
    ray_cluster, train_file, tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster.address)
    started = time.monotonic()
    message = refusal(
        ["run", str(train_file), "--set", "cluster.workers=9", "--set", "fit.batch_size=12"], capsys
    )
    assert "9 workers with 1 CPU each" in message
    assert "4 CPUs and 0 GPUs: room for 4" in message
    assert time.monotonic() - started < 30
    assert not list(tmp_path.rglob("attempt-*"))


@pytest.mark.slow
@pytest.mark.ray
def test_two_runs_on_ray_give_the_same_losses(ray_cluster, make_job, history) -> None:
    losses = []
    for name in ("first", "second"):
        job = make_job(name=name, cluster__workers=2, tracking__experiment=name, tracking__model=name)
        train.run(job, fresh=False)
        assert [step for step, _ in history(job, "train/loss")] == STEPS
        losses.append(history(job, "train/loss"))
        assert lookup.resolve(f"models:/{name}@champion", job.tracking.uri)
    assert losses[0] == losses[1]


@pytest.mark.ray
def test_what_only_the_user_can_mend_is_not_tried_again(
    ray_cluster, train_file, tmp_path, capsys, monkeypatch
) -> None:
    """A training that diverges ends at its first attempt, with one message."""
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster.address)
    arguments = ["run", str(train_file), "--set", "cluster.workers=2", "--set", "fit.lr=1e30"]
    assert "lower fit.lr" in refusal(arguments, capsys)
    lines = (
        (tmp_path / "runs/squares/attempt-1/progress.jsonl").read_text()
        if list(tmp_path.rglob("*.jsonl"))
        else ""
    )
    assert "Going on" not in lines
    (run,) = runs_of(spec.load(train_file))
    assert run.info.status == "FAILED"


def test_changed_images_are_not_gone_on_with(make_job, squares, tmp_path, monkeypatch) -> None:
    import shutil

    from rsrnet_platform import worker

    shutil.copytree(squares, data := tmp_path / "data")
    job = make_job(data__root=data)
    monkeypatch.setattr(worker.Observer, "epoch_done", lambda self, training: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train.run(job, fresh=False)
    shutil.copy(data / "Sample/masks/strain-001_1.png", data / "Sample/masks/strain-000_1.png")
    with (data / "Sample/masks/strain-000_1.png").open("ab") as mask:
        mask.write(b"more")
    with pytest.raises(UserError, match="not the images that the run 'squares' was started with"):
        train.run(job, fresh=False)


def test_only_the_first_worker_imports_mlflow(make_job, tmp_path) -> None:
    """A second worker trains and validates, and never touches the tracking store."""
    script = tmp_path / "second.py"
    script.write_text("""
import sys
from contextlib import nullcontext
from rsrnet.agreement import NoNotice
from rsrnet_platform.restart import Start
import torch
from rsrnet_platform import spec
from rsrnet_platform.worker import Task, train

class SecondWorker:
    rank, world_size, device = 1, 2, torch.device("cpu")
    reported, notice = 0, NoNotice()
    def newest(self):
        return nullcontext(Start(None))
    def report(self, metrics, write):
        self.reported += 1

host = SecondWorker()
train(Task(spec.load(sys.argv[1]), "sqlite:////nowhere/mlflow.db", "no-run"), host)
assert host.reported == 3
assert not {"mlflow", "ray"} & set(sys.modules)
""")
    path = tmp_path / "job.yaml"
    path.write_text(spec.to_yaml(make_job(cluster__workers=2)))
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'platform'}"}
    done = subprocess.run(
        [sys.executable, script, path], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_refused_job_leaves_nothing_behind(train_file, tmp_path, capsys) -> None:
    refusal(["run", str(train_file), "--set", "tracking.uri=http://127.0.0.1:9"], capsys)
    assert not list((tmp_path / "runs").glob("*"))
    assert not (tmp_path / "mlflow.db").exists()


def test_torch_compile_without_a_compiler_is_refused_at_once(train_file, tmp_path) -> None:
    without = os.environ | {"CXX": "/nowhere/g++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    command = [Path(sys.executable).parent / "rsrnet", "run", train_file, "--set", "fit.compile=true"]
    refused = subprocess.run(command, env=without, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    for part in ("fit.compile", "/nowhere/g++", "Install a C++ compiler"):
        assert part in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "runs").exists()


def test_a_password_in_a_job_file_is_refused(train_file, capsys) -> None:
    message = refusal(["run", str(train_file), "--set", "tracking.uri=http://me:secret@127.0.0.1"], capsys)
    assert "MLFLOW_TRACKING_PASSWORD" in message
    assert "secret" not in message
