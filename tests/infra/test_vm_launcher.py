"""infra/vm/cluster.yaml: what Ray's own cluster launcher says of it, and what its commands do."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.infra.files import load


@pytest.fixture(scope="module")
def config(repository: Path) -> dict[str, Any]:
    return load(repository / "infra/vm/cluster.yaml")


def test_rays_launcher_takes_it(config: dict[str, Any]) -> None:
    prepared = prepare_config(config)

    validate_config(prepared)
    (node,) = prepared["available_node_types"].values()
    assert node["max_workers"] == node["min_workers"] == len(config["provider"]["worker_ips"])


def test_a_misspelt_key_is_found(config: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="worker_start_ray_command"):
        validate_config(prepare_config({**config, "worker_start_ray_command": ["ray start"]}))


def test_starts_ray_with_the_token_of_the_secrets_and_the_dashboard_for_the_head_alone(
    config: dict[str, Any],
) -> None:
    for kind in ("head", "worker"):
        stop, start = config[f"{kind}_start_ray_commands"]
        assert stop.endswith("ray stop")
        assert "&& . infra/vm/.env &&" in start
        assert "RAY_AUTH_MODE=token" in start
        assert ("--dashboard-host=127.0.0.1" in start) == (kind == "head")


@pytest.mark.parametrize("kind", ["head", "worker"])
def test_starts_nothing_without_the_secrets(config: dict[str, Any], kind: str, tmp_path: Path) -> None:
    """The command as it is, in a home whose checkout has no `.env`; a stand-in for `ray` notes that it was called."""
    programs = tmp_path / "rsrnet-checkout/.venv/bin"
    programs.mkdir(parents=True)
    (programs / "ray").write_text(
        f'#!/bin/sh\necho "$RAY_AUTH_MODE $RAY_AUTH_TOKEN $*" > {tmp_path}/called\n'
    )
    (programs / "ray").chmod(0o755)
    _, start = config[f"{kind}_start_ray_commands"]

    def call() -> int:
        environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "RAY_HEAD_IP": "192.0.2.10"}
        return subprocess.run(
            ["bash", "-c", start], env=environment, capture_output=True, check=False
        ).returncode

    assert call() != 0
    assert not (tmp_path / "called").exists()

    (tmp_path / "rsrnet-checkout/infra/vm").mkdir(parents=True)
    (tmp_path / "rsrnet-checkout/infra/vm/.env").write_text("RAY_AUTH_TOKEN=of-the-file\n")
    assert call() == 0
    assert (tmp_path / "called").read_text().startswith("token of-the-file start --")


def test_sends_the_checkout_without_what_belongs_to_this_machine(config: dict[str, Any]) -> None:
    assert config["file_mounts"] == {"~/rsrnet-checkout": "."}
    assert {".venv", ".git", "/infra/.env", "/infra/kuberay/.env"} <= {*config["rsync_exclude"]}
    assert "/infra/vm/.env" not in config["rsync_exclude"]
