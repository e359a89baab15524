"""Hosts of a cluster that are lost in mid-epoch: by power, by network, and the head with all that ran on it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rsrnet_platform import spec
from tests.faults.processes import finish, require_same_history, told, wait_for
from tests.hosts import Host
from tests.platform.conftest import MakeJob, MlflowServer, the_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.ray,
    pytest.mark.usefixtures("ray_cluster"),
]

EPOCHS = 20
PLAIN = {"fit__epochs": EPOCHS, "cluster__workers": 2}


@dataclass(frozen=True)
class Site:
    """Hosts on which no Ray runs yet, one to send jobs from, and an MLflow server that all of them reach."""

    head: Host
    others: tuple[Host, Host, Host]
    desk: Host
    server: MlflowServer

    def job(self, make_job: MakeJob, name: str, **overrides: object) -> spec.TrainJob:
        """A training, for the tests to look at: they do not reach the server, but its file."""
        return make_job(**_settings(name, **overrides), tracking__uri=self.server.folder / "mlflow.db")

    def submit(self, job_file: Path, head: Host, name: str, **overrides: object) -> Any:
        """Send the same training to a cluster."""
        settings = _settings(name, **overrides)
        return self.desk.submit(job_file, head, **settings, tracking__uri=self.server.url)


def _settings(name: str, **overrides: object) -> dict[str, object]:
    named = {"name": name, "tracking__experiment": name, "tracking__model": "null"}
    return named | PLAIN | overrides


@pytest.fixture(scope="module")
def hosts_and_server(make_hosts: Any, tmp_path_factory: pytest.TempPathFactory) -> Site:
    head, *others, desk, store = make_hosts("head", "a", "b", "c", "desk", "store")
    server = MlflowServer(tmp_path_factory.mktemp("server"), host=store)
    server.wait()
    return Site(head, tuple(others), desk, server)


@pytest.fixture
def site(hosts_and_server: Site) -> Iterator[Site]:
    yield hosts_and_server
    for host in (hosts_and_server.desk, hosts_and_server.head, *hosts_and_server.others):
        host.kill()
        host.plug_in()


def wait_for_epoch(number: int, job: spec.TrainJob, process: Any) -> None:
    """Wait until an epoch is being trained, and the one before has its checkpoint."""
    wait_for(lambda: any(f"epoch {number - 1}/{EPOCHS} done" in text for text in told(job)), process)
    time.sleep(0.2)


def with_worker(hosts: tuple[Host, ...]) -> list[Host]:
    return [host for host in hosts if any("RayTrainWorker" in name for name in host.training())]


def require_no_training(hosts: tuple[Host, ...], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while left := [(host.name, host.training()) for host in hosts if host.training()]:
        assert time.monotonic() < deadline, left
        time.sleep(0.5)


def until_no_training(host: Host) -> float:
    """How many seconds from now the last worker on a host ends."""
    begin = time.monotonic()
    while host.training():
        time.sleep(0.5)
    return time.monotonic() - begin


def gone_on(job: spec.TrainJob) -> int:
    """After which epoch the training went on, the only time that it did."""
    (place,) = (text for text in told(job) if text.startswith("Going on after epoch "))
    return int(place.split()[4])


def test_host_without_power_is_replaced_by_a_spare_one(
    site: Site, make_job: MakeJob, train_file: Path, undisturbed: Any, record_property: Any
) -> None:
    site.head.start_ray(cpus=0)
    for host in site.others:
        host.start_ray(head=site.head)
    placed = {"cluster__placement": "strict_spread"}
    job = site.job(make_job, "power", **placed)
    process = site.submit(train_file, site.head, "power", **placed)
    wait_for_epoch(3, job, process)
    used = with_worker(site.others)
    assert len(used) == 2
    (spare,) = (host for host in site.others if host not in used)
    used[0].kill()
    lost = time.monotonic()
    wait_for(lambda: any(text.startswith("Going on") for text in told(job)), process)
    seconds = time.monotonic() - lost
    assert with_worker((spare,)) == [spare]
    text = finish(process)
    assert process.returncode == 0, text
    require_no_training((site.head, *site.others))
    require_same_history(job, undisturbed(**PLAIN), EPOCHS)
    record_property("fault", "host SIGKILLed as a whole, in mid-epoch, two workers on two of three hosts")
    record_property(
        "outcome",
        f"workers on the spare host go on after epoch {gone_on(job)} {seconds:.0f} s later; {EPOCHS} of {EPOCHS} "
        "epochs, bitwise the metrics of an undisturbed run",
    )


def test_training_of_a_range_goes_on_without_a_host_that_is_cut_off(
    site: Site, make_job: MakeJob, train_file: Path, undisturbed: Any, history: Any, record_property: Any
) -> None:
    first, second, _ = site.others
    site.head.start_ray(cpus=0)
    for host in (first, second):
        host.start_ray(head=site.head)
    elastic = {"cluster__workers": "{min: 1, max: 2}"}
    job = site.job(make_job, "cut", **elastic)
    process = site.submit(train_file, site.head, "cut", **elastic)
    wait_for_epoch(3, job, process)
    assert with_worker((first, second)) == [first, second]
    second.cut()
    lost = time.monotonic()
    wait_for(lambda: "Training with 1 worker now." in told(job), process)
    seconds = time.monotonic() - lost
    text = finish(process)
    assert process.returncode == 0, text
    require_no_training((site.head, first, second), 180)
    whole, before = undisturbed(**PLAIN), gone_on(job)
    assert the_run(job).info.status == "FINISHED"
    # Batch statistics are each worker's own, so the losses of one worker are others; what a step is stays.
    assert history(job, "train/lr") == history(whole, "train/lr")
    losses = history(job, "train/loss")
    assert [epoch for epoch, _ in losses] == list(range(1, EPOCHS + 1))
    assert losses[:before] == history(whole, "train/loss")[:before]
    record_property("fault", "host cut off from the network in mid-epoch, training of 1 to 2 workers")
    record_property(
        "outcome",
        f"the other worker goes on alone after epoch {before}, {seconds:.0f} s later (Ray's limit for a silent host); "
        f"{EPOCHS} of {EPOCHS} epochs, same losses up to there; the host that was cut off ends its worker itself",
    )


def test_job_of_a_lost_head_goes_on_on_another_cluster(
    site: Site, make_job: MakeJob, train_file: Path, undisturbed: Any, record_property: Any
) -> None:
    worker, other_head, other_worker = site.others
    for head, host in ((site.head, worker), (other_head, other_worker)):
        head.start_ray(cpus=0)
        host.start_ray(head=head, cpus=2)
    job = site.job(make_job, "head")
    first = site.submit(train_file, site.head, "head")
    wait_for_epoch(3, job, first)
    assert with_worker((worker,)) == [worker], finish(first)
    site.head.kill()
    orphans = Future[float]()
    threading.Thread(target=lambda: orphans.set_result(until_no_training(worker)), daemon=True).start()
    run = the_run(job)
    assert run.info.status == "RUNNING"
    second = site.submit(train_file, other_head, "head")
    text = finish(second)
    assert second.returncode == 0, text
    assert the_run(job).info.run_id == run.info.run_id
    seconds = orphans.result(180)
    require_no_training((other_head, other_worker))
    require_same_history(job, undisturbed(**PLAIN), EPOCHS)
    record_property(
        "fault", "head SIGKILLed with the cluster's books and the job; the same job on another cluster"
    )
    record_property(
        "outcome",
        f"goes on after epoch {gone_on(job)} in the same MLflow run; {EPOCHS} of {EPOCHS} epochs, bitwise the metrics "
        f"of an undisturbed run; the first cluster's workers end by themselves after {seconds:.0f} s",
    )
