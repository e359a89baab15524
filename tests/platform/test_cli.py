from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

import rsrnet
from rsrnet.data.errors import BadDataError
from rsrnet_platform import cli, errors, spec
from rsrnet_platform.errors import UserError
from rsrnet_platform.store import TrackingError

JOB = "kind: train\nname: x\ndata: {root: /d}\ncluster: {workers: 0, accelerator: cpu}\n"


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    return path


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[spec.Job, bool]]:
    """The jobs that were run, instead of running them."""
    seen: list[tuple[spec.Job, bool]] = []
    module = SimpleNamespace(run=lambda job, *, fresh: seen.append((job, fresh)))
    monkeypatch.setitem(sys.modules, "rsrnet_platform.train", module)
    return seen


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as left:
        cli.main([str(argument) for argument in arguments])
    return int(left.value.code or 0)


def program(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rsrnet_platform", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_help_names_every_command() -> None:
    shown = CliRunner().invoke(cli.app, ["--help"]).output
    assert all(command in shown for command in ("run", "data", "demo", "--version"))


def test_version() -> None:
    assert CliRunner().invoke(cli.app, ["--version"]).output.strip() == f"rsrnet {rsrnet.__version__}"


def test_run_hands_the_job_to_the_runner_of_its_kind(job: Path, runs: list[tuple[spec.Job, bool]]) -> None:
    assert call("run", job, "--set", "fit.lr=3e-4", "--set", "name=y", "--fresh") == 0
    assert runs == [(spec.load(job, ["fit.lr=3e-4", "name=y"]), True)]


def test_every_kind_of_job_has_a_runner() -> None:
    assert set(cli.RUNNERS) == set(spec.KINDS)


def test_dry_run_prints_a_job_file_and_runs_nothing(
    job: Path, runs: list[tuple[spec.Job, bool]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("run", job, "--dry-run", "--set", f"tracking.uri={tmp_path}") == 0
    shown = capsys.readouterr()
    (tmp_path / "resolved.yaml").write_text(shown.out)
    assert spec.load(tmp_path / "resolved.yaml") == spec.load(job, [f"tracking.uri={tmp_path}"])
    assert "this process" in shown.err
    assert f"{tmp_path}/mlflow.db" in shown.err
    assert runs == []
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.parametrize("error", [UserError("no"), TrackingError("no"), BadDataError("no")])
def test_users_errors_are_one_message_and_exit_code_2(
    job: Path, error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setitem(sys.modules, "rsrnet_platform.train", SimpleNamespace(run=fail))
    assert call("run", job) == 2
    assert capsys.readouterr().err == "Error: no\n"


def test_our_faults_keep_their_traceback(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("a fault")

    monkeypatch.setitem(sys.modules, "rsrnet_platform.train", SimpleNamespace(run=fail))
    with pytest.raises(ValueError, match="a fault"):
        cli.main(["run", str(job)])


@pytest.mark.parametrize("name", sorted(errors.USER_ERRORS))
def test_every_users_error_exists(name: str) -> None:
    module, _, cls = name.rpartition(".")
    found = getattr(pytest.importorskip(module), cls)
    assert issubclass(found, Exception)
    assert errors.is_user_error(found.__new__(found))


def test_bad_job_is_refused_by_the_program_with_all_its_problems(job: Path) -> None:
    done = program(job, "--set", "fit.lrr=1", "--set", "model.iterations=0")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "fit.lrr = 1: no such key; the nearest is fit.lr" in done.stderr
    assert "model.iterations = 0" in done.stderr


def test_sample_with_impossible_numbers_makes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("data", "sample", tmp_path / "sample", "--train", 0, "--size", 3) == 2
    shown = capsys.readouterr().err
    assert "train = 0" in shown
    assert "size = 3" in shown
    assert list(tmp_path.iterdir()) == []


def test_sample_is_made_with_what_was_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sample"
    numbers = ("--train", 4, "--val", 2, "--test", 2, "--size", 48, "--processes", 1)
    assert call("data", "sample", out, *numbers) == 0
    assert len((out / "le50_train.txt").read_text().split()) == 4
    assert str(out) in capsys.readouterr().out
