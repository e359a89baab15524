"""From the URI of a model to a checkpoint folder on this machine."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from rsrnet_platform.errors import UserError
from rsrnet_platform.models.lock import PREFIX as LOCK_PREFIX
from rsrnet_platform.outage import patiently
from rsrnet_platform.packaging import fetch
from rsrnet_platform.store import TrackingConfig, connect, explained, resolve_uri
from rsrnet_platform.terminal import console

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

_PATIENCE_SECONDS = 60.0
"""With a store that answered a moment ago."""

_VERSION = r"([^/@]+)(?:/(\d+)|@([^/@]+))"


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

    def bring() -> Path:
        with explained(store):
            return fetch(_location(client, store, uri), store)

    return _checkpoint_in(patiently(bring, _PATIENCE_SECONDS, console.print), uri)


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
        return f"models:/{name}/{_version_number(client, store, uri, name, None, alias)}"


def find_version(client: MlflowClient, store: str, model: str, name: str) -> ModelVersion:
    """The registered version that a person means.

    Args:
        client: of the store.
        store: its URI, for messages.
        model: ``models:/NAME/VERSION``, ``models:/NAME@ALIAS``, the same without ``models:/``, or the number alone.
        name: of the registered model that a number alone is a version of.

    Raises:
        RegistryError: if there is no such version; the message lists what there is.
    """
    parts = re.fullmatch(f"models:/{_VERSION}", uri_of(model, name))
    if parts is None:
        raise RegistryError(f"{model}: not a registered version. Write NAME/VERSION, NAME@ALIAS or VERSION")
    found, number, alias = parts.groups()
    number = _version_number(client, store, model, found, number, alias)
    return client.get_model_version(found, number)


def uri_of(model: str, name: str) -> str:
    """The ``models:/`` URI of a version as a person writes it (see :func:`find_version`); else the text as it is.

    Args:
        model: what was written.
        name: of the registered model that a number alone is a version of.
    """
    text = model.removeprefix("models:/")
    whole = f"{name}/{text}" if text.isdecimal() else text
    return f"models:/{whole}" if re.fullmatch(_VERSION, whole) else model


def _location(client: MlflowClient, store: str, uri: str) -> str:
    """Where the artifacts of a ``models:/`` or ``runs:/`` URI are."""
    if version := re.fullmatch(f"models:/{_VERSION}", uri):
        name, number, alias = version.groups()
        number = _version_number(client, store, uri, name, number, alias)
        return client.get_model_version_download_uri(name, number)
    if run := re.fullmatch(r"runs:/([^/]+)(?:/(.+?))?/?", uri):
        return _run_location(client, store, uri, *run.groups())
    raise RegistryError(
        f"{uri}: not the URI of a model. Write models:/NAME@ALIAS, models:/NAME/VERSION or runs:/RUN_ID"
    )


def _version_number(
    client: MlflowClient, store: str, uri: str, name: str, number: str | None, alias: str | None
) -> str:
    aliases = require_model(client, store, name, uri).aliases
    numbers = sorted(int(version.version) for version in versions_of(client, name))
    wanted = aliases.get(alias) if alias else number
    if wanted is None or int(wanted) not in numbers:
        missing = f"alias {alias!r}" if alias else f"version {number}"
        named = ", ".join(f"{key} (version {value})" for key, value in aliases.items())
        raise RegistryError(
            f"{uri}: model {name!r} in {store} has no {missing}. "
            f"Its versions: {', '.join(map(str, numbers)) or 'none'}; its aliases: {named or 'none'}"
        )
    return str(int(wanted))


def require_model(client: MlflowClient, store: str, name: str, uri: str | None = None) -> RegisteredModel:
    """A registered model that must exist.

    Args:
        client: of the store.
        store: its URI, for the message.
        name: of the model.
        uri: what the user asked for, which begins the message; None: the name.

    Raises:
        RegistryError: if there is no such model; the message lists what there is.
    """
    from mlflow.exceptions import MlflowException

    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        # The latter of a name that no model can have, such as NAME/VERSION.
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        known = ", ".join(model.name for model in registered_models(client)) or "none yet: train one"
        raise RegistryError(
            f"{uri or name}: no model {name!r} in {store}. Registered models: {known}"
        ) from error


def versions_of(client: MlflowClient, name: str) -> list[ModelVersion]:
    """Every version of a registered model, also of one that another program gave a name with quotes."""
    if "'" not in name:
        return list(client.search_model_versions(f"name = '{name}'"))
    return [version for version in client.search_model_versions() if version.name == name]


def registered_models(client: MlflowClient) -> list[RegisteredModel]:
    """Every registered model, by name; without the markers of :mod:`rsrnet_platform.models.lock`."""
    found: list[RegisteredModel] = []
    token = None
    while True:
        page = client.search_registered_models(page_token=token)
        found += [model for model in page if not model.name.startswith(LOCK_PREFIX)]
        if not (token := page.token):
            return sorted(found, key=lambda model: model.name)


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
    if uri.startswith(("models:/", "runs:/")) and not os.path.exists(folder):
        raise RegistryError(
            f"{uri}: the store says that its files are in {folder}, which is not there. If the folder was moved, bring "
            "it back, or give the place where the model is now instead of the URI"
        )
    raise RegistryError(
        f"{uri}: {folder} has no {WEIGHTS} and {CONFIG}. Give a checkpoint folder, models:/NAME@ALIAS, "
        "models:/NAME/VERSION or runs:/RUN_ID"
    )
