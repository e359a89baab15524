"""Registered versions: what they hold, and that they load anywhere, by every URI."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from uuid import uuid4

import numpy as np
import pytest
import torch
import yaml
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from rsrnet import checkpoint
from rsrnet.evaluation.columns import PAPERS
from rsrnet.evaluation.summary import Slice
from rsrnet.localizer import Localizer
from rsrnet.model.config import RSRNetConfig
from rsrnet.model.network import RSRNet
from rsrnet_platform.models.scores import add_test_scores
from rsrnet_platform.promotion import Judge, Verdict
from rsrnet_platform.registry import RegistryError, Version, register, resolve
from rsrnet_platform.store import TrackingConfig, TrackingError, open_client, prepare
from rsrnet_platform.tracking import Tracker

Checkpoint = Callable[[int], Path]
Train = Callable[..., Version]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrackingConfig:
    config = TrackingConfig(uri=str(tmp_path_factory.mktemp("a store")))
    prepare(config)
    return config


@pytest.fixture(scope="module")
def uri(config: TrackingConfig) -> str:
    return prepare(config)


@pytest.fixture(scope="module")
def client(uri: str) -> MlflowClient:
    return open_client(uri)


@pytest.fixture(scope="module")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Write the checkpoint of a small network with weights drawn from a seed, at epoch 2."""

    def make(seed: int) -> Path:
        torch.manual_seed(seed)
        config = RSRNetConfig(depth=18, width=4, iterations=2)
        folder = tmp_path_factory.mktemp("checkpoint")
        card = checkpoint.ModelCard(config, size=32, epoch=2)
        checkpoint.save(folder, RSRNet(config), card, {"optimizer": torch.zeros(3)})
        return folder

    return make


@pytest.fixture(scope="module")
def train(config: TrackingConfig, uri: str, make_checkpoint: Checkpoint) -> Train:
    """Track a run of two epochs and register its checkpoint under a model's name."""

    def run(model: str, iou: float, seed: int = 0) -> Version:
        with Tracker.of_attempt(
            prepare(config), config, "run", uuid4().hex, params={}, tags={}, job_yaml=""
        ) as tracker:
            tracker.log_epochs([(1, {"val/iou": 0.01}), (2, {"val/iou": iou})])
        return register(
            uri,
            tracker.run_id,
            make_checkpoint(seed),
            TrackingConfig(uri=uri, model=model),
            metrics={"val/iou": iou, "train/loss": 1.5},
            tags={"dataset": "f00"},
            job_yaml="kind: train\n",
            judge=by_metric(iou),
        )

    return run


def by_metric(iou: float) -> Judge:
    def judge(champion: ModelVersion) -> Verdict:
        theirs = float(champion.tags["val/iou"])
        return Verdict(iou > theirs, f"{iou} beside {theirs}", iou - theirs, 0.0)

    return judge


@pytest.fixture(scope="module")
def version(train: Train) -> Version:
    return train("photographs", 0.61)


def run_of(client: MlflowClient, version: Version) -> str:
    return client.get_model_version(version.name, str(version.version)).run_id or ""


def test_a_version_holds_code_safe_weights_and_nothing_pickled(version: Version, uri: str) -> None:
    folder = resolve(version.uri, uri).parent
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"artifacts/model.safetensors", "artifacts/config.json", "code/rsrnet/localizer.py"} <= names
    assert (folder / "job.yaml").read_text() == "kind: train\n"
    assert not [name for name in names if name.endswith((".pkl", ".pt", ".pth", ".pyc"))]


def test_a_version_pins_what_it_needs_and_describes_its_tensors(version: Version, uri: str) -> None:
    folder = resolve(version.uri, uri).parent
    requirements = (folder / "requirements.txt").read_text().splitlines()
    packages = {line.partition("==")[0] for line in requirements if "==" in line}
    assert packages == {"mlflow", "torch", "numpy", "pillow", "safetensors"}
    signature = yaml.safe_load((folder / "MLmodel").read_text())["signature"]
    assert '"dtype": "uint8", "shape": [-1, -1, -1, 3]' in signature["inputs"]
    assert '"dtype": "float32", "shape": [-1, -1, -1]' in signature["outputs"]


def test_a_version_tells_its_metrics_origin_and_use(version: Version, client: MlflowClient) -> None:
    registered = client.get_model_version(version.name, str(version.version))
    assert float(registered.tags["val/iou"]) == 0.61
    assert registered.tags["dataset"] == "f00"
    assert "train/loss" not in registered.tags
    description = registered.description or ""
    assert f"/runs/{registered.run_id}" in description
    assert "| val/iou | 0.6100 |" in description
    assert f'load_model("models:/photographs/{version.version}")' in description


def test_the_model_of_the_run_has_the_metrics_and_the_run_keeps_one_point_per_epoch(
    version: Version, client: MlflowClient
) -> None:
    run = client.get_run(run_of(client, version))
    assert run.outputs is not None
    (output,) = run.outputs.model_outputs
    model = client.get_logged_model(output.model_id)
    metrics = {metric.key: (metric.value, metric.step) for metric in model.metrics or []}
    assert metrics == {"val/iou": (0.61, 2), "train/loss": (1.5, 2)}
    assert str(model.status) == "READY"
    history = client.get_metric_history(run.info.run_id, "val/iou")
    assert [(point.step, point.value) for point in history] == [(1, 0.01), (2, 0.61)]


def test_the_better_of_two_runs_becomes_champion(train: Train, uri: str) -> None:
    first, worse, better = (train("ladder", iou) for iou in (0.5, 0.4, 0.6))
    assert [first.champion, worse.champion, better.champion] == [True, False, True]
    assert worse.reason == "0.4 beside 0.5"
    assert resolve("models:/ladder@champion", uri) == resolve("models:/ladder/3", uri)


def test_a_finished_job_run_again_registers_nothing_new(
    train: Train, client: MlflowClient, uri: str, make_checkpoint: Checkpoint
) -> None:
    first = train("again", 0.5)
    config = TrackingConfig(uri=uri, model="again")
    run_id = run_of(client, first)
    assert register(uri, run_id, make_checkpoint(0), config, metrics={"val/iou": 0.5}, tags={}) == first
    longer = register(
        uri, run_id, make_checkpoint(1), config, metrics={"val/iou": 0.7}, tags={}, judge=by_metric(0.7)
    )
    assert (longer.version, longer.champion) == (2, True)


def test_a_registration_that_was_cut_short_is_completed(
    train: Train, client: MlflowClient, uri: str, make_checkpoint: Checkpoint
) -> None:
    first = train("cut", 0.5)
    client.delete_registered_model_alias("cut", "champion")
    client.delete_registered_model_tag("cut", "champion.0001")
    for tag in ("champion_before", "promoted", "promotion_reason"):
        client.delete_model_version_tag("cut", "1", tag)
    again = register(
        uri,
        run_of(client, first),
        make_checkpoint(0),
        TrackingConfig(uri=uri, model="cut"),
        metrics={"val/iou": 0.5},
        tags={},
    )
    assert again == first


def test_jobs_that_finish_together_leave_the_best_as_the_one_champion(
    train: Train, client: MlflowClient
) -> None:
    values = (0.52, 0.55, 0.51)
    threads = [Thread(target=train, args=("together", iou, seed)) for seed, iou in enumerate(values)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(client.search_model_versions("name = 'together'")) == 3
    champion = client.get_model_version_by_alias("together", "champion")
    assert float(champion.tags["val/iou"]) == 0.55


def test_test_scores_are_kept_until_the_next_ones(version: Version, client: MlflowClient, uri: str) -> None:
    def slices(*names: str) -> list[Slice]:
        means = {PAPERS.column(metric): 0.5 for metric in ("ap", "f1", "iou")}
        return [Slice(name, 7, means, means) for name in names]

    def kept() -> dict[str, str]:
        tags = client.get_model_version(version.name, str(version.version)).tags
        return {key: value for key, value in tags.items() if key.startswith("test")}

    first = slices("HCOCO", "HCOCO, leak-free", "All", "All, leak-free")
    add_test_scores(uri, version.uri, first, fingerprint="a", size=32, run_id="r1")
    assert {key for key in kept() if key.endswith("/iou")} == {
        "test/HCOCO/iou",
        "test/HCOCO_leak-free/iou",
        "test/iou",
        "test/leak-free/iou",
    }
    assert kept()["test/images"] == "7"
    add_test_scores(uri, version.uri, slices("Sample", "All"), fingerprint="b", size=64, run_id="r2")
    assert {key for key in kept() if key.endswith("/iou")} == {"test/Sample/iou", "test/iou"}
    assert (kept()["test_fingerprint"], kept()["test_size"], kept()["test_run"]) == ("b", "64", "r2")
    add_test_scores(uri, "runs:/0123", first, fingerprint="c", size=32, run_id="r3")
    assert kept()["test_run"] == "r2"


def test_a_model_without_a_name_or_a_deciding_metric_is_refused(
    config: TrackingConfig, uri: str, make_checkpoint: Checkpoint
) -> None:
    with pytest.raises(RegistryError, match=r"tracking.model = null"):
        register(
            uri, "run", make_checkpoint(0), TrackingConfig(model=None), metrics={"val/iou": 1.0}, tags={}
        )
    with pytest.raises(RegistryError, match="val/iou"):
        register(uri, "run", make_checkpoint(0), config, metrics={"val/ap": 1.0}, tags={})


def test_pyfunc_loads_the_champion_in_a_process_without_this_project(
    version: Version, uri: str, tmp_path: Path, repository: Path
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 48, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    code = f"""if True:
        import sys
        import numpy as np
        sys.path = [entry for entry in sys.path if not entry.startswith({str(repository)!r} + "/platform")
                    and entry != {str(repository)!r}]
        import mlflow
        mlflow.set_tracking_uri({uri!r})
        model = mlflow.pyfunc.load_model("models:/photographs@champion")
        images = np.load("images.npy")
        np.save("masks.npy", model.predict(images))
        for wrong in (images.astype(np.float32), images[..., :2]):
            try:
                model.predict(wrong)
            except mlflow.exceptions.MlflowException:
                continue
            sys.exit("a wrong input was accepted")
        import rsrnet
        assert rsrnet.__file__.endswith("/code/rsrnet/__init__.py"), rsrnet.__file__
    """
    done = subprocess.run(
        [sys.executable, "-I", "-c", code],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    masks = np.load(tmp_path / "masks.npy")
    assert (masks.dtype, masks.shape) == (np.float32, (2, 40, 48))
    expected = Localizer(resolve(version.uri, uri), device="cpu")(list(images))
    assert np.allclose(masks, np.stack(expected), atol=1e-6)


@pytest.mark.parametrize(
    "form", ["models:/{name}/{number}", "models:/{name}@champion", "runs:/{run}", "runs:/{run}/{name}"]
)
def test_every_uri_leads_to_the_weights_where_they_lie(
    form: str, version: Version, uri: str, client: MlflowClient, make_checkpoint: Checkpoint
) -> None:
    text = form.format(name=version.name, number=version.version, run=run_of(client, version))
    folder = resolve(text, uri)
    assert folder.is_relative_to(Path(uri.removeprefix("sqlite:///")).parent)
    weights = checkpoint.load_model(folder).state_dict()
    original = checkpoint.load_model(make_checkpoint(0)).state_dict()
    assert all(torch.equal(weights[key], original[key]) for key in original)


def test_a_checkpoint_folder_is_itself_and_needs_no_store(make_checkpoint: Checkpoint) -> None:
    folder = make_checkpoint(0)
    assert resolve(str(folder), "http://127.0.0.1:9") == folder


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("models:/nothing@champion", r"no model 'nothing' .*Registered models: .*photographs"),
        (
            "models:/photographs@best",
            r"no alias 'best'. Its versions: 1; its aliases: champion \(version 1\)",
        ),
        ("models:/photographs/7", r"no version 7. Its versions: 1;"),
        ("models:/photographs", r"models:/NAME@ALIAS"),
        ("runs:/0123", r"no run 0123"),
        ("runs:/{run}/other", r"not among the models of run 'run' .*: photographs"),
        ("/no/such/folder", r"no model.safetensors and config.json. Give a checkpoint folder"),
    ],
)
def test_an_unknown_model_is_named_with_what_there_is(
    wrong: str, told: str, version: Version, uri: str, client: MlflowClient
) -> None:
    wrong = wrong.format(run=run_of(client, version))
    with pytest.raises(RegistryError, match=told) as refusal:
        resolve(wrong, uri)
    assert str(refusal.value).startswith(f"{wrong}: ")


def test_a_version_whose_folder_was_moved_says_where_it_was(client: MlflowClient, uri: str) -> None:
    client.create_registered_model("moved")
    client.create_model_version("moved", "/gone/artifacts", await_creation_for=0)
    with pytest.raises(RegistryError, match=r"its files are in /gone/artifacts, which is not there"):
        resolve("models:/moved/1", uri)


def test_without_a_store_nothing_is_made(tmp_home: Path) -> None:
    with pytest.raises(TrackingError, match="no store yet"):
        resolve("models:/rsrnet@champion")
    assert list(tmp_home.iterdir()) == []
