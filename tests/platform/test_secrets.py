"""Secrets come from the environment and stay there: they are in no run, log, artifact or resolved job file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsrnet_platform import provenance, spec, submit
from rsrnet_platform.outage import TrackingError
from rsrnet_platform.secrecy import masked
from tests.platform.conftest import MlflowServer
from tests.platform.planted import USER, Planted

ROOT = Path(__file__).parents[2]


def rsrnet(environment: Mapping[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command in an environment that holds nothing of Ray's and MLflow's but what is given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    path = f"{ROOT}{os.pathsep}{ROOT / 'platform'}"
    code = "import sys; from rsrnet_platform.cli import main; main(sys.argv[1:])"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**kept, "PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0", **environment},
        capture_output=True,
        text=True,
    )


def test_training_writes_no_secret(
    train_file: Path, tmp_path: Path, tmp_home: Path, planted: Planted
) -> None:
    done = rsrnet({**planted.environment, "HOME": str(tmp_home)}, "run", train_file, "--set", "fit.epochs=1")
    assert done.returncode == 0, done.stderr
    assert planted.in_text(done.stdout + done.stderr) == []
    assert {"job.yaml", "state.json", "model.safetensors", "mlflow.db"} <= {
        path.name for path in tmp_path.rglob("*")
    }
    assert planted.in_files(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "codes", "phrase"),
    [
        (("run", "JOB", "--dry-run"), {0}, "kind: train"),
        (("run", "JOB", "--set", "data.root=/nowhere"), {2}, "no dataset folder /nowhere"),
        (
            ("run", "JOB", "--set", "storage=s3://me:PASSWORD@bucket/runs", "--set", "cluster.workers=1"),
            {2},
            "storage: the keys of a store belong into the environment",
        ),
        (
            ("run", "JOB", "--set", "data.root=https://host/data?sig=PASSWORD"),
            {2},
            "data.root: the keys of a store belong into the environment",
        ),
        (
            ("run", "JOB", "--set", "tracking.uri=postgresql://me:PASSWORD@host/db"),
            {2},
            "tracking.uri: a name and password belong into $MLFLOW_TRACKING_USERNAME",
        ),
        # 1: the machine of the tests has too little of something.
        (("doctor", "JOB", "--json"), {0, 1}, '"name": "tracking"'),
    ],
    ids=["dry-run", "no-data", "storage", "data", "tracking", "doctor"],
)
def test_what_is_printed_holds_no_secret(
    arguments: tuple[str, ...],
    codes: set[int],
    phrase: str,
    train_file: Path,
    tmp_path: Path,
    tmp_home: Path,
    planted: Planted,
) -> None:
    given = [word.replace("JOB", str(train_file)).replace("PASSWORD", planted.password) for word in arguments]
    done = rsrnet({**planted.environment, "HOME": str(tmp_home)}, *given)
    assert done.returncode in codes, done.stderr
    assert phrase in done.stdout + done.stderr
    assert planted.in_text(done.stdout + done.stderr) == []
    assert planted.in_files(tmp_path) == []


def test_nothing_of_the_environment_is_sent_to_a_cluster(
    train_file: Path, tmp_path: Path, planted: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in planted.environment.items():
        monkeypatch.setenv(name, value)
    sent = tmp_path / "sent"
    sent.mkdir()
    submit.pack(sent, spec.load_for_elsewhere(train_file))
    assert (sent / "job.yaml").is_file()
    assert planted.in_files(sent) == []
    assert set(provenance.environment_of_code()) == {"RSRNET_GIT_COMMIT", "RSRNET_GIT_DIRTY"}


@pytest.mark.parametrize("command", [("run", "JOB", "--dry-run"), ("doctor",), ("models", "list")])
def test_password_in_the_address_of_the_server_is_refused_and_not_repeated(
    command: tuple[str, ...], train_file: Path, tmp_home: Path, planted: Planted
) -> None:
    given = [str(train_file) if word == "JOB" else word for word in command]
    uri = f"http://{USER}:{planted.password}@127.0.0.1:9"
    unset = ("--set", "tracking.uri=null") if "JOB" in command else ()
    done = rsrnet({"HOME": str(tmp_home), "MLFLOW_TRACKING_URI": uri}, *given, *unset)
    assert done.returncode != 0
    assert "MLFLOW_TRACKING_PASSWORD" in done.stdout + done.stderr
    assert planted.in_text(done.stdout + done.stderr) == []


@given(
    st.text(
        alphabet=st.characters(
            blacklist_characters=" \t\n\r\x0b\x0c'\"\x1c\x1d\x1e\x1f\x85\xa0", max_codepoint=255
        ),
        min_size=4,
    )
)
def test_passwords_in_uris_are_masked_whatever_they_hold(password: str) -> None:
    for text in (f"at http://me:x{password}x@host/path failed", f"'s3://x{password}x@bucket'"):
        assert f"x{password}x" not in masked(text)
        assert f"x{password}x" not in str(TrackingError(text))


def test_texts_without_passwords_are_not_changed() -> None:
    text = "models:/rsrnet@champion, http://host:5000/#/models and s3://bucket/x; me@example"
    assert masked(text) == text


@pytest.fixture
def secured_server(tmp_path_factory: pytest.TempPathFactory, planted: Planted) -> Iterator[MlflowServer]:
    """A real MLflow server that asks for a name and password."""
    folder = tmp_path_factory.mktemp("secured") / "server"
    folder.mkdir()
    settings = folder.parent / "basic_auth.ini"  # where whoever runs the server keeps its password
    settings.write_text(f"""[mlflow]
default_permission = EDIT
database_uri = sqlite:///{folder}/accounts.db
admin_username = {USER}
admin_password = {planted.password}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
""")
    environment = {
        "MLFLOW_AUTH_CONFIG_PATH": str(settings),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": uuid4().hex,
    }
    server = MlflowServer(folder, app="basic-auth", environment=environment)
    try:
        server.wait()
        yield server
    finally:
        server.end()


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """Ray's logs of this test; short, as Ray puts sockets into it."""
    folder = Path(f"/tmp/rsrnet-secrets-{os.getpid()}")
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.mark.slow
def test_secured_server_is_used_with_what_the_environment_holds_and_nothing_is_written(
    secured_server: MlflowServer,
    train_file: Path,
    tmp_path: Path,
    tmp_home: Path,
    ray_folder: Path,
    planted: Planted,
) -> None:
    """A training of two workers on a Ray cluster with a token, tracked and registered on an MLflow server."""
    environment = {"HOME": str(tmp_home), "RAY_TMPDIR": str(ray_folder), "RAY_AUTH_MODE": "token"}
    settings = ["tracking.uri=" + secured_server.url, "cluster.workers=2", "cluster.address=local"]
    settings += ["cluster.accelerator=cpu", "fit.epochs=1", "data.loader_processes=1"]
    words = ["run", str(train_file), *(word for each in settings for word in ("--set", each))]

    begin = time.monotonic()
    for some in ({}, {"MLFLOW_TRACKING_USERNAME": USER}):
        refused = rsrnet({**environment, **some}, *words)
        assert refused.returncode == 2, refused.stderr
        assert (
            "Set $MLFLOW_TRACKING_USERNAME and $MLFLOW_TRACKING_PASSWORD in the environment" in refused.stderr
        )
    wrong = {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": "planted"}
    refused = rsrnet({**environment, **wrong}, *words)
    assert refused.returncode == 2, refused.stderr
    assert (
        "does not accept what is in $MLFLOW_TRACKING_PASSWORD and $MLFLOW_TRACKING_USERNAME" in refused.stderr
    )
    assert not (tmp_path / "runs" / "squares").exists(), "a training had begun"
    assert time.monotonic() - begin < 240

    done = rsrnet({**environment, **planted.environment}, *words)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "Registered as models:/rsrnet/1" in said
    assert planted.in_text(said) == []
    shown = rsrnet(
        {**environment, **planted.environment, "MLFLOW_TRACKING_URI": secured_server.url}, "models", "list"
    )
    assert "rsrnet" in shown.stdout
    assert planted.in_text(shown.stdout + shown.stderr) == []
    names = {
        path.name for folder in (tmp_path, secured_server.folder, ray_folder) for path in folder.rglob("*")
    }
    assert {"job.yaml", "state.json", "model.safetensors", "mlflow.db", "raylet.out", "log"} <= names
    assert planted.in_files(tmp_path, secured_server.folder, ray_folder) == []
