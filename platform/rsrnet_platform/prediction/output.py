"""The output of a job: held by one job at a time, and gone on with only by the same job with the same model."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsrnet.data.errors import DataError
from rsrnet.data.storage import Storage, open_storage
from rsrnet.uris import is_uri
from rsrnet_platform import spec
from rsrnet_platform.alone import alone_in
from rsrnet_platform.errors import UserError
from rsrnet_platform.prediction import ledger, table
from rsrnet_platform.prediction.stages import Model

TABLE = "predictions.parquet"
JOB = "predict.yaml"
SETTINGS = f"{ledger.HIDDEN}/settings.json"
LOCK = f"{ledger.HIDDEN}/lock"

MAY_CHANGE = ("batch_size", "cluster.", "description", "max_error_fraction", "name", "output", "tracking.")
"""Settings (by dotted path or its beginning) that may differ when a job goes on: they do not change what masks show."""


@dataclass(frozen=True)
class Output:
    """The folder of a job's results."""

    where: str
    storage: Storage

    @property
    def begun(self) -> bool:
        """Whether a job wrote here."""
        return self._has(SETTINGS)

    @property
    def finished(self) -> bool:
        """Whether a job came to its end here, and its table has all that was done since."""
        return self._has(TABLE) and self._has(ledger.TOLD)

    def require_own(self) -> None:
        """Refuse a folder with files of the names that a job writes, or removes, but that no job wrote.

        Raises:
            UserError: naming the first.
        """
        if self.begun:
            return
        for name in (ledger.MASKS, ledger.OVERLAYS, JOB, TABLE):
            if self._has(name):
                raise UserError(
                    f"output = {self.where}: {self.where}/{name} is there, and not of a prediction; choose "
                    "another folder."
                )

    def require_same(self, settings: dict[str, Any]) -> None:
        """Refuse to go on with other settings or another model.

        Raises:
            UserError: naming every difference.
        """
        if not self._has(SETTINGS):
            return
        then = json.loads(self.storage.read(SETTINGS))
        lines = [
            f"{path}: {then[path]!r}, now {settings[path]!r}"
            for path in settings
            if path in then and then[path] != settings[path]
        ]
        if lines:
            raise UserError("\n  ".join([
                f"output = {self.where}: what is there was made with other settings:",
                *lines,
            ]) + "\nChoose another folder, or start over with --fresh.")  # fmt: skip

    def begin(self, job: spec.PredictJob, settings: dict[str, Any], *, fresh: bool) -> None:
        """Make the folder a job's; remove what an earlier one left if it starts afresh."""
        if fresh:
            for folder in (ledger.MASKS, ledger.OVERLAYS, ledger.PARTS):
                self.storage.delete_folder(folder)
            for name in (TABLE, ledger.ROWS):
                if self._has(name):
                    self.storage.delete(name)
        # First what tells that the folder is a job's: killed behind it, the job goes on.
        self._write(SETTINGS, json.dumps(settings, indent=2))
        self._write(JOB, spec.to_yaml(job))

    def finish(self) -> None:
        """Write the table, of the rows of all batches."""
        ledger.merge(self.storage)
        rows = ledger.rows(self.storage)
        table.write(self.storage, TABLE, ({k: v for k, v in row.items() if k != table.STAMP} for row in rows))
        self._write(ledger.TOLD, "")

    def _has(self, name: str) -> bool:
        from pyarrow.fs import FileType

        return self.storage.infos([name])[0].type != FileType.NotFound

    def _write(self, name: str, text: str) -> None:
        self.storage.write(name, io.BytesIO(text.encode()))


def settings_of(job: spec.PredictJob, model: Model) -> dict[str, Any]:
    """What decides what masks show: the job's values by dotted path, and the model."""
    values = {path: value for path, value in spec.flatten(job).items() if not path.startswith(MAY_CHANGE)}
    return values | {"model": model.uri, "model_sha256": model.sha256}


@contextmanager
def hold(where: str) -> Iterator[Output]:
    """Open the output and keep every other job out of it; of a URI nothing can.

    Raises:
        UserError: if another job holds it, or it cannot be written.
    """
    try:
        output = Output(where, open_storage(where))
        if is_uri(where):
            yield output
            return
        settings = Path(where) / SETTINGS
        busy = f"output = {where}: another job is writing there. Wait for it, or choose another folder."
        with alone_in(Path(where), LOCK, f"output = {where}", busy=busy, begun=settings.exists):
            yield output
    except DataError as error:
        raise UserError(f"output = {where}: cannot be written ({error})") from error
