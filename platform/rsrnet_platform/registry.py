"""The MLflow model registry: checkpoints become versions of a model, and a model's URI becomes a folder.

A version holds the weights as safetensors, the configuration and the ``rsrnet`` package itself, so that
``mlflow.pyfunc.load_model`` needs nothing of this project. The best version carries the alias ``champion``.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from rsrnet_platform.lookup import RegistryError, resolve
from rsrnet_platform.models.history import CHAMPION
from rsrnet_platform.packaging import save_pyfunc
from rsrnet_platform.promotion import Judge, decide, decision_of
from rsrnet_platform.store import TrackingConfig, explained, open_client, store_lock

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run
    from mlflow.entities.model_registry import ModelVersion

    from rsrnet.checkpoint import ModelCard

__all__ = ["CHAMPION", "RegistryError", "Version", "register", "resolve"]

_PURPOSE = "Finds the region of a composite image whose colour or light does not fit (RSRNet, BMVC 2022)."
_QUALITY = ("val/", "test/")
_WEIGHTS_TAG = "weights_sha256"


@dataclass(frozen=True)
class Version:
    """One version of a registered model."""

    name: str
    version: int
    champion: bool
    """Whether the alias ``champion`` points to it now."""

    reason: str
    """Why it was promoted, or why not."""

    @property
    def uri(self) -> str:
        """What ``resolve``, ``rsrnet.Localizer`` and MLflow load it by."""
        return f"models:/{self.name}/{self.version}"


def register(
    uri: str,
    run_id: str,
    checkpoint: Path,
    config: TrackingConfig,
    *,
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
    job_yaml: str | None = None,
    judge: Judge | None = None,
) -> Version:
    """Make a checkpoint the next version of the registered model, and champion if it beats the champion.

    The same weights of the same run are registered once; a second call returns the version there is.

    Args:
        uri: the store, from :func:`rsrnet_platform.tracking.prepare`.
        run_id: the run that trained the checkpoint.
        checkpoint: its folder, of which ``training.pt`` stays out of the registry.
        config: the ``tracking`` section of the job; names the model.
        metrics: of the checkpoint's epoch, ``val/iou`` among them. Those of quality (``val/...``, ``test/...``)
            become tags of the version and stand in its description.
        tags: what the version stands on, such as the git commit and the dataset's fingerprint.
        job_yaml: the resolved job file, kept beside the weights; None: it is not known.
        judge: compares it with the champion; None: a champion stays.

    Raises:
        RegistryError: if the configuration names no model, or ``val/iou`` is missing.
        CheckpointError: if the folder is no checkpoint.
        TrackingError: if the store cannot be used.
    """
    from rsrnet.checkpoint import WEIGHTS, read_card
    from rsrnet.engine import BEST

    if config.model is None:
        raise RegistryError("tracking.model = null: name the registered model that gets the checkpoint")
    if BEST not in metrics:
        raise RegistryError(
            f"{checkpoint}: without the metric {BEST} it cannot be compared with the champion"
        )
    card = read_card(checkpoint)
    with (checkpoint / WEIGHTS).open("rb") as weights:
        digest = hashlib.file_digest(weights, "sha256").hexdigest()
    with explained(uri), store_lock(uri):
        client = open_client(uri)
        _ensure_model(client, config.model)
        version = _find(client, config.model, run_id, digest)
        quality = {key: value for key, value in metrics.items() if key.startswith(_QUALITY)}
        if version is None:
            run = client.get_run(run_id)
            _remove_unfinished(client, run, config.model)
            logged = _log_model(client, run, checkpoint, card, config.model, tags, metrics, job_yaml)
            facts = {**tags, **{key: str(value) for key, value in quality.items()}, _WEIGHTS_TAG: digest}
            version = _create_version(client, run, logged, config.model, facts)
        if not version.description:
            _describe(client, uri, client.get_run(run_id), card, version, quality)
    if decision_of(version) is None:  # not under the lock: the comparison takes minutes
        decide(client, uri, version, metrics[BEST], judge)
    with explained(uri):
        return _summary(client, version)


def _ensure_model(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description=_PURPOSE)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _find(client: MlflowClient, name: str, run_id: str, digest: str) -> ModelVersion | None:
    versions = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    return next((version for version in versions if version.tags.get(_WEIGHTS_TAG) == digest), None)


def _remove_unfinished(client: MlflowClient, run: Run, name: str) -> None:
    """Remove models of a run that an earlier call left behind when the store went away, or its process was killed."""
    versions = client.search_model_versions(f"name = '{name}' and run_id = '{run.info.run_id}'")
    registered = {version.model_id for version in versions}
    for model in client.search_logged_models(
        [run.info.experiment_id], f"source_run_id = '{run.info.run_id}' and name = '{name}'"
    ):
        if model.model_id not in registered:
            client.delete_logged_model(model.model_id)


def _log_model(
    client: MlflowClient,
    run: Run,
    checkpoint: Path,
    card: ModelCard,
    name: str,
    tags: Mapping[str, str],
    metrics: Mapping[str, float],
    job_yaml: str | None,
) -> LoggedModel:
    """Upload the checkpoint as a model of the run, with its metrics."""
    from mlflow.entities import LoggedModelOutput

    parameters = {"input_size": str(card.size), "epoch": str(card.epoch)}
    logged = client.create_logged_model(
        run.info.experiment_id,
        name=name,
        source_run_id=run.info.run_id,
        params=parameters,
        model_type="RSRNet",
    )
    try:
        with TemporaryDirectory() as folder:
            save_pyfunc(
                Path(folder) / "model",
                checkpoint,
                run.info.run_id,
                logged.model_id,
                job_yaml=job_yaml,
                tags=tags,
                metrics={**_counts(run), **metrics},
            )
            client.log_model_artifacts(logged.model_id, f"{folder}/model")
    except BaseException:
        client.finalize_logged_model(logged.model_id, "FAILED")
        raise
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run.info.run_id, [LoggedModelOutput(logged.model_id, step=card.epoch)])
    _log_model_metrics(client, run.info.run_id, logged.model_id, card.epoch, metrics)
    return logged


def _counts(run: Run) -> dict[str, float]:
    """How many images the run was given, by split; see ``Tracker.log_dataset``."""
    given = [
        each.dataset.profile
        for each in (run.inputs.dataset_inputs if run.inputs else ())
        if each.dataset.profile
    ]
    return {f"data/{split}": count for profile in given for split, count in json.loads(profile).items()}


def _log_model_metrics(
    client: MlflowClient, run_id: str, model_id: str, epoch: int, metrics: Mapping[str, float]
) -> None:
    from mlflow.entities import Metric

    def time_of(key: str) -> int:
        # A point that agrees in time as well is stored once: the run keeps one point per metric and step.
        times = [p.timestamp for p in client.get_metric_history(run_id, key) if p.step == epoch]
        return times[0] if times else time.time_ns() // 1_000_000

    points = [
        Metric(key, value, time_of(key), epoch, model_id=model_id, run_id=run_id)
        for key, value in metrics.items()
    ]
    client.log_batch(run_id, metrics=points)


def _create_version(
    client: MlflowClient, run: Run, logged: LoggedModel, name: str, tags: Mapping[str, str]
) -> ModelVersion:
    # The place itself as source: for models:/ID MLflow would ask the store that its global state names.
    version = client.create_model_version(
        name,
        logged.artifact_location,
        run_id=run.info.run_id,
        tags=dict(tags),
        model_id=logged.model_id,
        await_creation_for=0,
    )
    link = [{"name": name, "version": int(version.version)}]
    client.set_logged_model_tags(logged.model_id, {"mlflow.modelVersions": json.dumps(link)})
    return version


def _describe(
    client: MlflowClient,
    uri: str,
    run: Run,
    card: ModelCard,
    version: ModelVersion,
    metrics: Mapping[str, float],
) -> None:
    server = uri if uri.startswith("http") else ""
    page = f"{server}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    rows = "\n".join(f"| {key} | {value:.4f} |" for key, value in metrics.items())
    text = f"""{_PURPOSE}

Epoch {card.epoch} of run [{run.info.run_name}]({page}), trained at {card.size} x {card.size} pixels.

| metric | value |
| --- | --- |
{rows}

```python
import mlflow, rsrnet

model = mlflow.pyfunc.load_model("models:/{version.name}/{version.version}")
masks = model.predict(images)  # uint8 (N, H, W, 3) to float32 (N, H, W), 1 = inharmonious

mask = rsrnet.Localizer("models:/{version.name}/{version.version}")("composite.jpg")
network = rsrnet.Localizer("models:/{version.name}/{version.version}").model  # torch.nn.Module
```
"""
    client.update_model_version(version.name, version.version, text)


def _summary(client: MlflowClient, version: ModelVersion) -> Version:
    aliases = client.get_registered_model(version.name).aliases
    fresh = client.get_model_version(version.name, version.version)
    champion = str(aliases.get(CHAMPION)) == str(version.version)
    return Version(version.name, int(version.version), champion, decision_of(fresh) or "")
