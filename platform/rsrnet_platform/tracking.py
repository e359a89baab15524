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
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from rsrnet.uris import is_uri
from rsrnet_platform.store import (
    TrackingConfig,
    TrackingError,
    ensure_experiment,
    explained,
    open_client,
    prepare,
    resolve_uri,
)

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Tracker", "TrackingConfig", "TrackingError", "prepare", "resolve_uri"]

T = TypeVar("T")

ATTEMPT_TAG = "rsrnet.attempt"
"""Tag of an MLflow run by which a job finds it again."""

_METRICS_PER_CALL = 1000
_PARAMS_PER_CALL = 100


class Tracker:
    """One MLflow run, from any process.

    As a context manager it ends the run in its true state: FINISHED, FAILED (an exception) or KILLED (Ctrl-C,
    exit). A point that the run holds already is never logged again, so that an epoch replayed after a crash
    leaves one point per metric and step: the first.
    """

    def __init__(self, uri: str, run_id: str) -> None:
        self.uri = uri
        self.run_id = run_id
        self._client = open_client(uri)
        self._held: set[tuple[str, int]] = set()
        self._ended = False

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
            uri: the store, as :func:`prepare` returned it.
            config: the ``tracking`` section of the job.
            name: run name shown in the MLflow UI.
            attempt: what the run is known by; unique.
            params: every parameter of the job by its dotted path, kept as text; a run that goes on keeps its own.
            tags: what the run stands on, such as ``mlflow.source.git.commit`` (which the UI shows).
            job_yaml: resolved job file, kept as artifact ``job.yaml``.

        Raises:
            TrackingError: if the store cannot be used; no run is left open.
        """
        with explained(uri):
            client = open_client(uri)
            experiment = ensure_experiment(client, uri, config.experiment)
            found = client.search_runs([experiment], f"tags.`{ATTEMPT_TAG}` = '{attempt}'")
        if found:
            tracker = cls.attach(uri, found[0].info.run_id)
            tracker.reopen(tags)
            return tracker
        with explained(uri):
            run = client.create_run(
                experiment, run_name=name, tags={**_origin(), **tags, ATTEMPT_TAG: attempt}
            )
        tracker = cls(uri, run.info.run_id)
        try:
            tracker._log_params(params)
            tracker.log_text(job_yaml, "job.yaml")
        except BaseException:
            tracker.finish("FAILED")
            raise
        return tracker

    @classmethod
    def attach(cls, uri: str, run_id: str) -> Self:
        """Go on with a run that exists, knowing the points it holds.

        Raises:
            TrackingError: if there is no such run, or it was deleted.
        """
        tracker = cls(uri, run_id)
        run = tracker._call(tracker._client.get_run, run_id)
        if run.info.lifecycle_stage == "deleted":
            raise TrackingError(
                f"tracking.uri = {uri}: run {run_id} was deleted. Start over, or restore it with "
                f"`mlflow runs restore --run-id {run_id}`"
            )
        for key in run.data.metrics:
            points = tracker._call(tracker._client.get_metric_history, run_id, key)
            tracker._held.update((key, point.step) for point in points)
        return tracker

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
            found = client.search_runs([experiment], f"tags.`{ATTEMPT_TAG}` = '{attempt}'")
        for run in found:
            tracker = cls(uri, run.info.run_id)
            for _, child in tracker.running_children():
                child.finish("KILLED")
            if run.info.status == "RUNNING":
                tracker.finish("KILLED")

    def reopen(self, tags: Mapping[str, str] | None = None) -> None:
        """Set the run to RUNNING again, with the tags that are new in this attempt (the Ray job id)."""
        self._call(self._client.update_run, self.run_id, status="RUNNING")
        self.set_tags(tags or {})
        self._ended = False

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set or change tags of the run."""
        for key, value in tags.items():
            self._call(self._client.set_tag, self.run_id, key, value)

    def log_epoch(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of one epoch in one call; points the run holds already are left out."""
        self.log_epochs([(step, metrics)])

    def log_epochs(self, history: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        """Log every point of a checkpoint's history that the run does not hold yet.

        Args:
            history: pairs of step (epoch) and metrics by name, such as ``(3, {"val/iou": 0.61})``.
        """
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        points = {(key, step): value for step, metrics in history for key, value in metrics.items()}
        missing = [
            Metric(key, float(value), now, step)
            for (key, step), value in points.items()
            if (key, step) not in self._held
        ]
        for batch in _batches(missing, _METRICS_PER_CALL):
            self._call(self._client.log_batch, self.run_id, metrics=batch)
            self._held.update((metric.key, metric.step) for metric in batch)

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
        tag = InputTag("mlflow.data.context", context)
        self._call(self._client.log_inputs, self.run_id, [DatasetInput(dataset, [tag])])

    def log_image(self, image: Image, path: str) -> None:
        """Keep a picture as artifact, such as ``pictures/epoch_003_masks.png``."""
        self._call(self._client.log_image, self.run_id, image, path)

    def log_text(self, text: str, path: str) -> None:
        """Keep a text as artifact under a path with an extension that the UI can show."""
        self._call(self._client.log_text, self.run_id, text, path)

    def log_folder(self, folder: Path, path: str) -> None:
        """Keep the files of a folder as artifacts under a path."""
        self._call(self._client.log_artifacts, self.run_id, str(folder), path)

    def running_children(self) -> list[tuple[Mapping[str, str], Tracker]]:
        """The runs below this one that are RUNNING, each with its tags."""
        experiment = self._call(self._client.get_run, self.run_id).info.experiment_id
        found = self._call(
            self._client.search_runs,
            [experiment],
            f"tags.`mlflow.parentRunId` = '{self.run_id}' and attributes.status = 'RUNNING'",
            max_results=50_000,
        )
        return [(run.data.tags, Tracker.attach(self.uri, run.info.run_id)) for run in found]

    def finish(self, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
        """End the run with a status."""
        self._call(self._client.set_terminated, self.run_id, status)
        self._ended = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ended:
            return
        if kind is None:
            self.finish("FINISHED")
        else:
            self.finish("FAILED" if issubclass(kind, Exception) else "KILLED")

    def _log_params(self, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        for batch in _batches([Param(key, str(value)) for key, value in params.items()], _PARAMS_PER_CALL):
            self._call(self._client.log_batch, self.run_id, params=batch)

    def _call(self, method: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Make one call to the store. Every call of a run goes through here."""
        with explained(self.uri):
            return method(*args, **kwargs)


def user_name() -> str:
    """Who runs this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user id without a name
        return str(os.getuid())


def _origin() -> dict[str, str]:
    return {"mlflow.user": user_name(), "mlflow.source.name": "rsrnet", "mlflow.source.type": "JOB"}


def _batches(items: list[T], size: int) -> Iterator[list[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
