"""The folder of a run: what a job of the same name needs to go on with it.

``STORAGE/NAME/`` holds ``state.json``, a lock, and one folder an attempt (``attempt-1``, ``attempt-2`` after
``--fresh``, ...) with its checkpoints. The name is the identity: starting the same job again continues the
newest attempt.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from rsrnet_platform import spec
from rsrnet_platform.errors import UserError

MAY_CHANGE = ("cluster.", "data.loader_processes", "description", "tracking.model")
"""Settings (by dotted path or its beginning) that may differ when a run goes on: they do not change its result."""


@dataclass(frozen=True)
class RunState:
    """What ``state.json`` remembers of the newest attempt."""

    attempt: int = 0
    """Counts the fresh starts, from 1; 0: never started."""

    status: Literal["new", "running", "finished"] = "new"

    settings: dict[str, Any] = field(default_factory=dict)
    """The job's values by dotted path, as it was first started."""

    mlflow_run_id: str | None = None

    model_uri: str | None = None
    """The registered version, once finished."""


class Run:
    """A run's folder, held by one process at a time; see :func:`hold`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = self._read()

    @property
    def attempt(self) -> str:
        """Name of the newest attempt, and of its folder inside the run's."""
        return f"attempt-{self.state.attempt}"

    def update(self, **changes: Any) -> None:
        """Change the state and write it, whole or not at all."""
        self.state = replace(self.state, **changes)
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self.state), indent=2))
        os.replace(partial, self._path)

    def begin(self, job: spec.TrainJob, *, fresh: bool) -> None:
        """Start the first attempt, a fresh one, or go on with the newest.

        Raises:
            UserError: if the run was started with other settings.
        """
        settings = spec.flatten(job)
        if self.state.attempt and not fresh:
            self._require_same(settings, job.name)
            return
        self.update(
            attempt=self.state.attempt + 1,
            status="running",
            settings=settings,
            mlflow_run_id=None,
            model_uri=None,
        )

    def _require_same(self, settings: dict[str, Any], name: str) -> None:
        changed = [
            f"{path}: {self.state.settings.get(path)!r}, now {value!r}"
            for path, value in settings.items()
            if not path.startswith(MAY_CHANGE) and self.state.settings.get(path) != value
        ]
        if changed:
            lines = "\n  ".join(changed)
            raise UserError(
                f"The run {name!r} in {self.folder} was started with other settings:\n  {lines}\n"
                "Give the job another name, or start over with --fresh."
            )

    @property
    def _path(self) -> Path:
        return self.folder / "state.json"

    def _read(self) -> RunState:
        if not self._path.exists():
            return RunState()
        try:
            return RunState(**json.loads(self._path.read_text()))
        except (json.JSONDecodeError, TypeError) as error:
            raise UserError(
                f"{self._path}: damaged ({error}). Remove the folder {self.folder}, or give the job another name."
            ) from error


@contextmanager
def hold(storage: str, name: str) -> Iterator[Run]:
    """Open the folder of a run and keep every other process out of it.

    Raises:
        UserError: if another process holds it, or the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    folder = Path(storage) / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock", timeout=0)
        lock.acquire()
    except Timeout:
        raise UserError(
            f"The run {name!r} in {folder} is going on in another process. Wait for it, or give the job another name."
        ) from None
    except OSError as error:
        raise UserError(f"storage = {storage}: cannot be written ({error.strerror or error})") from error
    try:
        yield Run(folder)
    finally:
        lock.release()
