"""Jobs sent to a cluster of several hosts, each with an address of its own, which asks for a token."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from rsrnet_platform.process_group import card_of, choose_card
from tests.faults.processes import finish, require_same_history
from tests.hosts import Host, hosts, why_not
from tests.platform.conftest import MakeJob, MlflowServer, client_of

pytestmark = pytest.mark.timeout(1200)  # the slow ones wait for several trainings

EPOCHS = 4


def test_card_of_an_address_is_the_one_that_has_it() -> None:
    for name, addresses in psutil.net_if_addrs().items():
        for each in addresses:
            assert card_of(each.address) is not None
            if each.address == "127.0.0.1":
                assert card_of(each.address) == name
    assert card_of("192.0.2.1") is None, "an address that nobody has"


def test_card_that_the_user_chose_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "mine")
    choose_card()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "mine"


def test_hosts_talk_to_each_other_and_leave_nothing_behind() -> None:
    """Also when a test fails."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    listen = "import socket; print(socket.create_server(('10.77.0.1', 5000)).accept()[1][0])"
    call = "import socket; socket.create_connection(('10.77.0.1', 5000))"
    with suppress(ZeroDivisionError), hosts("a", "b") as (first, second):
        listener = first.start(sys.executable, "-c", listen)
        while second.start(sys.executable, "-c", call).wait(30):
            assert listener.poll() is None
        assert finish(listener, 30) == second.address
        left = first.start("sleep", "600")
        raise ZeroDivisionError
    assert left.poll() is not None
    assert not first.folder.parent.exists()
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert first.folder.parent.name not in listed


@dataclass(frozen=True)
class Site:
    """A cluster of a head that computes nothing and two hosts, a host with MLflow, and one to send jobs from."""

    head: Host
    workers: tuple[Host, Host]
    desk: Host
    server: MlflowServer
    own_disk: Path
    """A folder in whose place the second host has a disk of its own."""


@pytest.fixture(scope="module")
def site(make_hosts: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    head, first, second, desk, store = make_hosts("head", "first", "second", "desk", "store")
    second.own_disk = tmp_path_factory.mktemp("disk")
    server = MlflowServer(tmp_path_factory.mktemp("server"), host=store)
    head.start_ray(cpus=0)
    for host in (first, second):
        host.start_ray(head=head, cpus=2)
    server.wait()
    return Site(head, (first, second), desk, server, second.own_disk)


@pytest.mark.slow
def test_training_over_two_hosts_is_that_of_one(site: Site, make_job: MakeJob, train_file: Path) -> None:
    jobs = {}
    for placement in ("strict_spread", "strict_pack"):
        named = {"name": placement, "tracking__experiment": placement, "tracking__model": "null"}
        settings = named | {"fit__epochs": EPOCHS, "cluster__workers": 2, "cluster__placement": placement}
        # The tests' own host does not reach the server, but its file.
        jobs[placement] = make_job(**settings, tracking__uri=site.server.folder / "mlflow.db")
        process = site.desk.submit(train_file, site.head, **settings, tracking__uri=site.server.url)
        seen: set[tuple[int, ...]] = set()
        while process.poll() is None:
            seen.add(tuple(sorted(_workers(host) for host in site.workers)))
            time.sleep(1)
        text = finish(process)
        assert process.returncode == 0, text
        assert f"Training {placement} with 2 workers" in text
        assert seen & {(1, 1), (0, 2)} == {(1, 1) if placement == "strict_spread" else (0, 2)}
    require_same_history(jobs["strict_spread"], jobs["strict_pack"], EPOCHS)


def _workers(host: Host) -> int:
    return sum("RayTrainWorker" in name for name in host.training())


@pytest.mark.slow
def test_folder_that_one_host_does_not_see_is_refused_before_anything_starts(
    site: Site, make_job: MakeJob, train_file: Path
) -> None:
    settings = {"storage": f"{site.own_disk}/runs", "tracking__experiment": "refused", "cluster__workers": 2}
    process = site.desk.submit(train_file, site.head, **settings, tracking__uri=site.server.url)
    text = finish(process)
    assert process.returncode == 1, text
    assert f"storage = {site.own_disk}/runs: not every machine of the Ray cluster at" in text
    assert f"{site.workers[1].address} does not see what this machine writes there" in text
    assert site.workers[0].address not in text
    assert "Traceback" not in text
    assert list(site.own_disk.iterdir()) == []
    job = make_job(tracking__uri=site.server.folder / "mlflow.db")
    assert client_of(job).get_experiment_by_name("refused") is None
