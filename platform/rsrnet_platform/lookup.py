"""From the URI of a model to a checkpoint folder on this machine."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from rsrnet_platform.errors import UserError
from rsrnet_platform.packaging import fetch
from rsrnet_platform.store import TrackingConfig, connect, explained, resolve_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient


class RegistryError(UserError):
    """Raised when a model cannot be registered or found; the message lists what there is."""


def resolve(uri: str, tracking_uri: str | None = None) -> Path:
    """Turn a model's URI into a local checkpoint folder.

    Files of an embedded store are used where they lie; those of a server are downloaded once, to
    ``~/.cache/rsrnet/models``.

    Args:
        uri: ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``, ``runs:/RUN_ID`` (its newest model),
            ``runs:/RUN_ID/NAME``, or a checkpoint folder.
        tracking_uri: the store; None means the default one, as in :class:`TrackingConfig`.

    Returns:
        A folder with ``model.safetensors`` and ``config.json``.

    Raises:
        RegistryError: if there is no such model; the message lists what there is.
        TrackingError: if the store cannot be used.
    """
    if not uri.startswith(("models:/", "runs:/")):
        return _checkpoint_in(Path(uri).expanduser(), uri)
    store = resolve_uri(TrackingConfig(uri=tracking_uri))
    client = connect(store)
    with explained(store):
        location = _location(client, store, uri)
        return _checkpoint_in(fetch(location, store), uri)


def pin(uri: str, tracking_uri: str | None = None) -> str:
    """The version that an alias points to now, as ``models:/NAME/VERSION``; any other URI stays what it is.

    A job that outlasts a promotion so uses one model from beginning to end.

    Args:
        uri: as in :func:`resolve`.
        tracking_uri: as in :func:`resolve`.

    Raises:
        RegistryError: if there is no such model or alias; the message lists what there is.
        TrackingError: if the store cannot be used.
    """
    parts = re.fullmatch(r"models:/([^/@]+)@([^/@]+)", uri)
    if parts is None:
        return uri
    store = resolve_uri(TrackingConfig(uri=tracking_uri))
    client = connect(store)
    with explained(store):
        name, alias = parts.groups()
        _version_location(client, store, uri, name, None, alias)
        return f"models:/{name}/{client.get_model_version_by_alias(name, alias).version}"


def _location(client: MlflowClient, store: str, uri: str) -> str:
    """Where the artifacts of a ``models:/`` or ``runs:/`` URI are."""
    if version := re.fullmatch(r"models:/([^/@]+)(?:/(\d+)|@([^/@]+))", uri):
        return _version_location(client, store, uri, *version.groups())
    if run := re.fullmatch(r"runs:/([^/]+)(?:/(.+?))?/?", uri):
        return _run_location(client, store, uri, *run.groups())
    raise RegistryError(
        f"{uri}: not the URI of a model. Write models:/NAME@ALIAS, models:/NAME/VERSION or runs:/RUN_ID"
    )


def _version_location(
    client: MlflowClient, store: str, uri: str, name: str, number: str | None, alias: str | None
) -> str:
    from mlflow.exceptions import MlflowException

    try:
        aliases = client.get_registered_model(name).aliases
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        names = sorted(model.name for model in client.search_registered_models())
        known = ", ".join(names) or "none yet: train one"
        raise RegistryError(f"{uri}: no model {name!r} in {store}. Registered models: {known}") from error
    numbers = sorted(int(version.version) for version in client.search_model_versions(f"name = '{name}'"))
    wanted = aliases.get(alias) if alias else number
    if wanted is None or int(wanted) not in numbers:
        missing = f"alias {alias!r}" if alias else f"version {number}"
        named = ", ".join(f"{key} (version {value})" for key, value in aliases.items())
        raise RegistryError(
            f"{uri}: model {name!r} in {store} has no {missing}. "
            f"Its versions: {', '.join(map(str, numbers)) or 'none'}; its aliases: {named or 'none'}"
        )
    return client.get_model_version_download_uri(name, str(wanted))


def _run_location(client: MlflowClient, store: str, uri: str, run_id: str, name: str | None) -> str:
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        raise RegistryError(f"{uri}: no run {run_id} in {store} ({error})") from error
    models = client.search_logged_models(
        [run.info.experiment_id],
        filter_string=f"source_run_id = '{run_id}'",
        order_by=[{"field_name": "creation_time", "ascending": False}],
    )
    for model in models:
        if name in (None, model.name):
            return model.artifact_location
    known = ", ".join(sorted({model.name for model in models})) or "none yet; a training registers its best"
    raise RegistryError(f"{uri}: not among the models of run {run.info.run_name!r} in {store}: {known}")


def _checkpoint_in(folder: Path, uri: str) -> Path:
    """The checkpoint that a folder is, or holds as an MLflow model."""
    from rsrnet.checkpoint import CONFIG, WEIGHTS

    for place in (folder, folder / "artifacts"):
        # Unlike the methods of a path, this is false for a folder that may not be read.
        if os.path.isfile(place / WEIGHTS) and os.path.isfile(place / CONFIG):
            return place
    raise RegistryError(
        f"{uri}: {folder} has no {WEIGHTS} and {CONFIG}. Give a checkpoint folder, models:/NAME@ALIAS, "
        "models:/NAME/VERSION or runs:/RUN_ID"
    )
