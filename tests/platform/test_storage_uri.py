"""Where jobs may keep what they write: URIs, folders of several machines, and no secrets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rsrnet_platform import preflight, runs, spec, train
from rsrnet_platform.cluster import ClusterConfig, connect
from rsrnet_platform.errors import JobError, UserError
from tests.platform.conftest import MakeJob
from tests.platform.test_reach import own_disk  # noqa: F401 - a fixture

TRAIN: dict[str, Any] = {"kind": "train", "name": "a", "data": {"root": "/x"}}
KINDS: dict[str, dict[str, Any]] = {
    "train": TRAIN,
    "tune": TRAIN | {"kind": "tune", "space": {"fit.lr": {"choice": [1e-4, 1e-3]}}},
    "ablate": TRAIN | {"kind": "ablate"},
    "evaluate": TRAIN | {"kind": "evaluate", "model": "models:/m/1"},
    "predict": {"kind": "predict", "name": "a", "model": "models:/m/1", "input": "/in", "output": "/out"},
}


def test_storage_of_a_training_may_be_a_uri() -> None:
    job = spec.parse(TRAIN | {"storage": "s3://bucket/runs"})
    assert isinstance(job, spec.TrainJob)
    assert job.storage == "s3://bucket/runs"


@pytest.mark.parametrize(
    ("kind", "why"),
    [("tune", "trial by trial"), ("ablate", "training by training"), ("evaluate", "this program alone")],
)
def test_other_kinds_say_why_theirs_is_not(kind: str, why: str) -> None:
    with pytest.raises(JobError, match=rf"storage = 's3://bucket/runs': a folder, and no URI: .*{why}"):
        spec.parse(KINDS[kind] | {"storage": "s3://bucket/runs"})


def test_training_without_ray_needs_a_folder() -> None:
    with pytest.raises(JobError, match=r"storage = .*a folder, as cluster\.workers = 0"):
        spec.parse(TRAIN | {"storage": "s3://bucket/runs", "cluster": {"workers": 0}})


@pytest.mark.parametrize(
    "uri",
    [
        "s3://KEY:hunter2@bucket/x",
        "s3://KEY:hun%2Fter2/hunter2@bucket/x",
        "s3://bucket/x?access_key=KEY&secret_key=hunter2",
        "s3://bucket/x?region=eu&session_token=hunter2",
        "abfs://container@account.dfs.core.windows.net/x?account_key=hunter2",
    ],
)
@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("train", "storage"),
        ("train", "data.root"),
        ("tune", "storage"),
        ("evaluate", "data.root"),
        ("predict", "input"),
        ("predict", "output"),
    ],
)
def test_secret_in_a_uri_is_refused_and_not_told(kind: str, path: str, uri: str) -> None:
    key, _, inner = path.partition(".")
    with pytest.raises(JobError) as refused:
        spec.parse(KINDS[kind] | {key: {inner: uri} if inner else uri})
    assert f"{path}: the keys of a store belong into the environment" in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/x?region=eu-central-1&endpoint_override=localhost:9000",
        "abfs://container@account.dfs.core.windows.net/x",
        "hdfs://user@host:8020/x",
        "s3://bucket/secret/token=3/a@b",
    ],
)
def test_uri_without_a_secret_is_allowed(uri: str) -> None:
    assert spec.parse(TRAIN | {"storage": uri})


# fsspec's name for the disk, which pyarrow does not know: as a store that every process reaches.
def test_state_of_a_run_is_at_the_uri_and_the_lock_here(tmp_home: Path, tmp_path: Path) -> None:
    uri = f"local://{tmp_path}/store"
    job = spec.parse(TRAIN | {"storage": uri})
    assert isinstance(job, spec.TrainJob)
    with runs.hold(uri, "a") as run:
        with pytest.raises(UserError, match="going on in another process"), runs.hold(uri, "a"):
            pass
        run.begin(job, runs.Data("1", "2", 3, 4, []), fresh=False)
        assert str(tmp_home) in str(run.folder)
    assert json.loads((tmp_path / "store/a/state.json").read_text())["attempt"] == 1
    assert not (run.folder / "state.json").exists()
    with runs.hold(uri, "a") as again:
        assert again.state == run.state
        assert again.where == f"{uri}/a"


def test_refused_job_leaves_nothing_at_the_uri(tmp_home: Path, tmp_path: Path) -> None:
    uri = f"local://{tmp_path}/store"
    with pytest.raises(UserError), runs.hold(uri, "a"):
        raise UserError("refused")
    assert not (tmp_path / "store").exists()
    assert not [path for path in tmp_home.rglob("*") if path.is_file() or path.name == "a"]


def test_refused_job_says_why_and_leaves_what_else_is_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "runs/a").mkdir(parents=True)
    (tmp_path / "runs/a/notes").touch()
    with pytest.raises(UserError, match="refused"), runs.hold(str(tmp_path / "runs"), "a"):
        raise UserError("refused")
    assert [path.name for path in (tmp_path / "runs/a").iterdir()] == ["notes"]


def test_state_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs/a" / runs.STATE).mkdir(parents=True)
    with (
        pytest.raises(UserError, match=r"state\.json: cannot be read"),
        runs.hold(str(tmp_path / "runs"), "a"),
    ):
        pass


def test_refused_job_leaves_no_folder_that_it_made(tmp_path: Path) -> None:
    with pytest.raises(UserError), runs.hold(str(tmp_path / "some/runs"), "a"):
        raise UserError("refused")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.ray
def test_training_at_a_uri_is_known_wherever_it_is_started_again(
    make_job: MakeJob, ray_cluster: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    uri = f"local://{tmp_path}/store"
    job = make_job(cluster__workers=1, storage=uri)
    homes = [tmp_path / "here", tmp_path / "there"]
    monkeypatch.setenv("HOME", str(homes[0]))
    train.run(job, fresh=False)
    attempt = tmp_path / "store/squares/attempt-1"
    assert len(list(attempt.glob("checkpoint_*"))) >= 2
    assert json.loads(attempt.with_name("state.json").read_text())["model_uri"] == "models:/rsrnet/1"
    monkeypatch.setenv("HOME", str(homes[1]))
    train.run(job, fresh=False)
    assert "squares is trained already: models:/rsrnet/1" in " ".join(capsys.readouterr().err.split())


@pytest.mark.ray
def test_folder_that_a_machine_does_not_see_is_refused_by_its_setting(
    own_disk: Path,  # noqa: F811
) -> None:
    with connect(ClusterConfig(accelerator="cpu")) as place:
        preflight.require_shared(place, "storage", str(own_disk.parent))
        with pytest.raises(UserError) as refused:
            preflight.require_shared(place, "storage", str(own_disk))
    said = str(refused.value)
    assert f"storage = {own_disk}: not every machine of the Ray cluster at" in said
    assert "does not see what this machine writes there" in said
    assert "s3://bucket/path" in said
