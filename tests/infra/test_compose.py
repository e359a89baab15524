"""compose.yaml, and the passwords that it takes: who gets in, what is published, what is waited for."""

from __future__ import annotations

import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose
from ray._private.ray_constants import RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S

from rsrnet_platform.cluster.config import TrainClusterConfig
from tests.infra.files import SECRET, VARIABLE, compose, dotenv, interpolated
from tests.infra.linters import run_linter


@pytest.fixture(scope="module")
def file(repository: Path) -> dict[str, Any]:
    return compose(repository)


@pytest.fixture
def secrets(repository: Path, tmp_path: Path) -> Path:
    made = tmp_path / ".env"
    subprocess.run([repository / "infra/make-secrets", made], check=True, capture_output=True)
    return made


class TestTheFile:
    def test_follows_the_specification(self, repository: Path, secrets: Path) -> None:
        text = (repository / "infra/compose.yaml").read_text(encoding="utf-8")
        # The package knows neither variables nor the anchors of YAML.
        plain = yaml.safe_dump(yaml.safe_load(interpolated(text, dotenv(secrets))), sort_keys=False)

        parsed = PyCompose.from_yaml(plain)

        parsed.validate()
        parsed.to_spec()
        assert {*parsed.service_names()} == {"head", "worker", "worker-gpu", "mlflow", "postgres", "bucket"}

    def test_has_nothing_that_a_security_linter_objects_to(self, repository: Path) -> None:
        run_linter("compose-lint", "check", repository / "infra/compose.yaml")

    def test_is_understood_by_docker_compose_with_the_secrets_and_refused_without(
        self, repository: Path, secrets: Path
    ) -> None:
        plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        if plugin.returncode:
            pytest.skip("the plugin compose of docker is not installed")
        command = ["docker", "compose", "--file", str(repository / "infra/compose.yaml"), "config", "--quiet"]

        assert (
            subprocess.run([*command[:2], "--env-file", secrets, *command[2:]], check=False).returncode == 0
        )
        refused = subprocess.run(
            [*command[:2], "--env-file", "/dev/null", *command[2:]],
            capture_output=True,
            text=True,
            check=False,
        )
        assert refused.returncode != 0
        assert "run infra/make-secrets" in refused.stderr

    def test_every_service_is_looked_after(self, file: dict[str, Any]) -> None:
        for name, service in file["services"].items():
            assert service["healthcheck"]["test"][0] == "CMD", name
            assert service["restart"] == "unless-stopped", name
            assert service["security_opt"] == ["no-new-privileges:true"], name
            assert service["cap_drop"] == ["ALL"], name
            for other, wait in service.get("depends_on", {}).items():
                assert wait == {"condition": "service_healthy"}, (name, other)

    def test_the_images_have_a_version(self, file: dict[str, Any]) -> None:
        images = {service["image"] for service in file["services"].values()}

        assert images >= {"rsrnet:slim", "rsrnet:gpu"}
        assert all(re.fullmatch(r"[\w/-]+:(slim|gpu|\d[\w.-]*)", image) for image in images), images

    def test_each_is_made_once(self, file: dict[str, Any]) -> None:
        """Docker may refuse to make one tag several times at once; nobody else's image of the name is fetched."""
        services = file["services"].values()
        made = [service["image"] for service in services if "build" in service]
        used = [service for service in services if service["image"] in made and "build" not in service]

        assert sorted(made) == ["rsrnet:gpu", "rsrnet:slim"]
        assert [service["pull_policy"] for service in used] == ["never", "never"]

    def test_shared_memory_holds_the_object_store_and_batches(self, file: dict[str, Any]) -> None:
        for name in ("head", "worker", "worker-gpu"):
            (store,) = (word for word in file["services"][name]["command"] if "object-store-memory" in word)
            assert file["services"][name]["shm_size"] == "${RAY_SHM_SIZE:-2gb}"
            assert int(store.split("=")[1]) <= 0.75 * 2 * 1024**3

    def test_what_is_kept_lies_on_volumes(self, file: dict[str, Any]) -> None:
        mounted = {
            text.split(":")[0] for service in file["services"].values() for text in service.get("volumes", [])
        }

        assert {*file["volumes"]} == {"storage", "postgres", "bucket"}
        assert {*file["volumes"]} < mounted

    def test_a_node_is_given_the_time_to_drain(self, file: dict[str, Any]) -> None:
        for name in ("head", "worker", "worker-gpu"):
            seconds = int(file["services"][name]["stop_grace_period"].removesuffix("s"))
            assert seconds >= RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S + TrainClusterConfig().grace


class TestWhoGetsIn:
    def test_ports_are_published_on_this_machine_alone(self, file: dict[str, Any]) -> None:
        published = [port for service in file["services"].values() for port in service.get("ports", [])]

        assert len(published) == 2
        assert all(port.startswith("127.0.0.1:") for port in published)

    def test_every_secret_comes_from_the_environment_and_has_no_default(self, file: dict[str, Any]) -> None:
        settings = [
            pair for service in file["services"].values() for pair in service.get("environment", {}).items()
        ]
        secret = [(name, value) for name, value in settings if SECRET.search(name)]

        assert {"RAY_AUTH_TOKEN", "POSTGRES_PASSWORD", "MLFLOW_AUTH_ADMIN_PASSWORD"} <= {n for n, _ in secret}
        for name, value in secret:
            assert re.fullmatch(r"\$\{\w+:\?run infra/make-secrets\}", value), name

    def test_ray_asks_for_the_token_on_every_node(self, file: dict[str, Any]) -> None:
        for name in ("head", "worker", "worker-gpu"):
            assert file["services"][name]["environment"]["RAY_AUTH_MODE"] == "token"

    def test_nothing_but_mlflow_reaches_the_database_and_the_bucket(self, file: dict[str, Any]) -> None:
        members = {
            network: {name for name, each in file["services"].items() if network in each["networks"]}
            for network in file["networks"]
        }

        assert members["stores"] == {"mlflow", "postgres", "bucket"}
        assert file["networks"]["stores"] == {"internal": True}
        assert "ports" not in file["services"]["postgres"]
        assert "ports" not in file["services"]["bucket"]


class TestTheSecrets:
    def test_are_all_that_the_file_asks_for(self, repository: Path, secrets: Path) -> None:
        text = (repository / "infra/compose.yaml").read_text(encoding="utf-8")
        asked = {name for name, kind, _ in VARIABLE.findall(text) if kind == "?"}

        assert asked == {*dotenv(secrets)} - {"auth_token"}  # which is KubeRay's name for one of them
        assert dotenv(secrets)["auth_token"] == dotenv(secrets)["RAY_AUTH_TOKEN"]

    def test_are_random_and_for_nobody_else_to_read(
        self, repository: Path, secrets: Path, tmp_path: Path
    ) -> None:
        again = tmp_path / "again"
        subprocess.run([repository / "infra/make-secrets", again], check=True, capture_output=True)

        first, second = dotenv(secrets), dotenv(again)
        assert stat.S_IMODE(secrets.stat().st_mode) == 0o600
        assert not {*first.values()} & {*second.values()} - {"admin"}
        for name, value in first.items():
            assert name == "MLFLOW_ADMIN_USERNAME" or re.fullmatch(r"[0-9a-f]{20,}", value), name

    def test_are_not_written_over(self, repository: Path, secrets: Path) -> None:
        before = secrets.read_text()

        again = subprocess.run(
            [repository / "infra/make-secrets", secrets], capture_output=True, text=True, check=False
        )

        assert again.returncode == 2
        assert "Delete it first" in again.stderr
        assert secrets.read_text() == before

    def test_are_only_those_that_were_named(self, repository: Path, tmp_path: Path) -> None:
        subprocess.run(
            [repository / "infra/make-secrets", tmp_path / "some", "RAY_AUTH_TOKEN"],
            check=True,
            capture_output=True,
        )

        assert [*dotenv(tmp_path / "some")] == ["RAY_AUTH_TOKEN"]

    @pytest.mark.parametrize("folder", ["infra", "infra/kuberay", "infra/vm"])
    def test_never_get_into_version_control_or_an_image(self, repository: Path, folder: str) -> None:
        ignored = subprocess.run(
            ["git", "check-ignore", "--quiet", f"{folder}/.env"], cwd=repository, check=False
        )
        kept = (repository / ".dockerignore").read_text(encoding="utf-8").splitlines()

        assert ignored.returncode == 0
        assert kept[1] == "*"
        assert "!infra" not in kept
