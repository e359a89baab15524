"""The MLflow server goes away while a training runs: killed and started again, hung, away for good, the run deleted.

The training must go on, and everything that was to be logged must be there in the end, once.
"""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from rsrnet_platform import spec, train, worker
from rsrnet_platform.outage import UnreachableError
from rsrnet_platform.store import open_client, prepare
from rsrnet_platform.tracking import Tracker, TrackingConfig, TrackingError
from tests.platform.conftest import MlflowServer, client_of, the_run

MakeJob = Callable[..., spec.TrainJob]
EPOCHS = 6


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path_factory.mktemp("server"))
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.send(signal.SIGCONT)
        server.end(signal.SIGKILL)


@pytest.fixture
def server(servers: MlflowServer) -> MlflowServer:
    """A server that answers, whatever the test before did to it."""
    if servers.process.poll() is not None:
        servers.start()
    servers.wait()
    return servers


@pytest.fixture
def job(make_job: MakeJob, server: MlflowServer, request: pytest.FixtureRequest) -> spec.TrainJob:
    """A training of some epochs on the server, in an experiment of its own."""
    name = request.node.name.replace("_", "-").strip("[]")[-50:]
    return make_job(
        fit__epochs=EPOCHS,
        tracking__uri=server.url,
        tracking__experiment=name,
        tracking__model=name,
        tracking__patience=120,
    )


def at_epochs(monkeypatch: pytest.MonkeyPatch, happens: dict[int, Callable[[], object]]) -> None:
    """Have something happen when an epoch is done, before it is logged."""
    plain = worker.Observer.epoch_done

    def epoch_done(self: worker.Observer, training: Any) -> None:
        happens.get(training.epoch, lambda: None)()
        plain(self, training)

    monkeypatch.setattr(worker.Observer, "epoch_done", epoch_done)


def later(seconds: float, action: Callable[[], object]) -> None:
    threading.Timer(seconds, action).start()


def require_whole(job: spec.TrainJob) -> None:
    """Everything that a training logs is in its run, once."""
    client, run = client_of(job), the_run(job)
    assert run.info.status == "FINISHED"
    for key in run.data.metrics:
        steps = Counter(point.step for point in client.get_metric_history(run.info.run_id, key))
        # The registered model's metrics stand beside the run's, at its epoch.
        expected = dict.fromkeys(range(1, EPOCHS + 1), 1) if not key.count("/Sample/") else steps
        assert steps == expected, key
    names = {item.path for item in client.list_artifacts(run.info.run_id, "pictures")}
    kinds = ("masks", "iterations")
    assert names == {
        f"pictures/epoch_{epoch:03d}_{kind}.png" for epoch in range(1, EPOCHS + 1) for kind in kinds
    }
    assert [len(run.inputs.dataset_inputs), run.data.params["fit.epochs"]] == [1, str(EPOCHS)]
    (version,) = client.search_model_versions(f"name = '{job.tracking.model}'")
    assert version.run_id == run.info.run_id
    assert client.get_model_version_by_alias(job.tracking.model, "champion").version == version.version
    assert not list(Path(job.storage).rglob("unsent/**/*.png"))


def losses(job: spec.TrainJob) -> list[float]:
    return [
        point.value for point in client_of(job).get_metric_history(the_run(job).info.run_id, "train/loss")
    ]


def test_a_server_that_is_killed_and_comes_back_loses_nothing(
    job: spec.TrainJob,
    server: MlflowServer,
    undisturbed: MakeJob,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    # It is started when the last epoch but one is done: a training that waited for it would never get there.
    killed: list[float] = []
    back: list[float] = []
    events = {
        2: lambda: (server.end(signal.SIGKILL), killed.append(time.monotonic())),
        EPOCHS - 1: lambda: (server.start(), back.append(time.monotonic())),
    }
    with monkeypatch.context() as patch:  # the undisturbed training may come after it
        at_epochs(patch, events)
        train.run(job, fresh=False)
    took = time.monotonic() - killed[0]
    require_whole(job)
    assert losses(job) == losses(undisturbed(fit__epochs=EPOCHS))
    record_property(
        "fault", f"MLflow server SIGKILLed after epoch 2, started again {back[0] - killed[0]:.1f} s later"
    )
    record_property(
        "outcome",
        f"the training went on; {EPOCHS} of {EPOCHS} epochs, each point once and equal to an undisturbed run's, all "
        f"pictures; FINISHED and registered {took:.0f} s after the kill",
    )


@pytest.mark.slow
def test_a_server_that_is_away_for_a_minute_loses_nothing(
    job: spec.TrainJob,
    server: MlflowServer,
    undisturbed: MakeJob,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    away = 60.0
    times: dict[str, float] = {}

    def kill() -> None:
        server.end(signal.SIGKILL)
        times["killed"] = time.monotonic()
        later(away, start)

    def start() -> None:
        times["back"] = time.monotonic()
        server.start()

    # Epochs of some length: they are trained through the outage, and the last one is done before its end.
    events: dict[int, Callable[[], object]] = {2: kill}
    events |= dict.fromkeys(range(3, EPOCHS), lambda: time.sleep(10))
    events[EPOCHS] = lambda: times.update(trained=time.monotonic())
    with monkeypatch.context() as patch:
        at_epochs(patch, events)
        train.run(replace(job, tracking=replace(job.tracking, patience=300)), fresh=False)
    took = time.monotonic() - times["killed"]
    assert times["back"] - times["killed"] >= away
    assert times["trained"] < times["back"], "the training waited for the server"
    require_whole(job)
    assert losses(job) == losses(undisturbed(fit__epochs=EPOCHS))
    record_property(
        "fault", f"MLflow server SIGKILLed after epoch 2, away for {times['back'] - times['killed']:.0f} s"
    )
    record_property(
        "outcome",
        f"epochs 3 to {EPOCHS} trained within {times['trained'] - times['killed']:.0f} s of the kill; {EPOCHS} of "
        f"{EPOCHS} epochs, each point once and equal to an undisturbed run's, all pictures; FINISHED and registered "
        f"{took:.0f} s after the kill",
    )


def test_a_server_that_hangs_and_goes_on_gets_every_point_once(
    job: spec.TrainJob,
    server: MlflowServer,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    def hang() -> None:
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")  # so that answers are given up, and lost
        server.send(signal.SIGSTOP)

    events = {
        3: hang,
        EPOCHS: lambda: later(5, lambda: server.send(signal.SIGCONT)),
    }
    at_epochs(monkeypatch, events)
    train.run(job, fresh=False)
    require_whole(job)
    record_property("fault", "MLflow server hangs (SIGSTOP) from epoch 3 until 5 s after the last")
    record_property(
        "outcome",
        f"the training went on; {EPOCHS} of {EPOCHS} epochs, points whose answer was lost are there once",
    )


def test_a_server_that_stays_away_is_one_message_and_the_same_job_logs_the_rest(
    job: spec.TrainJob,
    make_job: MakeJob,
    server: MlflowServer,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    with monkeypatch.context() as patch:
        at_epochs(patch, {3: lambda: server.end(signal.SIGKILL)})
        impatient = replace(job, tracking=replace(job.tracking, patience=1))
        with pytest.raises(UnreachableError, match=r"no MLflow server.*1 s.*start the same job again"):
            train.run(impatient, fresh=False)
    assert list(Path(job.storage).rglob("unsent/pictures/epoch_005_masks.png"))
    server.start()
    server.wait()
    assert the_run(job).info.status == "RUNNING"
    train.run(job, fresh=False)
    require_whole(job)
    record_property("fault", "MLflow server SIGKILLed in mid-run and never back")
    record_property(
        "outcome",
        "after tracking.patience one message; the same job started again trained nothing, logged the epochs and "
        f"pictures that were missing ({EPOCHS} of {EPOCHS}, each once), FINISHED and registered",
    )


def test_a_run_that_is_deleted_ends_the_training_at_once(
    job: spec.TrainJob, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    monkeypatch.setattr("rsrnet_platform.worker.Reporter.due", lambda self: True)
    client = client_of(job)
    trained: list[int] = []

    def delete() -> None:
        client.delete_run(the_run(job).info.run_id)

    plain = worker.Observer.step_done

    def step_done(self: worker.Observer, progress: Any) -> None:
        trained.append(progress.epoch)
        plain(self, progress)

    monkeypatch.setattr(worker.Observer, "step_done", step_done)
    at_epochs(monkeypatch, {2: delete})
    begun = time.monotonic()
    with pytest.raises(TrackingError, match="deleted") as refused:
        train.run(job, fresh=False)
    assert not isinstance(refused.value, UnreachableError)
    assert max(trained) < EPOCHS
    record_property("fault", "MLflow run deleted in mid-run")
    record_property(
        "outcome",
        f"the training ended in epoch {max(trained)} of {EPOCHS} with one message, {time.monotonic() - begun:.0f} s "
        "after its start",
    )


def test_a_server_that_goes_away_while_the_model_is_registered_gets_it_once(
    job: spec.TrainJob,
    server: MlflowServer,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    from rsrnet_platform import registry

    plain = registry.save_pyfunc
    calls: list[Path] = []

    def save_pyfunc(folder: Path, *args: Any, **kwargs: Any) -> Any:
        calls.append(folder)
        if len(calls) == 1:  # the model is begun, and not uploaded
            server.end(signal.SIGKILL)
            later(2, server.start)
        return plain(folder, *args, **kwargs)

    monkeypatch.setattr(registry, "save_pyfunc", save_pyfunc)
    train.run(job, fresh=False)
    assert len(calls) == 2
    require_whole(job)
    run = the_run(job)
    (model,) = client_of(job).search_logged_models(
        [run.info.experiment_id], f"source_run_id = '{run.info.run_id}'"
    )
    assert str(model.status) == "READY"
    record_property("fault", "MLflow server SIGKILLed while the model is uploaded, started again 2 s later")
    record_property("outcome", "the registration was done again: one model, one version, champion; FINISHED")


def when_a_checkpoint_is_there(job: spec.TrainJob, action: Callable[[], object]) -> threading.Thread:
    def watch() -> None:
        while not list(Path(job.storage).glob("*/attempt-1/checkpoint_*")):
            time.sleep(0.05)
        action()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_on_ray_too_a_server_that_stays_away_is_one_message_and_the_same_job_logs_the_rest(
    job: spec.TrainJob, server: MlflowServer, record_property: Callable[[str, object], None]
) -> None:
    job = replace(job, cluster=replace(job.cluster, workers=2))
    impatient = replace(job, tracking=replace(job.tracking, patience=1))
    watcher = when_a_checkpoint_is_there(job, lambda: server.end(signal.SIGKILL))
    with pytest.raises(UnreachableError, match=r"no MLflow server.*start the same job again"):
        train.run(impatient, fresh=False)
    watcher.join()
    server.start()
    server.wait()
    train.run(job, fresh=False)
    require_whole(job)
    record_property("fault", "MLflow server SIGKILLed in a run on two Ray workers and never back")
    record_property(
        "outcome",
        f"one message; the same job started again logged what was missing ({EPOCHS} of {EPOCHS} epochs, each once)",
    )


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_on_ray_too_a_server_that_comes_back_loses_nothing(
    job: spec.TrainJob, server: MlflowServer, record_property: Callable[[str, object], None]
) -> None:
    job = replace(job, cluster=replace(job.cluster, workers=2))
    begun: list[float] = []

    def kill() -> None:
        server.end(signal.SIGKILL)
        begun.append(time.monotonic())
        later(4, server.start)

    watcher = when_a_checkpoint_is_there(job, kill)
    train.run(job, fresh=False)
    watcher.join()
    require_whole(job)
    record_property("fault", "MLflow server SIGKILLed in a run on two Ray workers, started again 4 s later")
    record_property(
        "outcome",
        f"{EPOCHS} of {EPOCHS} epochs, each point once, all pictures; FINISHED and registered "
        f"{time.monotonic() - begun[0]:.0f} s after the kill",
    )


class _Forgetful(BaseHTTPRequestHandler):
    """Passes requests on to a server, and loses the answers of some."""

    target = ""
    lost = 0

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        answer = requests.request(
            self.command, self.target + self.path, data=body, headers=dict(self.headers), timeout=30
        )
        if self.command == "POST" and self.path.endswith(("log-batch", "runs/create")) and self.lost < 4:
            type(self).lost += 1
            if self.lost % 2:  # the server did what was asked, and nobody hears of it
                self.close_connection = True
                return
        self.send_response(answer.status_code)
        self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    do_GET = do_PUT = do_POST  # noqa: N815

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def forgetful(server: MlflowServer) -> Iterator[tuple[str, type[_Forgetful]]]:
    """The address of the server behind a proxy that loses answers."""
    handler = type("Handler", (_Forgetful,), {"target": server.url})
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{proxy.server_port}", handler
    proxy.shutdown()
    proxy.server_close()


def test_what_was_done_without_an_answer_is_not_done_twice(
    forgetful: tuple[str, type[_Forgetful]],
) -> None:
    url, handler = forgetful
    config = TrackingConfig(uri=url, experiment="forgetful", patience=60)
    parent = Tracker.attach(prepare(config), "unknown")
    with pytest.raises(TrackingError, match="unknown"):
        parent.flush()
    facts: dict[str, Any] = {"params": {"a": 1}, "tags": {}, "job_yaml": "kind: train\n"}
    with parent.child(config, "child", "forgetful/1", **facts) as child:
        for step in (1, 2, 3):
            child.log_epoch(step, {"loss": step / 4, "never": float("nan")})
    assert handler.lost == 4
    client = open_client(url)
    (run,) = client.search_runs([client.get_experiment_by_name("forgetful").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params == {"a": "1"}
    for key in ("loss", "never"):
        history = client.get_metric_history(run.info.run_id, key)
        assert [point.step for point in history] == [1, 2, 3]


def test_a_locked_database_is_waited_for(tmp_path: Path) -> None:
    import sqlite3

    config = TrackingConfig(uri=str(tmp_path / "mlflow.db"), patience=60)
    facts: dict[str, Any] = {"params": {}, "tags": {}, "job_yaml": ""}
    with Tracker.of_attempt(prepare(config), config, "locked", "a", **facts) as tracker:
        other = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None, check_same_thread=False)
        other.execute("BEGIN EXCLUSIVE")
        tracker.log_epoch(1, {"loss": 0.5})
        with pytest.raises(UnreachableError, match=r"does not answer|locked"):
            tracker.flush(0.5)
        other.execute("COMMIT")
        tracker.flush()
    client = open_client(tracker.uri)
    assert [point.step for point in client.get_metric_history(tracker.run_id, "loss")] == [1]
    assert client.get_run(tracker.run_id).info.status == "FINISHED"
