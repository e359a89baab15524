"""The MLflow store: where it is, whether it answers, and the lock that makes an embedded one safe.

MLflow is imported on first use: importing this module is cheap.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsrnet.config import require
from rsrnet_platform.outage import TrackingError, explained
from rsrnet_platform.secrecy import masked

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = [
    "TrackingConfig",
    "TrackingError",
    "connect",
    "database_of",
    "ensure_experiment",
    "explained",
    "open_client",
    "prepare",
    "probe",
    "resolve_uri",
    "store_lock",
]

_DEFAULT_STORE = "~/rsrnet/mlflow.db"
_EXPERIMENT_TAGS = {
    # Otherwise the pages of a fresh store are about language models.
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.note.content": "Trainings, searches and evaluations of RSRNet, which finds the region of a composite image "
    "whose colour or light does not fit. Pictures of each run are among its artifacts.",
}
_LOCK_SECONDS = 120
_CLIENT = {
    # MLflow would report usage to its makers, and draw bars amidst ours.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # It would try again for many minutes by itself, and so make a run or a version twice whose answer was lost. What
    # may be done again is known to the callers: see rsrnet_platform.outage.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    # Of a server with a bucket it would fetch files from the bucket itself, which often only the server reaches.
    "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "false",
    "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": "false",
}
"""Environment of MLflow's client, unless the user set it."""
_ONE_QUICK_TRY = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "4"}


@dataclass(frozen=True)
class TrackingConfig:
    """Where a job is tracked and under which names."""

    uri: str | None = None
    """MLflow server (``http://...``), or a path: an SQLite file ``*.db``, or a folder for ``mlflow.db``.
    None: ``$MLFLOW_TRACKING_URI``, else ``~/rsrnet/mlflow.db``."""

    experiment: str = "rsrnet"
    """MLflow experiment that holds the run."""

    model: str | None = "rsrnet"
    """Registered model that gets the best checkpoint as a new version. None: register nothing."""

    patience: float = 300.0
    """Seconds to wait, at the end of a job that began with a store that answered, for one that does not."""

    def __post_init__(self) -> None:
        named = self.model is None or (bool(self.model.strip()) and not set("/:@'") & set(self.model))
        require(
            self,
            uri=(self.uri is None or bool(self.uri.strip()), "a URI, a path, or null for the default store"),
            experiment=(bool(self.experiment.strip()), "a name"),
            model=(named, "a name without / : @ ' in it, or null to register nothing"),
            patience=(0 <= self.patience < math.inf, "a number of seconds, at least 0"),
        )


def resolve_uri(config: TrackingConfig) -> str:
    """Tell which store a configuration means, without touching it.

    Args:
        config: the ``tracking`` section of a job.

    Returns:
        ``http(s)://...``, or ``sqlite:///`` with an absolute path (workers change their current directory).

    Raises:
        TrackingError: if the URI is of another kind, or holds a name or password.
    """
    given = config.uri or os.environ.get("MLFLOW_TRACKING_URI") or _DEFAULT_STORE
    scheme = re.match(r"(\w[\w+.-]*):", given)
    if scheme and scheme[1] in ("http", "https"):
        if masked(given) != given:
            where = "tracking.uri" if config.uri else "$MLFLOW_TRACKING_URI"
            raise TrackingError(
                f"{where}: an address is told and recorded. Set $MLFLOW_TRACKING_USERNAME and "
                "$MLFLOW_TRACKING_PASSWORD instead of writing a name and password into it"
            )
        return given.rstrip("/")
    if scheme and not given.startswith("sqlite:///"):
        raise TrackingError(
            f"tracking.uri = {given}: not a store this platform can use. Give the http(s):// address of an "
            "MLflow server, or the path of an SQLite file such as runs/mlflow.db"
        )
    path = Path(os.path.abspath(Path(given.removeprefix("sqlite:///")).expanduser()))
    return f"sqlite:///{path if path.suffix in ('.db', '.sqlite') else path / 'mlflow.db'}"


def database_of(uri: str) -> Path | None:
    """Return the file of an embedded store, or None if the URI names a server."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def prepare(config: TrackingConfig) -> str:
    """Make sure that the store answers and holds the experiment, before anything expensive starts.

    An embedded store gets its folder and its schema here, under a file lock: MLflow itself fails if two
    processes open a fresh one at once.

    Args:
        config: the ``tracking`` section of a job.

    Returns:
        The URI of the store, good in any process and any current directory.

    Raises:
        TrackingError: if a server does not answer within seconds, or a file or folder cannot be used.
    """
    uri = resolve_uri(config)
    database = database_of(uri)
    with explained(uri), store_lock(uri):
        if database is not None and not database.exists():
            _create_database(database)
        ensure_experiment(connect(uri), uri, config.experiment)
    return uri


def probe(config: TrackingConfig) -> None:
    """Make sure that a server answers, without writing anything anywhere; an embedded store is not looked at.

    Raises:
        TrackingError: if no server answers at the URI within seconds.
    """
    uri = resolve_uri(config)
    if database_of(uri) is None:
        connect(uri)


def connect(uri: str) -> MlflowClient:
    """Open an existing store.

    Args:
        uri: as returned by :func:`resolve_uri` or :func:`prepare`.

    Raises:
        TrackingError: if it is not there or does not answer within seconds (MLflow would retry for minutes).
    """
    database = database_of(uri)
    with explained(uri):
        if database is not None:
            _check_database(uri, database)
            return open_client(uri)
        with _environment(_ONE_QUICK_TRY):
            client = open_client(uri)
            client.search_experiments(max_results=1)
        return client


def open_client(uri: str) -> MlflowClient:
    """Return MLflow's client for a store that is known to be there; nothing is asked of the store yet."""
    for key, value in _CLIENT.items():
        os.environ.setdefault(key, value)
    from mlflow import MlflowClient

    # It prints the traceback of a locked database, which is told and tried again here.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def store_lock(uri: str) -> AbstractContextManager[Any]:
    """Return a lock that one process at a time can hold. Only an embedded store has one, and needs one.

    Raises:
        OSError: on entering, if the folder cannot be written or the lock is not free within two minutes.
    """
    from filelock import FileLock

    database = database_of(uri)
    if database is None:
        return nullcontext()
    database.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{database}.lock", timeout=_LOCK_SECONDS)


def ensure_experiment(client: MlflowClient, uri: str, name: str) -> str:
    """Return the id of an experiment, made if it is missing.

    Raises:
        TrackingError: if an experiment of that name was deleted.
    """
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        database = database_of(uri)
        location = None if database is None else str(database.parent / "mlartifacts")
        try:
            return client.create_experiment(name, artifact_location=location, tags=_EXPERIMENT_TAGS)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return ensure_experiment(client, uri, name)  # another process was faster
    if experiment.lifecycle_stage == "deleted":
        raise TrackingError(
            f"tracking.experiment = {name!r}: it was deleted from {uri}. Choose another name, or restore it "
            f"with `mlflow experiments restore --experiment-id {experiment.experiment_id}`"
        )
    return experiment.experiment_id


def _create_database(database: Path) -> None:
    # In a file of its own first: half a schema, left by a killed process, is beyond MLflow's repair.
    unfinished = database.with_name(f"{database.name}.new")
    unfinished.unlink(missing_ok=True)
    _make_schema(unfinished)
    unfinished.replace(database)


def _make_schema(database: Path) -> None:
    open_client(f"sqlite:///{database}").search_experiments(max_results=1)


def _check_database(uri: str, database: Path) -> None:
    import sqlalchemy

    if not database.exists():
        raise TrackingError(
            f"tracking.uri = {uri}: there is no store yet. Run a training job, or set the URI"
        )
    engine = sqlalchemy.create_engine(uri)
    try:
        # MLflow retries a file that is not a database for half an hour; this fails at once.
        sqlalchemy.inspect(engine).get_table_names()
    finally:
        engine.dispose()


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
