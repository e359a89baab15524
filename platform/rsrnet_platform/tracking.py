"""MLflow tracking of one job: its configuration and its run.

Nothing here touches MLflow's global state (active run, tracking URI), and MLflow is imported on first use:
importing this module is cheap.
"""

from __future__ import annotations

import getpass
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from rsrnet.uris import is_uri
from rsrnet_platform.files import whole
from rsrnet_platform.outage import UnreachableError
from rsrnet_platform.outbox import Outbox
from rsrnet_platform.store import (
    TrackingConfig,
    TrackingError,
    ensure_experiment,
    explained,
    open_client,
    prepare,
    resolve_uri,
)
from rsrnet_platform.terminal import console

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from PIL.Image import Image

__all__ = ["Tracker", "TrackingConfig", "TrackingError", "prepare", "resolve_uri"]

T = TypeVar("T")

ATTEMPT_TAG = "rsrnet.attempt"
"""Tag of an MLflow run by which a job finds it again."""

HASTE = 5.0
"""Seconds to wait for a store that is away where somebody waits for the process to end."""

_METRICS_PER_CALL = 1000
_PARAMS_PER_CALL = 100


class Tracker:
    """One MLflow run, from any process.

    What is logged is sent in the background, in order, and outlasts a store that is away for a while; see
    :class:`Outbox`. :meth:`flush` waits for it. What the store refuses is raised by the next call.

    As a context manager it ends the run in its true state: FINISHED, FAILED (an exception) or KILLED (Ctrl-C,
    exit), once everything is logged. A point that the run holds already is never logged again, so that an epoch
    replayed after a crash leaves one point per metric and step: the first.

    Args:
        outbox: sends what is logged; runs may share one.
        run_id: None: the run is yet to be opened.
        unsent: folder for pictures until they are sent; None: a temporary one, which does not outlast the process.
    """

    def __init__(self, outbox: Outbox, run_id: str | None = None, unsent: Path | None = None) -> None:
        self.uri = outbox.uri
        self.known_id = run_id
        """Of the run; None: it is yet to be opened."""
        self._outbox = outbox
        self._unsent = unsent
        self._held: set[tuple[str, int]] = set()
        self._ended = False

    @cached_property
    def _client(self) -> MlflowClient:
        """Made when it is used first, which mostly is in the background: importing MLflow takes seconds."""
        return open_client(self.uri)

    @classmethod
    def of_attempt(
        cls,
        uri: str,
        config: TrackingConfig,
        name: str,
        attempt: str,
        *,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        job_yaml: str,
    ) -> Self:
        """The run of an attempt: a new one, or the same one again after an interruption.

        Args:
            uri: the store, as :func:`prepare` returned it; it must answer at once.
            config: the ``tracking`` section of the job.
            name: run name shown in the MLflow UI.
            attempt: what the run is known by; unique.
            params: every parameter of the job by its dotted path, kept as text; a run that goes on keeps its own.
            tags: what the run stands on, such as ``mlflow.source.git.commit`` (which the UI shows).
            job_yaml: resolved job file, kept as artifact ``job.yaml``.

        Raises:
            TrackingError: if the store cannot be used; no run is left open.
        """
        tracker = cls(Outbox(uri, config.patience, console.print))
        with explained(uri):
            tracker._open(config.experiment, name, attempt, params, tags, job_yaml)
        return tracker

    @classmethod
    def attach(
        cls,
        uri: str,
        run_id: str,
        *,
        patience: float = TrackingConfig.patience,
        tell: Callable[[str], None] = console.print,
        unsent: Path | None = None,
    ) -> Self:
        """Go on with a run that exists, knowing the points it holds.

        Whether it exists is found out in the background: a :class:`TrackingError` of the calls that follow says if
        there is no such run, or if it was deleted.

        Args:
            uri: the store, as :func:`prepare` returned it.
            run_id: of the run.
            patience: seconds that :meth:`flush` waits for a store that is away.
            tell: shows people a line, from any thread.
            unsent: folder for pictures until they are sent; those that an earlier process left there are sent now.
                None: a temporary folder.
        """
        tracker = cls(Outbox(uri, patience, tell), run_id, unsent)
        tracker._outbox.put(tracker._learn)
        if unsent is not None:
            for file in sorted(unsent.rglob("*.png")):
                tracker._outbox.put(partial(tracker._send_file, file, unsent))
        return tracker

    def open(self) -> None:
        """Import MLflow now, and wait until that is done."""
        _ = self._client

    @classmethod
    def give_up(cls, uri: str, config: TrackingConfig, attempt: str) -> None:
        """End the run of an attempt that was killed and is not to go on, and the runs below it, as KILLED.

        Args:
            uri: the store, as :func:`prepare` returned it.
            config: the ``tracking`` section of the job.
            attempt: as in :meth:`of_attempt`; nothing happens if there is no such run, or it ended.
        """
        with explained(uri):
            client = open_client(uri)
            experiment = ensure_experiment(client, uri, config.experiment)
            for run in _runs_of(client, experiment, attempt):
                for child in _running_below(client, run):
                    client.set_terminated(child.info.run_id, "KILLED")
                if run.info.status == "RUNNING":
                    client.set_terminated(run.info.run_id, "KILLED")

    @property
    def run_id(self) -> str:
        """Of the run, which is open."""
        if self.known_id is None:
            raise RuntimeError("the run is not open yet")
        return self.known_id

    def child(
        self,
        config: TrackingConfig,
        name: str,
        attempt: str,
        *,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        job_yaml: str,
    ) -> Tracker:
        """The run of an attempt below this one, see :meth:`of_attempt`; it is opened in the background."""
        tracker = Tracker(self._outbox)
        tags = {"mlflow.parentRunId": self.run_id, **tags}
        open_run = partial(tracker._open, config.experiment, name, attempt, params, tags, job_yaml)
        self._outbox.put(open_run)
        return tracker

    def sibling(self, run_id: str) -> Tracker:
        """Go on with another run that exists, see :meth:`attach`; what this one's :meth:`flush` waits for too."""
        tracker = Tracker(self._outbox, run_id)
        self._outbox.put(tracker._learn)
        return tracker

    def running_children(self) -> list[tuple[Mapping[str, str], Tracker]]:
        """The runs below this one that are RUNNING, each with its tags; the store must answer at once."""
        with explained(self.uri):
            found = _running_below(self._client, self._client.get_run(self.run_id))
        return [(run.data.tags, self.sibling(run.info.run_id)) for run in found]

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set or change tags of the run."""
        self._outbox.put(partial(self._send_tags, dict(tags)))

    def log_epoch(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of one epoch in one call; points the run holds already are left out."""
        self.log_epochs([(step, metrics)])

    def log_epochs(self, history: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        """Log every point of a checkpoint's history that the run does not hold yet.

        Args:
            history: pairs of step (epoch) and metrics by name, such as ``(3, {"val/iou": 0.61})``.
        """
        points = {(key, step): float(value) for step, metrics in history for key, value in metrics.items()}
        # The time is part of a point: one that is sent again because its answer was lost is the same to MLflow.
        self._outbox.put(partial(self._send_points, points, time.time_ns() // 1_000_000))

    def log_dataset(self, root: str, fingerprint: str, context: str, counts: Mapping[str, int]) -> None:
        """Say what the run stands on, where MLflow's pages show it; said again, it changes nothing.

        Args:
            root: folder or URI of the dataset; its last part is the name.
            fingerprint: of its images.
            context: what they are for, such as ``training``.
            counts: how many of which kind.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        name = root.rstrip("/").rpartition("/")[2] or root
        source, profile = json.dumps({"uri": root}), json.dumps(counts)
        # MLflow keeps 36 characters of a digest.
        dataset = Dataset(name, fingerprint[:16], "uri" if is_uri(root) else "local", source, profile=profile)
        given = [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])]
        self._outbox.put(lambda: self._send_inputs(given))

    def _send_inputs(self, inputs: list[Any]) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.log_inputs(self.run_id, inputs)
        except MlflowException as error:
            # MLflow 3.17 looks for the dataset and then makes it: of two runs that begin at once on the same images,
            # one comes too late to make it. This time it finds it.
            if error.error_code != "BAD_REQUEST":
                raise
            self._client.log_inputs(self.run_id, inputs)

    def log_image(self, image: Image, path: str) -> None:
        """Keep a picture as artifact, such as ``pictures/epoch_003_masks.png``."""
        if self._unsent is None:
            self._temporary = TemporaryDirectory(prefix="rsrnet-unsent-")  # removed with this object
            self._unsent = Path(self._temporary.name)
        file = whole(self._unsent / path, lambda partial_file: image.save(partial_file, format="PNG"))
        self._outbox.put(partial(self._send_file, file, self._unsent))

    def log_folder(self, folder: Path, path: str) -> None:
        """Keep the files of a folder as artifacts under a path; they must stay as they are until :meth:`flush`."""
        self._outbox.put(lambda: self._client.log_artifacts(self.run_id, str(folder), path))

    def check(self) -> None:
        """Raise what the store refused, if it did."""
        self._outbox.check()

    def flush(self, patience: float | None = None) -> None:
        """Wait until everything is logged; see :meth:`Outbox.flush`."""
        self._outbox.flush(patience)

    def abandon(self) -> None:
        """Log nothing more, as another process will go on with the run; see :meth:`Outbox.abandon`."""
        self._outbox.abandon()

    def finish(self, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
        """End the run with a status, after everything that is to be logged; does not wait for it."""
        self._outbox.put(lambda: self._client.set_terminated(self.run_id, status))
        self._ended = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            try:
                self.flush()
                if not self._ended:
                    self.finish("FINISHED")
                    self.flush()
            except TrackingError as refused:
                self._fail("FAILED", refused)
                raise
        else:
            self._fail("FAILED" if issubclass(kind, Exception) else "KILLED", error)

    def _fail(self, status: Literal["FAILED", "KILLED"], error: BaseException | None) -> None:
        """End the run of a job that failed, whose own error is what the user has to see."""
        # Whoever waited for the store in vain waits no longer; and a process that was killed must end.
        hasty = status == "KILLED" or isinstance(error, UnreachableError)
        try:
            with suppress(TrackingError):
                self.check()
            if not self._ended:
                self.finish(status)
            self.flush(min(HASTE, self._outbox.patience) if hasty else None)
        except TrackingError as refused:
            self._outbox.tell(f"The MLflow run could not be ended as {status}: {refused}")
        self.abandon()

    def _open(
        self,
        experiment_name: str,
        name: str,
        attempt: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        job_yaml: str,
    ) -> None:
        """Find or create the run; may be done again after it failed half-way."""
        client = self._client
        experiment = ensure_experiment(client, self.uri, experiment_name)
        found = _runs_of(client, experiment, attempt)
        if found:
            self.known_id = found[0].info.run_id
            self._learn()
            client.update_run(self.run_id, status="RUNNING")
            self._send_tags(tags)
            known = found[0].data.params
        else:
            tags = {**_origin(), **tags, ATTEMPT_TAG: attempt}
            self.known_id = client.create_run(experiment, run_name=name, tags=tags).info.run_id
            known = {}
        try:
            if not known:  # the job file first: a run with parameters has it
                client.log_text(self.run_id, job_yaml, "job.yaml")
            self._send_params({key: value for key, value in params.items() if key not in known})
        except BaseException:
            with suppress(Exception):
                client.set_terminated(self.run_id, "FAILED")
            raise

    def _learn(self) -> None:
        """Find out which points the run holds."""
        run = self._client.get_run(self.run_id)
        if run.info.lifecycle_stage == "deleted":
            raise TrackingError(
                f"tracking.uri = {self.uri}: run {self.run_id} was deleted. Start over, or restore it with "
                f"`mlflow runs restore --run-id {self.run_id}`"
            )
        for key in run.data.metrics:
            points = self._client.get_metric_history(self.run_id, key)
            self._held.update((key, point.step) for point in points)

    def _send_params(self, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        for batch in _batches([Param(key, str(value)) for key, value in params.items()], _PARAMS_PER_CALL):
            self._client.log_batch(self.run_id, params=batch)

    def _send_tags(self, tags: Mapping[str, str]) -> None:
        for key, value in tags.items():
            self._client.set_tag(self.run_id, key, value)

    def _send_points(self, points: Mapping[tuple[str, int], float], milliseconds: int) -> None:
        from mlflow.entities import Metric

        missing = [
            Metric(key, value, milliseconds, step)
            for (key, step), value in points.items()
            if (key, step) not in self._held
        ]
        for batch in _batches(missing, _METRICS_PER_CALL):
            self._client.log_batch(self.run_id, metrics=batch)
            self._held.update((metric.key, metric.step) for metric in batch)

    def _send_file(self, file: Path, folder: Path) -> None:
        """Keep a file as artifact under its path in a folder, and remove it there."""
        # Already gone: sent by the worker before, which outlived its training for a moment.
        with suppress(FileNotFoundError):
            where = file.parent.relative_to(folder).as_posix()
            self._client.log_artifact(self.run_id, str(file), None if where == "." else where)
            file.unlink()


def user_name() -> str:
    """Who runs this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user id without a name
        return str(os.getuid())


def _origin() -> dict[str, str]:
    return {"mlflow.user": user_name(), "mlflow.source.name": "rsrnet", "mlflow.source.type": "JOB"}


def _runs_of(client: MlflowClient, experiment: str, attempt: str) -> list[Run]:
    return client.search_runs([experiment], f"tags.`{ATTEMPT_TAG}` = '{attempt}'")


def _running_below(client: MlflowClient, run: Run) -> list[Run]:
    return client.search_runs(
        [run.info.experiment_id],
        f"tags.`mlflow.parentRunId` = '{run.info.run_id}' and attributes.status = 'RUNNING'",
        max_results=50_000,
    )


def _batches(items: list[T], size: int) -> Iterator[list[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
