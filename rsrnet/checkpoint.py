"""Checkpoint folders: what training writes, what a :class:`rsrnet.Localizer` and a restart read.

A folder holds three files::

    model.safetensors   the weights
    config.json         the architecture, the input size, the epoch and its metrics: readable, and enough to predict
    training.pt         optimizer, schedule, random states, history: only a restart needs it

``config.json`` also holds the SHA-256 of the other files and of its own values, so that a file that was cut short or
changed on the disk is refused, not computed with. Folders of earlier releases have none, and are read without.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from rsrnet.detection import Detection
from rsrnet.model.config import RSRNetConfig
from rsrnet.model.network import RSRNet

WEIGHTS, CONFIG, TRAINING = "model.safetensors", "config.json", "training.pt"
DIGESTS = "sha256"
"""Key of ``config.json`` with the digests of the folder's files."""

FORMAT = 1
"""Version of the layout; a folder with a higher one was written by a newer release."""


class CheckpointError(ValueError):
    """Raised when a folder is no checkpoint, or a damaged one."""


@dataclass(frozen=True)
class ModelCard:
    """What ``config.json`` holds."""

    model: RSRNetConfig
    """The architecture."""

    size: int
    """Side of the square input the model was trained on, in pixels."""

    epoch: int = 0
    """Epochs completed."""

    metrics: dict[str, float] = field(default_factory=dict)
    """Metrics of that epoch."""

    detection: Detection | None = None
    """The threshold that tells composites from photographs, once it was chosen."""


def save(folder: Path, model: RSRNet, card: ModelCard, training: dict[str, Any] | None = None) -> None:
    """Write a checkpoint folder; every file appears whole or not at all, ``config.json`` last.

    Args:
        folder: made if missing.
        model: its weights are written as safetensors.
        card: the rest of what prediction needs.
        training: tensors and plain values a restart needs, or None.

    Raises:
        CheckpointError: if it cannot be written: the disk is full, or out of reach.
    """
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        digests = {WEIGHTS: _replace(folder / WEIGHTS, lambda path: save_file(weights, path))}
        if training is not None:
            digests[TRAINING] = _replace(folder / TRAINING, lambda path: torch.save(training, path))
        _write_config(folder, card, digests)


def write_card(folder: Path, card: ModelCard) -> None:
    """Write ``config.json`` of a checkpoint folder, or replace it; the other files stay what they are.

    Raises:
        CheckpointError: if it cannot be written.
    """
    digests = _digests(folder) if (folder / CONFIG).exists() else {}
    with _writing(folder):
        _write_config(folder, card, digests)


def _write_config(folder: Path, card: ModelCard, digests: dict[str, str]) -> None:
    values = {"format": FORMAT, **asdict(card), DIGESTS: digests}
    values[DIGESTS] = digests | {CONFIG: _digest_of_values(values)}
    _replace(folder / CONFIG, lambda path: path.write_text(json.dumps(values, indent=2)))


def _digest_of_values(values: dict[str, Any]) -> str:
    """SHA-256 of what ``config.json`` says, whatever its own digest."""
    others = {name: digest for name, digest in values[DIGESTS].items() if name != CONFIG}
    text = json.dumps(values | {DIGESTS: others}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Say clearly what is wrong when a disk is full; the libraries do not."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        raise unwritable(folder, error) from error


def unwritable(folder: str | Path, error: Exception) -> CheckpointError:
    """The error of a checkpoint that could not be written."""
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return CheckpointError(
        f"{folder}: the checkpoint cannot be written ({reason}). The one before it is intact: make room, "
        "or mend what keeps the folder from being written, and start the job again; it goes on there."
    )


def _replace(path: Path, write: Callable[[Path], Any]) -> str:
    """Write beside the file, then rename: a crash leaves the old file or the new one.

    Returns:
        The SHA-256 of the file.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        write(partial)
        digest = _sha256(partial)
    except (OSError, SafetensorError, RuntimeError) as error:
        # PyTorch's own message says nothing of the disk.
        full = shutil.disk_usage(path.parent).free < 2**20
        partial.unlink(missing_ok=True)
        if full:
            raise OSError(errno.ENOSPC, "no space left on the device") from error
        raise
    os.replace(partial, path)
    return digest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_card(folder: str | Path) -> ModelCard:
    """Read ``config.json``.

    Raises:
        CheckpointError: if the folder is missing, is no checkpoint, cannot be read, is damaged, or is of a newer
            release.
    """
    values = _read_config(folder)
    try:
        values.pop(DIGESTS, None)
        model = values.pop("model")
        model["scales"] = tuple(model["scales"])
        if values.get("detection") is not None:
            values["detection"] = Detection(**values["detection"])
        return ModelCard(model=RSRNetConfig(**model), **values)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged_config(folder, error) from error


def _read_config(folder: str | Path) -> dict[str, Any]:
    """The values of ``config.json`` but its format, which is known, as is that they are what was written."""
    path = Path(folder) / CONFIG
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise CheckpointError(f"{folder}: not a checkpoint folder (it has no {CONFIG})") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        values: dict[str, Any] = json.loads(text)
        if values["format"] > FORMAT:
            raise ValueError(f"its format is above {FORMAT}")
        if DIGESTS in values and values[DIGESTS][CONFIG] != _digest_of_values(values):
            raise ValueError("its values have not the SHA-256 that they were written with")
        values.pop("format")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged_config(folder, error) from error
    return values


def _damaged_config(folder: str | Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{Path(folder) / CONFIG}: damaged, or of a newer release of rsrnet ({error})")


def _digests(folder: str | Path) -> dict[str, str]:
    """The SHA-256 of the files in a folder but ``config.json``; none of an earlier release's."""
    return {name: value for name, value in _read_config(folder).get(DIGESTS, {}).items() if name != CONFIG}


def verify(folder: str | Path) -> None:
    """Make sure that a restart can go on from a checkpoint folder: all of it is there, as it was written.

    Raises:
        CheckpointError: naming the file that is missing or damaged.
    """
    read_card(folder)
    for name in (WEIGHTS, TRAINING):
        _verify(folder, name)


def _verify(folder: str | Path, name: str) -> None:
    """Compare a file with its digest, where it has one."""
    path = Path(folder) / name
    expected = _digests(folder).get(name) if (Path(folder) / CONFIG).exists() else None
    try:
        if expected is not None and _sha256(path) != expected:
            raise CheckpointError(
                f"{path}: damaged (it has not the SHA-256 that it was written with). Use another checkpoint, "
                "or train again."
            )
        path.stat()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error


def load_model(folder: str | Path, device: str | torch.device = "cpu") -> RSRNet:
    """Build the model of a checkpoint folder, in evaluation mode.

    Raises:
        CheckpointError: if the folder is no checkpoint or its weights are damaged.
    """
    model = RSRNet(read_card(folder).model)
    load_weights(model, folder)
    return model.to(device).eval()


def load_weights(model: RSRNet, folder: str | Path) -> None:
    """Copy the weights of a checkpoint folder into a model of the same architecture.

    Raises:
        CheckpointError: if they are missing, damaged or of another architecture.
    """
    path = Path(folder) / WEIGHTS
    _verify(folder, WEIGHTS)
    try:
        model.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{path}: these weights cannot be loaded ({error})") from error


def load_training(folder: str | Path) -> dict[str, Any]:
    """Read what a restart needs; nothing in the file is executed.

    Raises:
        CheckpointError: if the file is missing or damaged.
    """
    path = Path(folder) / TRAINING
    _verify(folder, TRAINING)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        # PyTorch's own message recommends to read it at any rate.
        raise CheckpointError(
            f"{path}: holds other things than tensors and plain values, or is damaged. It was not read, as that could "
            "run a program that somebody put there. Use another checkpoint, or train again."
        ) from error
    except Exception as error:
        raise CheckpointError(f"{path}: the training state cannot be read ({error})") from error
