"""Tracking and registry on a real MLflow server, whose artifacts are reached over HTTP only."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest

from rsrnet import checkpoint
from rsrnet.model.config import RSRNetConfig
from rsrnet.model.network import RSRNet
from rsrnet_platform.registry import register, resolve
from rsrnet_platform.store import TrackingConfig, prepare
from rsrnet_platform.tracking import Tracker

pytestmark = pytest.mark.slow


def test_a_run_and_its_model_live_on_a_server_and_are_downloaded_once(
    mlflow_server: str, tmp_path: Path, tmp_home: Path
) -> None:
    config = TrackingConfig(uri=mlflow_server)
    network = RSRNetConfig(depth=18, width=4, iterations=2)
    checkpoint.save(tmp_path / "best", RSRNet(network), checkpoint.ModelCard(network, size=32, epoch=1))
    assert prepare(config) == prepare(config) == mlflow_server
    with Tracker.of_attempt(
        prepare(config), config, "remote", uuid4().hex, params={"a": 1}, tags={}, job_yaml="kind: train\n"
    ) as tracker:
        tracker.log_epoch(1, {"val/iou": 0.5})
        Tracker.attach(mlflow_server, tracker.run_id).log_epoch(1, {"val/iou": 0.5})
        arguments = (mlflow_server, tracker.run_id, tmp_path / "best", config)
        version = register(*arguments, metrics={"val/iou": 0.5}, tags={})
        assert register(*arguments, metrics={"val/iou": 0.5}, tags={}) == version
    assert version.champion
    folder = resolve("models:/rsrnet@champion", mlflow_server)
    assert folder.is_relative_to(tmp_home)
    assert checkpoint.read_card(folder).model == network
    written = (folder / checkpoint.WEIGHTS).stat().st_mtime_ns
    assert resolve(f"runs:/{tracker.run_id}", mlflow_server) == folder
    assert (folder / checkpoint.WEIGHTS).stat().st_mtime_ns == written
