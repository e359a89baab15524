"""`rsrnet submit` on the session's cluster."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from rsrnet_platform import cli, job_api, provenance, spec, submit
from rsrnet_platform.errors import JobError, UserError
from rsrnet_platform.store import open_client

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
ADDRESSES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")


@pytest.fixture(autouse=True)
def _no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ADDRESSES:
        monkeypatch.delenv(name, raising=False)


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as left:
        cli.main([str(argument) for argument in arguments])
    return int(left.value.code or 0)


# What is checked before anything is sent.


class _Answers(BaseHTTPRequestHandler):
    """A web server whose answers a test sets."""

    status: ClassVar[int] = 200
    body: ClassVar[bytes] = b"{}"
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(_Answers, "asked", [])
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("fit.lrr=1", "no such key; the nearest is fit.lr"),
        ("model.iterations=0", "model.iterations = 0"),
        (
            "data.root=photos",
            "data.root = 'photos': a path on the machines of the cluster, from / or ~ on, or a URI",
        ),
        ("storage=runs", "storage = 'runs': a path on the machines"),
        ("fit.encoder_weights=resnet.pth", "fit.encoder_weights = 'resnet.pth': a path on the machines"),
        ("tracking.uri=mlflow.db", "tracking.uri = 'mlflow.db': a path on the machines"),
        ("tracking.uri=sqlite:///mlflow.db", "tracking.uri = 'mlflow.db': a path on the machines"),
        ("cluster.address=local", "cluster.address = 'local': leave it out"),
        ("storage=s3://me:secret@bucket/x", "the keys of a store belong into the environment"),
    ],
)
def test_bad_job_is_refused_before_the_cluster_is_asked(
    train_file: Path, web_server: str, setting: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--set", "cluster.workers=1") if "s3" in setting else ()
    assert call("submit", train_file, "--address", web_server, "--set", setting, *more) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert str(train_file) in shown
    assert "secret" not in shown
    assert _Answers.asked == []


@pytest.mark.parametrize(
    ("job", "paths"),
    [
        ({"kind": "predict", "name": "x", "model": "a", "input": "b", "output": "c"}, "model input output"),
        ({"kind": "evaluate", "name": "x", "model": "a", "data": {"root": "d"}}, "model data.root"),
        (
            {"kind": "train", "name": "x", "data": {"root": "d", "photographs": "p"}, "storage": "s"},
            "data.root data.photographs storage",
        ),
        (
            {
                "kind": "tune",
                "name": "x",
                "data": {"root": "~/d"},
                "search": {"folds": 2, "algorithm": "random", "trials": 2},
                "space": {"fit.encoder_weights": {"choice": ["none", "a.pth"]}},
            },
            "space.fit.encoder_weights",
        ),
    ],
    ids=["predict", "evaluate", "train", "tune"],
)
def test_every_relative_path_is_named(job: dict[str, Any], paths: str, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(json.dumps(job))
    with pytest.raises(JobError) as refusal:
        spec.load_for_elsewhere(file)
    assert sorted(str(problem).split(" = ")[0] for problem in refusal.value.problems) == sorted(paths.split())


def test_home_is_that_of_the_machine_that_runs_the_job(train_file: Path, tmp_path: Path) -> None:
    home = ["storage=~/runs", "data.root=~/data", "tracking.uri=null"]
    job = spec.load_for_elsewhere(train_file, home)
    assert isinstance(job, spec.TrainJob)
    assert (job.storage, job.data.root) == ("~/runs", "~/data")
    sent = tmp_path / "sent"
    sent.mkdir()
    submit.pack(sent, job)
    assert spec.load(sent / submit.JOB) == spec.load(train_file, home)


def test_what_is_sent_is_the_code_and_the_job_and_it_runs_by_itself(train_file: Path, tmp_path: Path) -> None:
    sent = tmp_path / "sent"
    sent.mkdir()
    submit.pack(sent, spec.load_for_elsewhere(train_file))
    assert sorted(path.name for path in sent.iterdir()) == ["job.yaml", "platform", "rsrnet"]
    files = [path for path in sent.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".py", ".yaml", ".typed"}
    assert sum(path.stat().st_size for path in files) < 3_000_000
    shown = subprocess.run(
        [f"./{submit.JOB}", "--dry-run"],
        cwd=sent,
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": ""},
        capture_output=True,
        text=True,
    )
    assert shown.returncode == 0, shown.stderr
    (tmp_path / "shown.yaml").write_text(shown.stdout)
    assert spec.load(tmp_path / "shown.yaml") == spec.load(train_file)


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://head:8265", "http://head:8265"),
        ("http://head:8265/", "http://head:8265"),
        ("head:8265", "http://head:8265"),
        ("10.0.0.1:8265", "http://10.0.0.1:8265"),
        ("https://ray.example.org", "https://ray.example.org"),
        ("https://example.org/ray", "https://example.org/ray"),
        ("[::1]:8265", "http://[::1]:8265"),
    ],
)
def test_address(given: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert job_api.find(given) == url
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", given)
    assert job_api.find(None) == url
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://other:1")
    assert job_api.find(given) == url, "what is given comes first"


def test_address_in_the_variable_of_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    assert job_api.find(None) == "http://head:8265"


@pytest.mark.parametrize(
    "given",
    ["ray://head:10001", "http://", "head:port", "http://head:8265/?x=1", "ssh://head", "http://[::1:8265"],
)
def test_what_is_no_address_is_refused(given: str) -> None:
    with pytest.raises(UserError, match=r"--address.*HEAD:8265"):
        job_api.find(given)


def test_password_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(UserError, match="RAY_AUTH_TOKEN") as refusal:
        job_api.find("http://me:secret@head:8265")
    assert "secret" not in str(refusal.value)


def test_without_a_cluster_it_says_how_to_name_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray._private.utils.read_ray_address", lambda: None)
    with pytest.raises(UserError, match=r"--address http://HEAD:8265.*\$RAY_ADDRESS.*ray start --head"):
        job_api.find(None)


def test_cluster_that_does_not_answer_is_told_at_once(
    train_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        assert call("submit", train_file, "--address", address) == 2
    shown = capsys.readouterr().err
    assert f"No Ray cluster answers at http://{address} (" in shown
    assert "kubectl port-forward" in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (404, b"", "is not the job API of a Ray cluster"),
        (200, b"<html>", "is not the job API of a Ray cluster"),
        (200, b"[]", "is not the job API of a Ray cluster"),
        (502, b"", "No Ray cluster answers at {server} (502"),
        (200, b'{"ray_version": "2.9.3"}', "runs Ray 2.9.3, and this code needs ray>=2."),
    ],
)
def test_other_servers_and_old_clusters_are_refused(
    train_file: Path,
    web_server: str,
    status: int,
    body: bytes,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(_Answers, "status", status)
    monkeypatch.setattr(_Answers, "body", body)
    assert call("submit", train_file, "--address", web_server) == 2
    shown = capsys.readouterr().err
    assert message.format(server=web_server) in shown
    assert web_server in shown
    assert _Answers.asked == ["/api/version"], "nothing was sent"


# What a cluster makes of it.


@pytest.mark.slow
def test_job_runs_on_the_cluster_and_its_log_is_shown_here(
    train_file: Path,
    ray_cluster: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "other:6379")  # which Ray's client would prefer
    options = ("--set", "fit.epochs=1", "--set", "name=sent")
    assert call("submit", train_file, "--address", ray_cluster.dashboard_url, *options) == 0
    shown = capfd.readouterr()
    assert "Training sent with this process" in shown.out
    assert "epoch 1/1 done" in shown.out
    assert f"Sent to {ray_cluster.dashboard_url} as raysubmit_" in shown.err
    assert "Paths are those of its machines: data.root = /" in shown.err
    assert "succeeded." in shown.err
    assert "INFO" not in shown.err
    client = open_client(f"sqlite:///{tmp_path}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("rsrnet").experiment_id])
    assert run.data.tags["mlflow.source.git.commit"] == provenance.environment_of_code()["RSRNET_GIT_COMMIT"]
    assert run.data.params["name"] == "sent"


@pytest.mark.slow
def test_exit_code_is_the_jobs_own(
    train_file: Path, ray_cluster: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    address = ("--address", ray_cluster.dashboard_url)
    assert call("submit", train_file, *address, "--set", "data.root=/nowhere") == 2
    shown = capfd.readouterr()
    assert "there is no dataset folder /nowhere" in shown.out
    assert "failed with exit code 2." in shown.err


@pytest.mark.slow
def test_no_wait_leaves_at_once_and_tells_how_to_follow(
    train_file: Path, ray_cluster: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    url = ray_cluster.dashboard_url
    assert call("submit", train_file, "--address", url, "--no-wait") == 0
    shown = capfd.readouterr()
    assert shown.out == ""
    follow, stop = (line for line in shown.err.splitlines() if "ray job" in line)
    assert follow.startswith(
        f"Follow it: RAY_AUTH_MODE=disabled ray job logs --follow --address {url} raysubmit_"
    )
    command = follow.removeprefix("Follow it: ").replace("ray job", f"{BIN}/ray job")
    followed = subprocess.run(["env", *command.split()], capture_output=True, text=True)
    assert "epoch 3/3 done" in followed.stdout
    assert "ray job stop" in stop


@pytest.mark.parametrize(
    "entrypoint", ["python -c 'import no_such_module'", "env -S no-such-python -m rsrnet_platform"]
)
@pytest.mark.slow
def test_cluster_without_the_packages_is_told(
    ray_cluster: Any, entrypoint: str, capfd: pytest.CaptureFixture[str]
) -> None:
    url = ray_cluster.dashboard_url
    client = job_api.connect(url)
    submission = client.submit_job(entrypoint=entrypoint)
    assert submit.follow(client, url, submission) in (1, 127)
    assert "start Ray there with their environment activated" in capfd.readouterr().err


def _program(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", "from rsrnet_platform.cli import main; main()", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background ignores Ctrl-C, and its children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.slow
def test_interrupt_stops_following_only_and_a_stopped_job_is_told(train_file: Path, ray_cluster: Any) -> None:
    url = ray_cluster.dashboard_url
    client = job_api.connect(url)
    program = _program("submit", train_file, "--address", url, "--set", "fit.epochs=100000")
    assert program.stdout is not None
    for line in program.stdout:
        if "done" in line:
            break
    program.send_signal(signal.SIGINT)
    _, said = program.communicate(timeout=60)
    assert program.returncode == submit.INTERRUPTED
    assert "the job goes on" in said
    assert "Traceback" not in said
    submission = next(word for word in said.split() if word.startswith("raysubmit_")).rstrip(".;")
    assert f"ray job stop --address {url} {submission}" in said
    assert client.get_job_status(submission) == "RUNNING"

    client.stop_job(submission)
    details = submit.watch(client, url, submission, lambda text: None)
    assert details.status == "STOPPED"


class _Proxy:
    """A way to a server that can be cut, as that of `kubectl port-forward` is now and then."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            far = socket.create_connection(self.target)
            self.open += [near, far]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._copy, args=(one, other), daemon=True).start()

    @staticmethod
    def _copy(one: socket.socket, other: socket.socket) -> None:
        try:
            while data := one.recv(65536):
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def cut(self) -> None:
        for each in self.open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self.open.clear()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)  # otherwise the thread goes on accepting
        self.listener.close()
        self.cut()


@pytest.mark.slow
def test_connection_that_breaks_is_made_again_and_no_line_is_shown_twice(
    ray_cluster: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each time anew: it is cut twice, further apart than it is tried again for."""
    monkeypatch.setattr(submit, "PATIENCE", 5.0)
    host, port = ray_cluster.dashboard_url.removeprefix("http://").split(":")
    proxy = _Proxy((host, int(port)))
    url = f"http://127.0.0.1:{proxy.port}"
    client = job_api.connect(url)
    submission = client.submit_job(entrypoint="for i in $(seq 12); do echo line $i; sleep 1; done; exit 3")
    shown: list[str] = []

    def show(text: str) -> None:
        shown.append(text)
        if "line 3" in text or "line 9" in text:
            proxy.cut()

    details = submit.watch(client, url, submission, show)
    proxy.close()
    lines = [line for line in "".join(shown).splitlines() if line.startswith("line")]
    assert lines == [f"line {number}" for number in range(1, 13)]
    assert details.driver_exit_code == 3
    assert capfd.readouterr().err.count(f"The connection to {url} broke") == 2


@pytest.mark.slow
def test_cluster_that_stays_away_is_given_up_with_what_to_do(
    ray_cluster: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], train_file: Path
) -> None:
    monkeypatch.setattr(submit, "PATIENCE", 2.0)
    host, port = ray_cluster.dashboard_url.removeprefix("http://").split(":")
    proxy = _Proxy((host, int(port)))
    follow = submit.follow

    def follow_and_lose(*arguments: Any) -> Any:
        threading.Timer(3, proxy.close).start()
        return follow(*arguments)

    monkeypatch.setattr(submit, "follow", follow_and_lose)
    given = ("--address", f"127.0.0.1:{proxy.port}", "--set", "fit.epochs=100000")
    try:
        assert call("submit", train_file, *given) == 2
    finally:
        client = job_api.connect(ray_cluster.dashboard_url)
        for job in client.list_jobs():
            if job.submission_id and job.status == "RUNNING":
                client.stop_job(job.submission_id)
    shown = capfd.readouterr().err
    assert "is not known from here" in shown
    assert "Follow it:" in shown
    assert f"No Ray cluster answers at http://127.0.0.1:{proxy.port}" in shown
