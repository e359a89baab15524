"""The MLflow store: reachable, writable, and a registry that takes models."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from uuid import uuid4

from rsrnet_platform.doctor import nodes
from rsrnet_platform.doctor.finding import Finding, told
from rsrnet_platform.doctor.needs import Needs
from rsrnet_platform.errors import UserError
from rsrnet_platform.models.lock import PREFIX
from rsrnet_platform.reach import require_writable, unreachable
from rsrnet_platform.store import connect, database_of, explained, open_client, resolve_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

_MARKER = f"{PREFIX}doctor-"
"""Begins the names of what is registered and deleted; what lists models leaves it out."""

_LEFT_SECONDS = 3600
"""After which a marker was left by a doctor that was killed."""

_TRACKING, _REGISTRY, _ARTIFACTS = "tracking", "model registry", "artifacts"


def tracking(needs: Needs) -> Iterator[Finding]:
    """The store answers; one in a file can be made, and every node sees it."""
    uri = resolve_uri(needs.tracking)
    database = database_of(uri)
    if database is not None and not database.exists():
        yield _to_be_made(uri, database)
    else:
        client = connect(uri)
        from mlflow import __version__ as version

        with explained(uri):
            experiment = client.get_experiment_by_name(needs.tracking.experiment)
        if experiment is not None and experiment.lifecycle_stage == "deleted":
            remedy = f"mlflow experiments restore --experiment-id {experiment.experiment_id}, or another name"
            found = f"{uri}: the experiment {needs.tracking.experiment!r} was deleted"
            yield Finding(_TRACKING, "problem", found, remedy)
        else:
            there = "is there" if experiment else "is made by the first job"
            found = f"MLflow {version}, {uri}: answers; experiment {needs.tracking.experiment!r} {there}"
            yield Finding(_TRACKING, "ok", found)
    if database is not None and nodes.attached():
        for node, why in unreachable(str(database.parent)).items():
            remedy = "Use an MLflow server (tracking.uri: http://...), or a folder that every node mounts"
            yield Finding(_TRACKING, "problem", f"{node} does not reach {database}: it {why}", remedy)


def registry(needs: Needs) -> Iterator[Finding]:
    """A registered model can be made and deleted again."""
    if not needs.registers:
        yield Finding(_REGISTRY, "ok", "not checked: the job registers no model")
        return
    uri = resolve_uri(needs.tracking)
    if (client := _existing(uri)) is None:
        yield Finding(_REGISTRY, "ok", "not checked: there is no store yet, the first job makes it")
        return
    from mlflow.exceptions import MlflowException

    marker = f"{_MARKER}{uuid4().hex}"
    try:
        with explained(uri):
            _remove_left(client)
            try:
                client.create_registered_model(marker, description="Made by rsrnet doctor for a moment.")
            except MlflowException:
                with suppress(MlflowException):  # it may have been made, though the answer was lost
                    client.delete_registered_model(marker)
                raise
            client.delete_registered_model(marker)
    except UserError as error:
        cause = error.__cause__
        denied = isinstance(cause, MlflowException)
        remedy = "Let this user create and delete registered models, or set tracking.model to null"
        yield Finding(_REGISTRY, "problem", str(error), remedy) if denied else told(_REGISTRY, error)
    else:
        yield Finding(_REGISTRY, "ok", "a registered model was made and deleted")


def artifacts(needs: Needs) -> Iterator[Finding]:
    """A file can be put where the runs' files go, and be deleted there."""
    if not needs.logs:
        yield Finding(_ARTIFACTS, "ok", "not checked: the job logs no run")
        return
    uri = resolve_uri(needs.tracking)
    client = _existing(uri)
    with explained(uri):
        experiment = client and client.get_experiment_by_name(needs.tracking.experiment)
    if not experiment:
        yield Finding(_ARTIFACTS, "ok", "not checked: there is no experiment yet, the first job makes it")
        return
    location = experiment.artifact_location
    local = urlsplit(location).scheme in ("", "file")
    if local and database_of(uri) is None:
        found = f"the server leaves them to each job, in {location} on the job's own machine"
        remedy = "Start it with --artifacts-destination, and use a new experiment (tracking.experiment)"
        yield Finding(_ARTIFACTS, "problem", found, remedy)
        return
    if local:
        require_writable(str(Path(location.removeprefix("file://"))))
    else:
        with explained(uri):
            _put_get_and_delete(location, uri)
    yield Finding(_ARTIFACTS, "ok", f"a file was written to {location}, read and deleted")


def _to_be_made(uri: str, database: Path) -> Finding:
    above = next(folder for folder in database.parents if folder.exists())
    if above.is_dir() and os.access(above, os.W_OK | os.X_OK):
        return Finding(_TRACKING, "ok", f"{uri}: not there yet, the first job makes it")
    remedy = "Mend the permissions of that folder, or set tracking.uri"
    return Finding(_TRACKING, "problem", f"{uri}: cannot be made, {above} cannot be written", remedy)


def _existing(uri: str) -> MlflowClient | None:
    database = database_of(uri)
    return connect(uri) if database is None or database.exists() else None


def _remove_left(client: MlflowClient) -> None:
    from mlflow.exceptions import MlflowException

    oldest = (time.time() - _LEFT_SECONDS) * 1000
    for model in client.search_registered_models(f"name LIKE '{_MARKER}%'", max_results=100):
        if (model.creation_timestamp or 0) < oldest:
            with suppress(MlflowException):  # another doctor may be faster
                client.delete_registered_model(model.name)


def _put_get_and_delete(location: str, uri: str) -> None:
    from tempfile import TemporaryDirectory

    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    open_client(uri)  # its settings hold here too
    folder = f".rsrnet-doctor-{uuid4().hex}"
    place = get_artifact_repository(location, tracking_uri=uri)
    with TemporaryDirectory() as temporary:
        file = Path(temporary) / "probe"
        file.write_text("rsrnet doctor")
        try:
            place.log_artifact(str(file), folder)
            file.unlink()
            place.download_artifacts(f"{folder}/{file.name}", temporary)
        finally:
            place.delete_artifacts(folder)
