"""infra/vm/cluster.yaml: what Ray's own cluster launcher says of it, and what its commands do."""

from __future__ import annotations

import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.infra.files import load


def load_toml(file: Path) -> dict[str, Any]:
    return tomllib.loads(file.read_text(encoding="utf-8"))


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


def test_sends_what_the_setup_needs_and_nothing_that_belongs_to_this_machine(
    repository: Path, config: dict[str, Any], tmp_path: Path
) -> None:
    """The mounts as copies, in which `make` and the build of the package find every file that they name."""
    for remote, local in config["file_mounts"].items():
        there = tmp_path / Path(remote).relative_to("~")
        there.parent.mkdir(parents=True, exist_ok=True)
        if (repository / local).is_dir():
            shutil.copytree(repository / local, there, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(repository / local, there)
    checkout = tmp_path / "rsrnet-checkout"
    built = load_toml(checkout / "pyproject.toml")
    project, wheel = built["project"], built["tool"]["hatch"]["build"]["targets"]["wheel"]
    named = [project["readme"], *project["license-files"], *wheel["packages"], *wheel["extra-metadata"]]

    assert config["setup_commands"] == ["make -C ~/rsrnet-checkout setup"]
    subprocess.run(["make", "--dry-run", "-C", checkout, "setup"], check=True, capture_output=True)
    assert not [name for name in named if not (checkout / name).exists()]
    assert {*config["file_mounts"].values()} & {".", "infra", "infra/kuberay"} == set()
    assert "infra/vm" in config["file_mounts"].values()  # with its .env
