"""Where a job computes: a Ray cluster that is already there, one started for the job, or this process alone.

Access. Ray 2.60 gives a cluster that it starts inside a program an access token, and would keep it in
``~/.ray/auth_token`` for ever after: the next ``ray start`` then asks for it, while ``ray job submit``
does not send it and is refused (401). So a cluster started here gets a token of its own, which lives in this
process and its children only. When a token was set up on purpose (``ray get-auth-token --generate``, or
``RAY_AUTH_TOKEN``), it is used for every cluster. An explicit ``RAY_AUTH_MODE`` is never changed.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import rsrnet
import rsrnet_platform
from rsrnet.config import require
from rsrnet_platform.errors import UserError

_SETTINGS = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Reports of a training reach the driver no faster than this; Ray's 2 s would slow short epochs down.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
}
"""Environment of Ray, unless the user set it."""

_INIT = {"logging_level": "WARNING", "log_to_driver": False}
"""What Ray and its workers print stays in Ray's log folder; failures are raised."""


@dataclass(frozen=True)
class PoolConfig:
    """How many workers a job has that are independent of each other, what each holds, and where they run."""

    workers: int | None = None
    """Worker processes; 0: this process, without Ray; null: one for each GPU, or as many as the CPUs bear, and this
    process where that is one."""

    cpus_per_worker: int = 1
    """CPU cores that each worker holds."""

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """What workers compute on; `gpu` is one GPU each, `auto` is `gpu` where the cluster has any."""

    address: str | None = None
    """Ray cluster, `host:port`; `local`: start one; null: $RAY_ADDRESS, or the running one, or start one."""

    max_failures: int = 3
    """Restarts from the newest checkpoint before a failing job is given up; -1: without end."""

    def __post_init__(self) -> None:
        require(
            self,
            workers=(self.workers is None or self.workers >= 0, "a whole number, at least 0, or null"),
            cpus_per_worker=(self.cpus_per_worker >= 1, "a whole number, at least 1"),
            accelerator=(self.accelerator in ("auto", "cpu", "gpu"), "auto, cpu or gpu"),
            address=(
                self.address in (None, "local") or _host_and_port(str(self.address)) is not None,
                "host:port, local or null (a job goes to ray:// and http:// addresses with `ray job submit`)",
            ),
            max_failures=(self.max_failures >= -1, "a whole number, at least -1"),
        )


@dataclass(frozen=True)
class ClusterConfig(PoolConfig):
    """How many workers a job has, what each holds, and where they run."""

    workers: int = 1
    """Worker processes; 0 computes in this process, without Ray."""


@dataclass(frozen=True)
class TrainClusterConfig(ClusterConfig):
    """How many workers a training has, what each holds, where they run, and how it ends early."""

    grace: float = 10
    """Seconds that a training has to write a checkpoint after SIGTERM or Ctrl-C, before the job ends."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, grace=(self.grace >= 0, "a number of seconds, at least 0"))


@dataclass(frozen=True)
class Node:
    """What one machine of a cluster has in all."""

    cpus: int
    gpus: int


@dataclass(frozen=True)
class Cluster:
    """A place to compute, and what each worker of the job holds there."""

    address: str | None
    """`host:port` of the cluster; None in this process alone."""

    started: bool
    """Whether it was started for this job and ends with it."""

    nodes: tuple[Node, ...]
    workers: int
    cpus_per_worker: int
    use_gpu: bool

    @property
    def room(self) -> int:
        """How many such workers fit at once."""
        return _room(self.nodes, self.cpus_per_worker, self.use_gpu)

    @property
    def pool_room(self) -> int:
        """How many fit so that one CPU stays free for what brings them their work."""
        return _pool_room(self.nodes, self.cpus_per_worker, self.use_gpu)

    @property
    def resources_per_worker(self) -> dict[str, float]:
        """What Ray is asked for, for each worker."""
        return {"CPU": float(self.cpus_per_worker)} | ({"GPU": 1.0} if self.use_gpu else {})

    def __str__(self) -> str:
        if self.address is None:
            return f"this process, on {'a GPU' if self.use_gpu else 'CPU'}"
        kind = "a Ray cluster started for this job" if self.started else f"the Ray cluster at {self.address}"
        gpu = " and a GPU" if self.use_gpu else ""
        return (
            f"{_count(self.workers, 'worker')} with {_count(self.cpus_per_worker, 'CPU')}{gpu} each, "
            f"on {kind} ({_capacity(self.nodes)})"
        )


@contextmanager
def connect(config: PoolConfig, *, dashboard: bool = False) -> Iterator[Cluster]:
    """Attach to a cluster, or start one, for as long as the context lasts.

    A Ray connection that this process already has is used and left as it is.

    Args:
        config: what the job asks for.
        dashboard: whether a cluster that is started here needs Ray's dashboard: Ray Train asks it whether the
            controller of a group of workers still lives, and if not, frees what they hold.

    Yields:
        The cluster; it has the room that the job asks for.

    Raises:
        UserError: if the cluster cannot be reached, refuses this user, or has less than the job asks for.
    """
    if config.workers == 0:
        yield _this_process(config)
        return
    settle_environment()
    import ray

    if ray.is_initialized():
        yield _cluster(ray, config, started=False)
        return
    address = _find(config)
    if address is None and (here := _here(config)).address is None:
        yield here
        return
    try:
        _attach(ray, address) if address else _start(ray, dashboard)
        yield _cluster(ray, config, started=address is None)
    finally:
        ray.shutdown()


def foresee(config: PoolConfig) -> Cluster:
    """Where a job would compute; :func:`connect` without starting anything.

    Raises:
        UserError: as :func:`connect`.
    """
    settle_environment()
    if config.workers == 0 or _find(config) is not None:
        with connect(config) as cluster:
            return cluster
    return _here(config)


def settle_environment() -> None:
    """Set what Ray reads from the environment, unless the user did; before anything imports it."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    if "RAY_AUTH_MODE" not in os.environ and _has_token():
        os.environ["RAY_AUTH_MODE"] = "token"


def _has_token() -> bool:
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return True
    return (Path.home() / ".ray" / "auth_token").is_file()


def _find(config: PoolConfig) -> str | None:
    """The address to attach to; None: start a cluster."""
    if config.address == "local":
        return None
    for address, source in (
        (config.address, "cluster.address"),
        (os.environ.get("RAY_ADDRESS"), "$RAY_ADDRESS"),
    ):
        if address and address not in ("auto", "local"):
            if not _answers(address):
                raise UserError(
                    f"No Ray cluster answers at {address} ({source}).\n  Name one that runs as host:port, "
                    "or unset it to start one here."
                )
            return address
    if os.environ.get("RAY_ADDRESS") == "local":
        return None
    from ray._private.utils import read_ray_address

    running = read_ray_address()
    # The file outlives a cluster that was killed.
    return running if running and _answers(running) else None


def _answers(address: str) -> bool:
    target = _host_and_port(address)
    if target is None:
        raise UserError(
            f"{address} is not the address of a Ray cluster as host:port.\n"
            "  To send a job through the job API, use `ray job submit`."
        )
    try:
        with socket.create_connection(target, timeout=5):
            return True
    except OSError:
        return False


def _host_and_port(address: str) -> tuple[str, int] | None:
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not (port.isascii() and port.isdigit()):
        return None
    return host.strip("[]"), int(port)


def _attach(ray: Any, address: str) -> None:
    """Attach, and send this code along: the cluster may have none, or another version of it."""
    code = [str(folder) for folder in _code()]
    try:
        ray.init(address=address, **_INIT, runtime_env={"py_modules": code})
    except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
        raise UserError(
            f"The Ray cluster at {address} does not let this program in: {error}.\n"
            "  If it asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH."
        ) from error


def _start(ray: Any, dashboard: bool) -> None:
    if not _has_token():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    paths = [str(folder.parent) for folder in _code()] + os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(filter(None, paths)))
    # Ray's warning that it asks for a token now is about what we have just arranged.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    ray.init(address="local", **_INIT, include_dashboard=dashboard)


def _code() -> list[Path]:
    """The folders of the packages that workers import."""
    return [Path(file).resolve().parent for file in (rsrnet.__file__, rsrnet_platform.__file__)]


def _here(config: PoolConfig) -> Cluster:
    """A cluster as it would be started on this machine; or this process, where any number of workers will do."""
    import torch
    from ray._private.utils import get_num_cpus

    nodes = (Node(int(get_num_cpus()), torch.cuda.device_count()),)
    use_gpu = check_resources(config, nodes, "this machine")
    workers = _workers(config, nodes, use_gpu)
    if config.workers is None and workers <= 1 and not use_gpu:
        return _this_process(config)
    return Cluster("local", True, nodes, workers, config.cpus_per_worker, use_gpu)


def _this_process(config: PoolConfig) -> Cluster:
    import torch

    gpus = torch.cuda.device_count()
    nodes = (Node(cpus=os.cpu_count() or 1, gpus=gpus),)
    return Cluster(None, False, nodes, 0, config.cpus_per_worker, _use_gpu(config, nodes, "this machine"))


def _cluster(ray: Any, config: PoolConfig, *, started: bool) -> Cluster:
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = tuple(Node(int(each.get("CPU", 0)), int(each.get("GPU", 0))) for each in resources)
    address = ray.get_runtime_context().gcs_address
    where = "this machine" if started else f"the Ray cluster at {address}"
    use_gpu = check_resources(config, nodes, where)
    workers = _workers(config, nodes, use_gpu)
    return Cluster(address, started, nodes, workers, config.cpus_per_worker, use_gpu)


def _workers(config: PoolConfig, nodes: tuple[Node, ...], use_gpu: bool) -> int:
    if config.workers is not None:
        return config.workers
    return _pool_room(nodes, config.cpus_per_worker, use_gpu)


def check_resources(config: PoolConfig, nodes: tuple[Node, ...], where: str) -> bool:
    """Check that all workers of a job fit at once: Ray would wait for the missing room without a word.

    Args:
        config: what the job asks for.
        nodes: what there is.
        where: the place, in words.

    Returns:
        Whether workers hold a GPU each.

    Raises:
        UserError: if they do not fit; it says what there is and what would fit.
    """
    use_gpu = _use_gpu(config, nodes, where)
    room = _room(nodes, config.cpus_per_worker, use_gpu)
    if config.workers is not None and config.workers > room:
        asked = _count(config.cpus_per_worker, "CPU") + (" and a GPU" if use_gpu else "")
        remedies = [f"Set cluster.workers to {room}" if room else "Ask for less"]
        if use_gpu:
            remedies.append("set cluster.accelerator to cpu")
        remedies.append("use a larger cluster (cluster.address)")
        raise UserError(
            f"The job asks for {_count(config.workers, 'worker')} with {asked} each, but {where} has "
            f"{_capacity(nodes)}: room for {room}.\n  {', or '.join(remedies)}."
        )
    return use_gpu


def _room(nodes: tuple[Node, ...], cpus: int, use_gpu: bool) -> int:
    """How many workers with so many CPUs, and a GPU if they use any, fit at once."""
    return sum(min(node.cpus // cpus, node.gpus if use_gpu else node.cpus) for node in nodes)


def _pool_room(nodes: tuple[Node, ...], cpus: int, use_gpu: bool) -> int:
    """How many fit so that one CPU stays free for what brings them their work."""
    return min(_room(nodes, cpus, use_gpu), (sum(node.cpus for node in nodes) - 1) // cpus)


def _use_gpu(config: PoolConfig, nodes: tuple[Node, ...], where: str) -> bool:
    available = any(node.gpus for node in nodes)
    if config.accelerator == "gpu" and not available:
        raise UserError(
            f"The job asks for GPUs (cluster.accelerator: gpu), but {where} has none.\n"
            "  Set cluster.accelerator to auto or cpu, or use a cluster with GPUs (cluster.address)."
        )
    return available and config.accelerator != "cpu"


def _capacity(nodes: tuple[Node, ...]) -> str:
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    total = f"{_count(cpus, 'CPU')} and {_count(gpus, 'GPU')}"
    return total if len(nodes) == 1 else f"{total} on {len(nodes)} machines"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
