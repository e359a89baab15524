"""A checkpoint as an MLflow model folder, and the way back: from the place of one to a local folder."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
from collections.abc import Mapping
from importlib.metadata import version as installed_version
from pathlib import Path
from tempfile import mkdtemp
from urllib.parse import unquote, urlparse

import numpy as np

import rsrnet
from rsrnet_platform import modelcard

_REQUIREMENTS = ("torch", "numpy", "pillow", "safetensors")
"""What prediction imports, beside MLflow itself; torchvision is needed to start a training only."""

_EXAMPLE_SIZE = 32


def save_pyfunc(
    folder: Path,
    checkpoint: Path,
    run_id: str,
    model_id: str,
    *,
    job_yaml: str | None,
    tags: Mapping[str, str],
    metrics: Mapping[str, float],
) -> None:
    """Write a self-contained MLflow model: code as text, weights as safetensors, documents, nothing pickled.

    Args:
        folder: of the model, which is made.
        checkpoint: folder with the weights and the configuration.
        run_id: the run that trained it.
        model_id: of MLflow's logged model.
        job_yaml: the resolved job file of the training, kept beside the model; None: it is not known.
        tags: what the model stands on, from :func:`rsrnet_platform.provenance.tags`.
        metrics: of the model, for its card; the counts of images, ``data/...``, are told there too.
    """
    # A project of uv in the current directory would have its files, which are not the model's, copied into it.
    os.environ.setdefault("MLFLOW_UV_AUTO_DETECT", "false")
    import mlflow
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    from rsrnet.checkpoint import CONFIG, WEIGHTS, read_card

    for chatty in ("mlflow.pyfunc", "mlflow.utils.environment"):  # "validating ...", "no pip here"
        logging.getLogger(chatty).setLevel(logging.ERROR)
    pixels = TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))
    masks = TensorSpec(np.dtype(np.float32), (-1, -1, -1))
    mlflow.pyfunc.save_model(
        folder,
        python_model=Path(__file__).with_name("pyfunc_model.py"),
        artifacts={"weights": str(checkpoint / WEIGHTS), "config": str(checkpoint / CONFIG)},
        code_paths=[str(Path(rsrnet.__file__).parent)],
        pip_requirements=[f"{name}=={_public_version(name)}" for name in _REQUIREMENTS],
        signature=ModelSignature(inputs=Schema([pixels]), outputs=Schema([masks])),
        input_example=_example(),
        mlflow_model=Model(run_id=run_id, model_id=model_id),
    )
    _forget_this_machine(folder)
    documents = modelcard.documents(read_card(checkpoint), job_yaml, tags, metrics)
    for name, text in documents.items():
        (folder / name).write_text(text, encoding="utf-8")


def _forget_this_machine(folder: Path) -> None:
    """Take out of ``MLmodel`` where the parts of a model were copied from, which nothing reads."""
    from mlflow.models import Model

    model = Model.load(str(folder))
    flavor = model.flavors["python_function"]
    flavor["model_code_path"] = Path(flavor["model_code_path"]).name
    for artifact in flavor["artifacts"].values():
        artifact["uri"] = artifact["path"]
    model.save(str(folder / "MLmodel"))


def _public_version(name: str) -> str:
    # A build such as 2.15.0+cu130 or +cpu is on no ordinary index.
    return installed_version(name).split("+")[0]


def _example() -> np.ndarray:
    ramp = np.linspace(0, 255, _EXAMPLE_SIZE).astype(np.uint8)
    return np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], 128), axis=2).astype(np.uint8)[None]


def fetch(location: str, store: str) -> Path:
    """Bring the artifacts at a location to this machine, unless they are there already.

    Args:
        location: path or URI of a folder of artifacts.
        store: URI of the store, which hands out the artifacts of its server.

    Returns:
        The folder: the artifacts themselves if they are local, else a copy kept for the next time.
    """
    place = urlparse(location)
    if place.scheme in ("", "file"):
        return Path(unquote(place.path) if place.scheme else location)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "rsrnet" / "models"
    copy = cache / hashlib.sha256(f"{store} {location}".encode()).hexdigest()[:16]
    if not copy.exists():
        _download(location, store, copy)
    return copy


def _download(location: str, store: str, folder: Path) -> None:
    from mlflow.artifacts import download_artifacts

    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = mkdtemp(dir=folder.parent, prefix=f"{folder.name}.")
    try:
        downloaded = download_artifacts(location, dst_path=partial, tracking_uri=store, registry_uri=store)
        # Whoever comes second finds the folder taken, with the same files.
        with contextlib.suppress(OSError):
            Path(downloaded).rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
