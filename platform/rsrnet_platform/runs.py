"""The folder of a run: what a job of the same name needs to go on with it.

``STORAGE/NAME/`` holds ``state.json``, a lock, and one folder an attempt (``attempt-1``, ``attempt-2`` after
``--fresh``, ...) with its checkpoints. The name is the identity: starting the same job again continues the
newest attempt.

Of a training whose storage is a URI, the state and the checkpoints are there; the lock, and what only this machine
needs for a while, are in a folder of this machine.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4
from zlib import crc32

from rsrnet.uris import is_uri
from rsrnet_platform import spec
from rsrnet_platform.alone import alone_in
from rsrnet_platform.errors import UserError
from rsrnet_platform.files import whole
from rsrnet_platform.limit import within

if TYPE_CHECKING:
    from rsrnet.data.storage import Storage

STATE = "state.json"

MAY_CHANGE = (
    "cluster.",
    "concurrent",
    "data.loader_processes",
    "data.photographs",
    "data.root",
    "description",
    "fit.checkpoint_iterations",
    "fit.compile",
    "fit.on_nonfinite",
    "refit",
    "repeats",
    "rows",
    "search.concurrent",
    "search.trials",
    "tracking.patience",
)
"""Settings (by dotted path or its beginning) that may differ when a run goes on: where and how it computes, and how
many trials a search or an ablation has."""


@dataclass(frozen=True)
class Data:
    """What a training found out about its images."""

    fingerprint: str
    """Of the training and validation images."""

    val_fingerprint: str
    """Of the validation images: scores on other images cannot be compared."""

    train: int
    val: int
    """How many can be used."""

    skipped: list[str]
    """Paths of those that cannot, relative to the dataset."""


@dataclass(frozen=True)
class RunState:
    """What ``state.json`` remembers of the newest attempt."""

    attempt: int = 0
    """Counts the fresh starts, from 1; 0: never started."""

    status: Literal["new", "running", "finished"] = "new"

    settings: dict[str, Any] = field(default_factory=dict)
    """The job's values by dotted path, as it was first started."""

    data: Data | None = None
    """The images it was started with."""

    attempt_id: str = ""
    """Unique; the attempt's MLflow run is tagged with it."""

    model_uri: str | None = None
    """The registered version, once finished."""

    def __post_init__(self) -> None:
        # It is read from a file, and says which folder is the attempt's.
        if type(self.attempt) is not int or self.attempt < 0:
            raise ValueError(f"attempt is {self.attempt!r}, not a number of attempts")
        if not re.fullmatch("[0-9a-f]*", self.attempt_id):
            raise ValueError(f"attempt_id is {self.attempt_id!r}, not the id of an attempt")


class Run:
    """A run's folder, held by one process at a time; see :func:`hold`.

    Args:
        folder: on this machine.
        storage: where the state and the checkpoints are; None: in that folder.
    """

    def __init__(self, folder: Path, storage: Storage | None = None) -> None:
        self.folder = folder
        self.storage = storage
        self.state = self._read()

    @property
    def where(self) -> str:
        """Where the state and the checkpoints are."""
        return self.storage.where if self.storage else str(self.folder)

    @property
    def attempt(self) -> str:
        """Name of the newest attempt, and of its folder inside the run's."""
        return f"attempt-{self.state.attempt}"

    @property
    def data(self) -> Data:
        """The images of the newest attempt, which has begun."""
        if self.state.data is None:
            raise RuntimeError("the run has not begun")
        return self.state.data

    def update(self, **changes: Any) -> None:
        """Change the state and write it, whole or not at all."""
        self.state = replace(self.state, **changes)
        text = json.dumps(asdict(self.state), indent=2)
        if self.storage:
            self.storage.write(STATE, io.BytesIO(text.encode()))
        else:
            whole(self.folder / STATE, lambda path: path.write_text(text))

    def begin(self, job: spec.RunJob, data: Data, *, fresh: bool) -> None:
        """Start the first attempt or a fresh one; an attempt that goes on stays what it is."""
        if self.state.attempt and not fresh:
            return
        self.update(
            attempt=self.state.attempt + 1,
            status="running",
            settings=spec.flatten(job),
            data=data,
            attempt_id=uuid4().hex,
            model_uri=None,
        )

    def require_same_settings(self, job: spec.RunJob) -> None:
        """Refuse to go on with a run under another job.

        Raises:
            UserError: naming every setting that differs.
        """
        if changed := self.changed_settings(job):
            lines = "\n  ".join(changed)
            raise UserError(
                f"The run {job.name!r} in {self.where} was started with other settings:\n  {lines}\n"
                "Give the job another name, or start over with --fresh."
            )

    def changed_settings(self, job: spec.RunJob) -> list[str]:
        """Settings in which a job differs from the newest attempt's, but may not; none if nothing was started."""
        if not self.state.attempt:
            return []
        then, now = self.state.settings, spec.flatten(job)
        return [
            f"{path}: {then.get(path, 'not there')!r}, now {now.get(path, 'not there')!r}"
            for path in dict.fromkeys([*then, *now])
            if not _may_change(path, job) and _differ(path, then, now)
        ]

    def _read(self) -> RunState:
        text = self._text()
        if text is None:
            return RunState()
        try:
            values = json.loads(text)
            return RunState(**{**values, "data": values["data"] and Data(**values["data"])})
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self.where}/{STATE}: damaged ({error}). Remove the folder {self.where}, or give the job another "
                "name."
            ) from error

    def _text(self) -> bytes | None:
        if self.storage:
            return self.storage.read(STATE) if self.storage.infos([STATE])[0].is_file else None
        path = self.folder / STATE
        try:
            return path.read_bytes() if path.exists() else None
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error


def _may_change(path: str, job: spec.RunJob) -> bool:
    # The checkpoints of a trial with several workers are Ray Train's, those of one with a single worker are not.
    return path.startswith(MAY_CHANGE) and not (job.kind in ("tune", "ablate") and path == "cluster.workers")


def _differ(path: str, then: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether a setting changed; one that came with a newer release has its default, as it had before."""
    if path.startswith("space."):
        return (path in then, then.get(path)) != (path in now, now.get(path))
    return path in then and path in now and then[path] != now[path]


@contextmanager
def hold(storage: str, name: str) -> Iterator[Run]:
    """Open the folder of a run and keep every other process out of it: of this machine, where storage is a URI.

    Raises:
        UserError: if another process holds it, or the folder cannot be written or hangs.
        DataError: if a URI is of no known kind, or its store does not answer.
    """
    folder = (_scratch(storage) if is_uri(storage) else Path(storage)) / name
    run: Run | None = None

    def begun() -> bool:
        return (run is not None and run.state.attempt > 0) or (folder / STATE).exists()

    busy = f"The run {name!r} in {folder} is going on in another process. Wait for it, or give the job another name."
    with alone_in(folder, "lock", f"storage = {storage}", busy=busy, begun=begun):
        run = within(storage, lambda: Run(folder, _opened(storage, name)))
        yield run


def _opened(storage: str, name: str) -> Storage | None:
    if not is_uri(storage):
        return None
    from rsrnet.data.storage import open_storage

    return open_storage(f"{storage.rstrip('/')}/{name}")


def _scratch(uri: str) -> Path:
    """Folder of this machine for the runs of a storage."""
    words = re.sub(r"[^A-Za-z0-9.]+", "-", uri).strip("-")
    return Path.home() / "rsrnet" / "scratch" / f"{words}-{crc32(uri.encode()):08x}"
