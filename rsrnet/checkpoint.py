"""Checkpoint folders: what training writes, what a :class:`rsrnet.Localizer` and a restart read.

A folder holds three files::

    model.safetensors   the weights
    config.json         the architecture, the input size, the epoch and its metrics: readable, and enough to predict
    training.pt         optimizer, schedule, random states, history: only a restart needs it
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from rsrnet.detection import Detection
from rsrnet.model.config import RSRNetConfig
from rsrnet.model.network import RSRNet

WEIGHTS, CONFIG, TRAINING = "model.safetensors", "config.json", "training.pt"
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
    """Write a checkpoint folder; every file appears whole or not at all.

    Args:
        folder: made if missing.
        model: its weights are written as safetensors.
        card: the rest of what prediction needs.
        training: tensors and plain values a restart needs, or None.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    _replace(folder / WEIGHTS, lambda path: save_file(weights, path))
    if training is not None:
        _replace(folder / TRAINING, lambda path: torch.save(training, path))
    write_card(folder, card)


def write_card(folder: Path, card: ModelCard) -> None:
    """Write ``config.json`` of a checkpoint folder, or replace it."""
    text = json.dumps({"format": FORMAT, **asdict(card)}, indent=2)
    _replace(folder / CONFIG, lambda path: path.write_text(text))


def _replace(path: Path, write: Any) -> None:
    """Write beside the file, then rename: a crash leaves the old file or the new one."""
    partial = path.with_name(path.name + ".partial")
    write(partial)
    os.replace(partial, path)


def read_card(folder: str | Path) -> ModelCard:
    """Read ``config.json``.

    Raises:
        CheckpointError: if the folder is missing, is no checkpoint, cannot be read, or is of a newer release.
    """
    path = Path(folder) / CONFIG
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise CheckpointError(f"{folder}: not a checkpoint folder (it has no {CONFIG})") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        values = json.loads(text)
        if values.pop("format") > FORMAT:
            raise ValueError(f"its format is above {FORMAT}")
        model = values.pop("model")
        model["scales"] = tuple(model["scales"])
        if values.get("detection") is not None:
            values["detection"] = Detection(**values["detection"])
        return ModelCard(model=RSRNetConfig(**model), **values)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: damaged, or of a newer release of rsrnet ({error})") from error


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
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path}: the training state cannot be read ({error})") from error
