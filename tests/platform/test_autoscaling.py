"""A job waits for the machines that a cluster adds, and for those that are still starting."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rsrnet_platform import cluster
from rsrnet_platform.cluster import ClusterConfig, TrainClusterConfig
from rsrnet_platform.doctor import nodes
from rsrnet_platform.errors import UserError
from tests.clusters import cluster_with_token, environment_of
from tests.conftest import RayCluster

TINTED = {
    "resources": {"CPU": 1, "tint": 1, "object_store_memory": 80 * 1024**2},
    "labels": {"pool": "tinted"},
}


@pytest.mark.slow
def test_training_gets_the_machines_that_its_cluster_has_none_of_yet(
    train_file: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    groups = {"tinted": TINTED | {"min_workers": 0, "max_workers": 2}}
    with cluster_with_token(environment_of(home), cpus=0, groups=groups) as environment:
        settings = {
            "workers": 2,
            "resources": "{tint: 1}",
            "labels": "{pool: tinted}",
            "accelerator": "cpu",
            "address": environment["GCS"],
        }
        command = [sys.executable, "-m", "rsrnet_platform", str(train_file)]
        for name, value in settings.items():
            command += ["--set", f"cluster.{name}={value}"]
        refused = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert refused.returncode == 2
        assert "room for 0" in refused.stderr
        assert "cluster.patience" in refused.stderr
        assert "Waiting" not in refused.stderr
        done = subprocess.run(
            [*command, "--set", "cluster.patience=240"], env=environment, capture_output=True, text=True
        )
    assert done.returncode == 0, done.stderr
    said = done.stderr
    assert "Waiting for machines, for up to 4 min 00 s (cluster.patience)." in said
    assert "The room is there after " in said
    assert "2 CPUs, 0 GPUs and 2 tint on 3 machines" in said
    assert "epoch 3/3" in said


@pytest.mark.ray
@pytest.mark.parametrize(
    ("config", "missing"),
    [
        (ClusterConfig(workers=2, resources={"tint": 1}, patience=1), "room for 0"),
        (ClusterConfig(accelerator="gpu", patience=1), "has none"),
        (
            TrainClusterConfig(accelerator="cpu", placement="strict_spread", workers=2, patience=1),
            "room for 1",
        ),
    ],
    ids=["resource", "GPU", "placement"],
)
def test_wait_for_machines_that_do_not_come_ends_with_what_is_missing(
    config: ClusterConfig, missing: str, ray_cluster: RayCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        pytest.raises(UserError, match=rf"(?s){missing}.* waited for machines for 1 s \(cluster.patience\)"),
        cluster.connect(config),
    ):
        pass
    assert "Waiting for machines, for up to 1 s" in capsys.readouterr().err


@pytest.mark.ray
def test_what_was_asked_for_in_vain_is_asked_for_no_longer(ray_cluster: RayCluster) -> None:
    from ray.util import placement_group_table

    before = set(placement_group_table())
    with pytest.raises(UserError), cluster.connect(ClusterConfig(workers=9, accelerator="cpu", patience=1)):
        pass
    states = {each["state"] for name, each in placement_group_table().items() if name not in before}
    assert states == {"REMOVED"}


@pytest.mark.ray
def test_dry_run_does_not_wait(ray_cluster: RayCluster, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"cluster\.patience seconds"):
        cluster.foresee(
            ClusterConfig(workers=9, accelerator="cpu", patience=600, address=ray_cluster.address)
        )
    assert "Waiting" not in capsys.readouterr().err


@pytest.mark.ray
def test_doctor_tells_that_the_job_would_wait(ray_cluster: RayCluster) -> None:
    (found,) = nodes.room(ClusterConfig(workers=9, accelerator="cpu", patience=600))
    assert found.state == "warning"
    assert "room for 4" in found.found
    assert "10 min 00 s" in found.remedy
