from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rsrnet.config import ConfigError
from rsrnet_platform import cluster
from rsrnet_platform.cluster import ClusterConfig, Node, PoolConfig, check_resources, connect, foresee
from rsrnet_platform.errors import UserError
from tests.clusters import cluster_with_token, environment_of

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("config", "nodes", "use_gpu"),
    [
        (ClusterConfig(workers=2), [Node(2, 0)], False),
        (ClusterConfig(workers=2), [Node(8, 2)], True),
        (ClusterConfig(workers=8, accelerator="cpu"), [Node(8, 2)], False),
        (ClusterConfig(workers=4, cpus_per_worker=2), [Node(4, 0), Node(4, 0)], False),
    ],
)
def test_job_that_fits(config: ClusterConfig, nodes: list[Node], use_gpu: bool) -> None:
    assert check_resources(config, tuple(nodes), "here").use_gpu is use_gpu


@pytest.mark.parametrize(
    ("config", "nodes", "message"),
    [
        (ClusterConfig(workers=3), [Node(2, 0)], "here has 2 CPUs and 0 GPUs: room for 2"),
        (ClusterConfig(workers=3), [Node(64, 2)], "2 GPUs: room for 2"),
        (ClusterConfig(cpus_per_worker=3), [Node(2, 0), Node(2, 0)], "on 2 machines: room for 0"),
        (ClusterConfig(workers=3, cpus_per_worker=2), [Node(3, 0), Node(3, 0)], "room for 2"),
        (ClusterConfig(accelerator="gpu"), [Node(2, 0)], "here has none"),
    ],
)
def test_job_that_does_not_fit_hears_what_there_is(
    config: ClusterConfig, nodes: list[Node], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check_resources(config, tuple(nodes), "here")


@pytest.fixture(autouse=True)
def _unconnected() -> None:
    """A connection that another test made would be used, whatever the configuration says."""
    import ray

    ray.shutdown()


@pytest.mark.parametrize("address", ["ray://head:10001", "http://head:8265", "head", "head:", ":6379"])
def test_address_of_another_kind_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="host:port"):
        ClusterConfig(address=address)


@pytest.mark.parametrize("address", ["head..local:6379", ".head:6379"])
def test_address_that_is_no_name_is_refused(address: str) -> None:
    with pytest.raises(UserError, match="No Ray cluster answers at"), connect(ClusterConfig(address=address)):
        pass


def test_address_where_nothing_answers_is_refused_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        begin = time.monotonic()
        with (
            pytest.raises(UserError, match=f"No Ray cluster answers at {address}"),
            connect(ClusterConfig(address=address)),
        ):
            pass
    assert time.monotonic() - begin < 20


def test_address_of_the_job_api_in_the_environment_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    with pytest.raises(UserError, match="rsrnet submit"), connect(ClusterConfig()):
        pass


def test_no_workers_means_this_process_without_ray() -> None:
    code = (
        "import sys; from rsrnet_platform.cluster import *\n"
        "with connect(ClusterConfig(workers=0)) as place: print(place.address, 'ray' in sys.modules)"
    )
    assert _python(code, os.environ).stdout.split() == ["None", "False"]


@pytest.mark.parametrize(("cpus", "workers", "address"), [(1, 0, None), (2, 0, None), (4, 3, "local")])
def test_without_a_cluster_one_worker_is_this_process(
    cpus: int, workers: int, address: str | None, monkeypatch: pytest.MonkeyPatch, tmp_home: Path
) -> None:
    """With two processors one would be left for a worker: starting Ray for it would only cost time."""
    monkeypatch.setattr("ray._private.utils.get_num_cpus", lambda: cpus)
    monkeypatch.setattr("ray._private.utils.read_ray_address", lambda: None)
    place = foresee(PoolConfig(accelerator="cpu"))
    assert (place.workers, place.address) == (workers, address)
    if address is None:
        with connect(PoolConfig(accelerator="cpu")) as there:
            assert there == place


def test_settings_of_the_user_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "7")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    cluster.settle_environment()
    assert os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] == "7"
    assert os.environ["RAY_AUTH_MODE"] == "disabled"


def test_token_that_is_there_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")  # so that what follows is undone
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    cluster.settle_environment()
    assert "RAY_AUTH_MODE" not in os.environ
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("secret")
    cluster.settle_environment()
    assert os.environ["RAY_AUTH_MODE"] == "token"


def _python(code: str, environment: dict[str, str] | os._Environ[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env=dict(environment), capture_output=True, text=True, check=True
    )


def test_cluster_started_here_asks_for_a_token_and_cannot_be_reached_from_outside(tmp_path: Path) -> None:
    code = (
        "import os, psutil; from rsrnet_platform.cluster import *\n"
        "with connect(ClusterConfig(address='local', accelerator='cpu'), dashboard=True) as place:\n"
        "    import ray\n"
        "    mode = ray.remote(lambda: os.environ['RAY_AUTH_MODE'])\n"
        "    print(place.started, ray.get(mode.remote()))\n"
        "    me = psutil.Process()\n"
        "    ours = {me.pid, *(each.pid for each in me.children(recursive=True))}\n"
        "    found = [each for each in psutil.net_connections('inet') if each.pid in ours]\n"
        "    print(*{each.laddr.ip for each in found if each.status == 'LISTEN'})\n"
        "print('RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER' in os.environ)\n"
    )
    done = _python(code, environment_of(tmp_path))
    started, addresses, left = done.stdout.splitlines()
    assert started == "True token"
    assert set(addresses.split()) == {"127.0.0.1", "::ffff:127.0.0.1"}
    assert left == "False"
    assert done.stderr == ""
    assert not (tmp_path / ".ray").exists()


# What runs in place of a training: where a worker finds our code.
PROBE = """
from rsrnet_platform.cluster import connect

def run(job, *, fresh):
    with connect(job.cluster):
        import ray

        @ray.remote
        def where():
            import rsrnet, rsrnet_platform
            return rsrnet.__file__, rsrnet_platform.__file__

        print("FOUND", *ray.get(where.remote()), flush=True)
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code whose training only tells where workers find it."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("rsrnet", "platform", "jobs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "platform/rsrnet_platform/train.py").write_text(PROBE)
    return folder


@pytest.fixture(scope="module")
def environment(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A Ray cluster with a token, started in the checkout: the environment of its users."""
    environment = environment_of(tmp_path_factory.mktemp("home")) | {"RAY_AUTH_MODE": "token"}
    with cluster_with_token(environment, "--node-ip-address=127.0.0.1", cwd=checkout) as users:
        yield users


SUBMIT = ("ray", "job", "submit", "--address", "$API")
JOB = ("jobs/quickstart.yaml", "--set", "cluster.accelerator=cpu")
WAYS = {
    "as a program": ("env", "RAY_ADDRESS=$GCS", *JOB),
    "rsrnet run": (sys.executable, "-m", "rsrnet_platform", *JOB, "--set", "cluster.address=$GCS"),
    "job in the checkout": (*SUBMIT, "--", *JOB),
    "job with its code": (*SUBMIT, "--working-dir", ".", "--", *JOB),
}


@pytest.mark.parametrize("way", WAYS)
def test_workers_find_this_code_however_the_job_is_run(
    way: str, checkout: Path, environment: dict[str, str]
) -> None:
    command = [
        word.replace("$API", environment["API"]).replace("$GCS", environment["GCS"]) for word in WAYS[way]
    ]
    done = subprocess.run(
        command, env=environment | {"PYTHONPATH": "platform"}, cwd=checkout, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("FOUND")]
    assert all(str(ROOT) not in file for file in found), "an installed copy was used instead of the checkout"


def test_job_too_large_for_the_cluster_fails_with_what_it_has(
    checkout: Path, environment: dict[str, str]
) -> None:
    command = ["jobs/quickstart.yaml", "--set", "cluster.workers=5", "--set", "cluster.accelerator=cpu"]
    done = subprocess.run(
        command,
        env=environment | {"RAY_ADDRESS": environment["GCS"]},
        cwd=checkout,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "has 2 CPUs and 0 GPUs: room for 2" in done.stderr


def test_program_without_the_token_is_not_let_in(
    checkout: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    stranger = environment_of(tmp_path) | {"RAY_ADDRESS": environment["GCS"]}
    done = subprocess.run(JOB, env=stranger, cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 2
    assert "does not let this program in" in done.stderr
    assert "FOUND" not in done.stdout
