"""`rsrnet doctor`: what it says of things that are in order, and of each kind that is not."""

from __future__ import annotations

import json
import logging
import shutil
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from uuid import uuid4

import pytest
from typer.testing import CliRunner

from rsrnet_platform import cli, spec
from rsrnet_platform.cluster import ClusterConfig, PoolConfig
from rsrnet_platform.doctor import files, machine, needs, nodes, report, store, versions
from rsrnet_platform.doctor.finding import Check, Finding, carry_out
from rsrnet_platform.errors import UserError
from rsrnet_platform.models.lock import PREFIX
from rsrnet_platform.store import TrackingConfig, open_client, prepare
from tests.platform.test_reach import own_disk

__all__ = ["own_disk"]

MakeJob = Callable[..., spec.TrainJob]


@pytest.fixture(autouse=True)
def _unconnected() -> None:
    """A connection that another test made would be examined."""
    import ray

    ray.shutdown()


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {each.name: each for each in findings}


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if not path.name.endswith(".lock"))


def needs_of(folder: Path, uri: str) -> needs.Needs:
    return needs.Needs(PoolConfig(), TrackingConfig(uri=uri), str(folder / "runs"))


class TestWhole:
    def test_job_that_could_run(self, train_file: Path, tmp_path: Path) -> None:
        prepare(TrackingConfig(uri=str(tmp_path / "mlflow.db")))
        before = files_in(tmp_path)
        shown = CliRunner().invoke(cli.app, ["doctor", str(train_file), "--json"])
        assert shown.exit_code == 0, shown.output
        told = json.loads(shown.stdout)
        states = {each["name"]: each["state"] for each in told["findings"]}
        assert told["ok"]
        assert set(states.values()) <= {"ok", "warning"}
        looked_at = ("Python", "lock file", "PyTorch", "GPU", "Ray", "tracking", "model registry", "storage")
        assert all(name in states for name in looked_at)
        assert states["model registry"] == states["artifacts"] == states["dataset"] == "ok"
        assert files_in(tmp_path) == before

    def test_job_that_could_not_run_names_everything_at_once(self, train_file: Path, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        wrong = {
            "data.root": tmp_path / "nowhere",
            "storage": tmp_path / "file/runs",
            "tracking.uri": tmp_path / "file/mlflow.db",
            "fit.encoder_weights": tmp_path / "none.pth",
            "cluster.accelerator": "gpu",
        }
        sets = [text for key, value in wrong.items() for text in ("--set", f"{key}={value}")]
        shown = CliRunner().invoke(cli.app, ["doctor", str(train_file), *sets])
        assert shown.exit_code == 1
        problems = [line for line in shown.stdout.splitlines() if "problem " in line]
        expected = ("room for the job", "tracking", "storage", "dataset", "encoder weights")
        assert [line.split("│")[1].strip() for line in problems] == list(expected)
        assert "The job squares could not run: 5 problems" in shown.stdout

    def test_without_a_job_a_missing_dataset_is_a_warning(self, tmp_home: Path) -> None:
        found = by_name(list(report.examine(None)))
        assert found["dataset"].state == "warning"
        assert found["tracking"].found.endswith("not there yet, the first job makes it")
        assert "problem" not in {each.state for each in found.values()}
        assert not (tmp_home / "rsrnet").exists()


class TestChecks:
    def test_one_that_crashes_or_hangs_leaves_the_others(self) -> None:
        def crash() -> Iterator[Finding]:
            raise RuntimeError("broken")
            yield

        def refuse() -> Iterator[Finding]:
            raise UserError("a.yaml: no such file.\n  Make one.")
            yield

        def hang() -> Iterator[Finding]:
            time.sleep(600)
            yield

        checks = [
            Check("a", crash),
            Check("b", hang, 0.2),
            Check("c", refuse),
            Check("d", lambda: [Finding("d", "ok", "fine")]),
        ]
        assert list(carry_out(checks)) == [
            Finding("a", "problem", "RuntimeError: broken"),
            Finding(
                "b",
                "problem",
                "no answer within 0 s",
                "A network file system, server or driver may hang: look at it by hand",
            ),
            Finding("c", "problem", "a.yaml: no such file", "Make one."),
            Finding("d", "ok", "fine"),
        ]

    @pytest.mark.parametrize(
        "text",
        ["http://me:hunter2@host/x", "s3://b/x?secret_key=hunter2&region=a", "MY_TOKEN=hunter2 is set"],
    )
    def test_passwords_are_masked(self, text: str) -> None:
        told = Finding("x", "ok", text, text)
        assert "hunter2" not in told.found + told.remedy
        assert "***" in told.found


class TestVersions:
    def test_the_environment_has_the_versions_of_the_lock(self) -> None:
        (told,) = versions.against_lock()
        assert told.state == "ok"

    def test_another_pin_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        lock = tmp_path / "requirements.lock"
        lock.write_text(
            "filelock==1.0.0 \\\n    --hash=sha256:00\n    # via rsrnet\n"
            "numpy==0.1 ; python_full_version < '3.0'\nno-such-package==3\n"
        )
        monkeypatch.setattr(versions, "find_lock", lambda: lock)
        (told,) = versions.against_lock()
        assert told.state == "warning"
        assert told.found.startswith("1 of 1 differ: filelock ")
        assert told.found.endswith("(==1.0.0)")
        assert str(lock) in told.remedy

    def test_a_package_that_is_missing_or_too_old_is_a_problem(self, monkeypatch: pytest.MonkeyPatch) -> None:
        needed = ["no-such-package>=1", "filelock>=999 ; extra == 'platform'", "nothing>=1 ; extra == 'dev'"]
        monkeypatch.setattr(versions.metadata, "requires", lambda name: needed)
        (told,) = versions.requirements()
        assert told.state == "problem"
        assert told.found.startswith("no-such-package is missing (>=1), filelock ")
        assert "nothing" not in told.found


class TestMachine:
    def test_little_memory_is_a_warning(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(machine, "MEMORY_GIB", 1e6)
        monkeypatch.setattr(machine, "SHARED_MEMORY_GIB", 1e6)
        assert [each.state for each in machine.memory()] == ["warning", "warning"]

    def test_a_crash_of_the_gpu_is_a_finding(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(machine, "_TRY_GPUS", "import os; os.abort()")
        (told,) = machine.gpus()
        assert (told.name, told.state) == ("GPU", "problem")
        assert "exit code -6" in told.found


class TestStore:
    def test_no_server(self, tmp_path: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            uri = f"http://127.0.0.1:{free.getsockname()[1]}"
            found = list(carry_out([Check("tracking", lambda: store.tracking(needs_of(tmp_path, uri)))]))
        assert [each.state for each in found] == ["problem"]
        assert f"no MLflow server answers at {uri}" in found[0].found
        assert "mlflow server" in found[0].remedy

    def test_server_that_works_is_left_as_it_was(self, mlflow_server: str, tmp_path: Path) -> None:
        needed = needs_of(tmp_path, mlflow_server)
        needed = replace(needed, tracking=replace(needed.tracking, experiment=uuid4().hex))
        prepare(needed.tracking)
        client = open_client(mlflow_server)
        found = [each for look in (store.tracking, store.registry, store.artifacts) for each in look(needed)]
        assert [each.state for each in found] == ["ok", "ok", "ok"], found
        assert not [model for model in client.search_registered_models() if model.name.startswith(PREFIX)]

    def test_marker_of_a_doctor_that_was_killed_is_removed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        uri = prepare(TrackingConfig(uri=str(tmp_path / "mlflow.db")))
        client = open_client(uri)
        client.create_registered_model(f"{PREFIX}doctor-left")
        client.create_registered_model("mine")
        monkeypatch.setattr(store, "_LEFT_SECONDS", -60)
        assert [each.state for each in store.registry(needs_of(tmp_path, uri))] == ["ok"]
        assert [model.name for model in client.search_registered_models()] == ["mine"]

    def test_database_that_takes_no_model(self, tmp_path: Path) -> None:
        """Instead of a file that cannot be written: root may write to any."""
        uri = prepare(TrackingConfig(uri=str(tmp_path / "mlflow.db")))
        with sqlite3.connect(tmp_path / "mlflow.db") as database:
            database.execute(
                "CREATE TRIGGER broken BEFORE INSERT ON registered_models BEGIN INSERT INTO nowhere VALUES (1); END"
            )
        database.close()
        (told,) = store.registry(needs_of(tmp_path, uri))
        assert told.state == "problem"
        assert "no such table: main.nowhere" in told.found
        assert "tracking.model" in told.remedy

    def test_server_that_lets_only_read(self, mlflow_server: str, tmp_path: Path) -> None:
        with reading_only(mlflow_server) as uri:
            needed = needs_of(tmp_path, uri)
            assert [each.state for each in store.tracking(needed)] == ["ok"]
            (told,) = store.registry(needed)
        assert told.state == "problem"
        assert "may only read" in told.found

    def test_database_that_is_none(self, tmp_path: Path) -> None:
        (tmp_path / "mlflow.db").write_text("something else, of a hundred bytes or so " * 3)
        uri = str(tmp_path / "mlflow.db")
        (told,) = carry_out([Check("tracking", lambda: store.tracking(needs_of(tmp_path, uri)))])
        assert told.state == "problem"
        assert "not a database" in told.found

    def test_deleted_experiment(self, tmp_path: Path) -> None:
        uri = prepare(TrackingConfig(uri=str(tmp_path / "mlflow.db")))
        client = open_client(uri)
        client.delete_experiment(client.get_experiment_by_name("rsrnet").experiment_id)
        (told,) = store.tracking(needs_of(tmp_path, uri))
        assert told.state == "problem"
        assert "mlflow experiments restore" in told.remedy


class TestFiles:
    def test_missing_image(self, make_job: MakeJob, squares: Path, tmp_path: Path) -> None:
        root = Path(shutil.copytree(squares, tmp_path / "data"))
        missing = min((root / "Sample/composite_images").glob("*"))
        missing.unlink()
        needed = needs.of(make_job(data__root=root, data__train="le50_test.txt"))
        lines = (root / "le50_test.txt").read_text() + f"Sample/composite_images/{missing.name}\n"
        (root / "le50_test.txt").write_text(lines)
        (told,) = files.dataset(needed)
        assert told.state == "problem"
        assert missing.name in told.found + told.remedy

    def test_little_room(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(files, "DISK_GIB", 1e9)
        found = by_name(list(files.storage(needs_of(tmp_path, "mlflow.db"))))
        assert (found["storage"].state, found["free disk"].state) == ("ok", "warning")
        assert list(tmp_path.iterdir()) == []


@pytest.mark.ray
class TestCluster:
    def test_nodes_that_are_alike_see_everything(
        self, ray_cluster: object, make_job: MakeJob, tmp_path: Path
    ) -> None:
        needed = needs.of(make_job(cluster__workers=2))
        found = [*nodes.room(needed.cluster), *nodes.alike(), *files.storage(needed), *files.dataset(needed)]
        assert {each.state for each in found} <= {"ok", "warning"}, found
        assert "every node (1) sees the same" in [each.found for each in found]
        assert not (tmp_path / "runs").exists()

    def test_other_versions_on_a_node(self, ray_cluster: object, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(nodes.versions, "here", lambda: {"Python": "3.99", "ray": "0.1"})
        monkeypatch.setattr(nodes, "_facts", lambda: ({"Python": "3.11", "ray": "0.1"}, 8, 7))
        wrong, gpus = nodes.alike()
        assert (wrong.state, gpus.state) == ("problem", "problem")
        assert wrong.found.endswith("Python 3.11 (here 3.99)")
        assert gpus.found.endswith("Ray counts 8, PyTorch sees 7")

    def test_job_that_is_too_large(self, ray_cluster: object) -> None:
        config = ClusterConfig(workers=64)
        (told,) = carry_out([Check("room for the job", lambda: nodes.room(config))])
        assert told.state == "problem"
        assert "room for 4" in told.found
        assert told.remedy.startswith("Set cluster.workers to 4")

    def test_node_with_a_disk_of_its_own(self, own_disk: Path, squares: Path) -> None:
        from rsrnet.data.config import DataConfig

        root = Path(shutil.copytree(squares, own_disk / "data"))
        data = DataConfig(root=str(root), val="le50_val.txt")
        uri = str(own_disk / "mlflow.db")
        needed = replace(needs_of(own_disk, uri), data=data, lists=("train", "test"))
        for look in (store.tracking, files.storage, files.dataset):
            problems = [each for each in look(needed) if each.state == "problem"]
            assert len(problems) == 1, problems
            assert "every node" in problems[0].remedy

    def test_connection_is_found_and_ended(
        self, ray_cluster: object, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        import ray

        address = ray.get_runtime_context().gcs_address
        ray.shutdown()
        ray_log = logging.getLogger("ray._private.worker")
        monkeypatch.setattr(ray_log, "handlers", [caplog.handler])
        with ExitStack() as connection:
            look = partial(nodes.find, PoolConfig(address=address), connection)
            (told,) = carry_out([Check("Ray", look)])
            assert nodes.attached()
        assert caplog.messages == []
        assert f"cluster at {address}: nodes 1, CPUs 4, GPUs 0" in told.found
        assert not nodes.attached()


class reading_only:  # noqa: N801
    """Context: the address of a proxy before a server that lets nobody make anything."""

    def __init__(self, server: str) -> None:
        class Handler(BaseHTTPRequestHandler):
            def _pass_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, answer = 403, b'{"error_code": "PERMISSION_DENIED", "message": "you may only read"}'
                if not self.path.endswith(("/create", "/delete")):
                    request = Request(server + self.path, body or None, method=self.command)
                    request.add_header("Content-Type", "application/json")
                    try:
                        with urlopen(request) as response:
                            status, answer = response.status, response.read()
                    except HTTPError as error:
                        status, answer = error.code, error.read()
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_POST = do_DELETE = _pass_on  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self.proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.proxy.serve_forever, daemon=True).start()

    def __enter__(self) -> str:
        return f"http://127.0.0.1:{self.proxy.server_port}"

    def __exit__(self, *_: object) -> None:
        self.proxy.shutdown()
        self.proxy.server_close()
