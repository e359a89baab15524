"""`rsrnet submit` to a cluster that asks for a token."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from tests.clusters import cluster_with_token, environment_of
from tests.platform.planted import Planted

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A cluster started as docs/clusters.md says: the environment of whoever started it."""
    environment = environment_of(tmp_path_factory.mktemp("home"))
    with cluster_with_token(environment | {"PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}"}) as users:
        yield users


@pytest.fixture
def rsrnet_submit(
    secured: dict[str, str], train_file: Path
) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(**environment: str) -> subprocess.CompletedProcess[str]:
        code = "from rsrnet_platform.cli import main; main()"
        words = ["submit", str(train_file), "--address", secured["API"], "--set", "fit.epochs=1"]
        return subprocess.run(
            [sys.executable, "-c", code, *words], env=secured | environment, capture_output=True, text=True
        )

    return run


@pytest.mark.slow
def test_whoever_has_no_token_or_a_wrong_one_is_not_let_in(
    secured: dict[str, str],
    rsrnet_submit: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    home = str(tmp_path)
    for environment, reason in (
        ({}, "asks for an access token, and there is none here"),
        ({"RAY_AUTH_MODE": "token"}, "asks for an access token, and there is none here"),
        ({"RAY_AUTH_TOKEN": "wrong"}, "that of $RAY_AUTH_TOKEN is not the one of this cluster"),
        (
            {"RAY_AUTH_TOKEN": "x", "RAY_AUTH_MODE": "disabled"},
            "keeps that of $RAY_AUTH_TOKEN from being sent",
        ),
    ):
        done = rsrnet_submit(HOME=home, **environment)
        assert done.returncode == 2, done.stderr
        assert reason in done.stderr
        assert "ray get-auth-token" in done.stderr
        assert "Traceback" not in done.stderr
    stranger = secured | {"HOME": home}
    for environment in (stranger, stranger | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "wrong"}):
        mark = tmp_path / "mark"
        submitted = ["ray", "job", "submit", "--address", secured["API"], "--", "touch", str(mark)]
        done = subprocess.run(submitted, env=environment, capture_output=True, text=True)
        assert done.returncode != 0
        assert "uthentication" in done.stdout + done.stderr
        attached = f"import ray; ray.init('{secured['GCS']}'); print('IN', ray.nodes())"
        done = subprocess.run(
            [sys.executable, "-c", attached], env=environment, capture_output=True, text=True
        )
        assert done.returncode != 0
        assert "IN" not in done.stdout
        assert not mark.exists()
    # What everybody may ask tells nothing.
    for path in ("/api/jobs/", "/nodes?view=summary", "/api/v0/tasks", "/logs"):
        with pytest.raises(HTTPError) as refused:
            urlopen(f"{secured['API']}{path}", timeout=30)
        assert refused.value.code == HTTPStatus.UNAUTHORIZED, path


@pytest.mark.slow
def test_token_of_the_home_folder_lets_in(
    rsrnet_submit: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = rsrnet_submit()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "epoch 1/1 done" in done.stdout
    assert (tmp_path / "runs/squares/state.json").is_file()


@pytest.mark.slow
def test_secrets_of_the_sender_do_not_reach_the_cluster(
    secured: dict[str, str],
    rsrnet_submit: Callable[..., subprocess.CompletedProcess[str]],
    planted: Planted,
    tmp_path: Path,
) -> None:
    token = Path(secured["HOME"], ".ray", "auth_token").read_text().strip()
    planted = replace(planted, token=token)  # one that lets in
    done = rsrnet_submit(**planted.environment)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert planted.in_text(said) == []
    sessions = Path(secured["SESSIONS"])
    names = {path.name for folder in (sessions, tmp_path) for path in folder.rglob("*")}
    assert {"raylet.out", "submit.py", "job.yaml", "state.json", "mlflow.db"} <= names
    assert planted.in_files(sessions, tmp_path) == []


@pytest.mark.slow
def test_cluster_is_found_by_the_address_of_ray(secured: dict[str, str]) -> None:
    code = "from rsrnet_platform.cluster import settle_environment as s; s()\n"
    code += "from rsrnet_platform.job_api import find; print(find(None))"
    words = [sys.executable, "-c", code]
    done = subprocess.run(
        words, env=secured | {"RAY_ADDRESS": secured["GCS"]}, capture_output=True, text=True
    )
    assert done.stdout.strip() == secured["API"], done.stderr
