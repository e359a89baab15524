"""The way to a Ray cluster that is already there, to one started for the job, or to none: this process alone.

Access. Ray 2.60 gives a cluster that it starts inside a program an access token, and would keep it in
``~/.ray/auth_token`` for ever after: the next ``ray start`` then asks for it, while ``ray job submit``
does not send it and is refused (401). So a cluster started here gets a token of its own, which lives in this
process and its children only, and listens on the loopback interface only. When a token was set up on purpose
(``ray get-auth-token --generate``, or ``RAY_AUTH_TOKEN``), it is used for every cluster. An explicit
``RAY_AUTH_MODE`` is never changed.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import rsrnet
import rsrnet_platform
from rsrnet_platform.cluster.config import WorkersConfig, host_and_port
from rsrnet_platform.cluster.place import Cluster, Node, Share, find_room, needs_gpu
from rsrnet_platform.cluster.waiting import wait_for_room
from rsrnet_platform.errors import UserError

_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Reports of a training reach the driver no faster than this; Ray's 2 s would slow short epochs down.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # A group that was to start on a node that is gone waits so long before another one is tried; Ray: 60 s.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15",
}
"""Environment of Ray, unless the user set it."""

_INIT = {"logging_level": "WARNING", "log_to_driver": False}
"""What Ray and its workers print stays in Ray's log folder; failures are raised."""


@contextmanager
def connect(config: WorkersConfig, *, dashboard: bool = False) -> Iterator[Cluster]:
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
        yield this_process(config)
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
        with _keeping_the_answer_to_sigterm():
            _attach(ray, address) if address else _start(ray, dashboard)
        yield _cluster(ray, config, started=address is None)
    finally:
        ray.shutdown()


@contextmanager
def _keeping_the_answer_to_sigterm() -> Iterator[None]:
    """Ray's own answer would end this program with the exit code 15, which is none of a signal's."""
    before = signal.getsignal(signal.SIGTERM)
    # Outside the main thread, as in the doctor, Ray would warn that it cannot set that answer.
    log = logging.getLogger("ray._private.worker")
    level = log.level
    if threading.current_thread() is not threading.main_thread():
        log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
        # Without one Ray's is better, and outside the main thread Ray leaves it alone.
        if callable(before) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def foresee(config: WorkersConfig) -> Cluster:
    """Where a job would compute; :func:`connect` without starting anything or waiting for anything.

    Raises:
        UserError: as :func:`connect`.
    """
    settle_environment()
    if config.workers == 0 or _find(config) is not None:
        with connect(replace(config, patience=0)) as cluster:
            return cluster
    return _here(config)


def settle_environment() -> None:
    """Set what Ray reads from the environment, unless the user did; before anything imports it."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    if "RAY_AUTH_MODE" not in os.environ and token_source():
        os.environ["RAY_AUTH_MODE"] = "token"


def token_source() -> str | None:
    """Where Ray takes the access token from; None: there is none."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        if os.environ.get(name):
            return f"${name}"
    return "~/.ray/auth_token" if (Path.home() / ".ray" / "auth_token").is_file() else None


def _find(config: WorkersConfig) -> str | None:
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
    return running_here()


def running_here() -> str | None:
    """The address, ``host:port``, of the cluster that was last started on this machine, if it still answers."""
    from ray._private.utils import read_ray_address

    running = read_ray_address()
    # The file outlives a cluster that was killed.
    return running if running and _answers(running) else None


def _answers(address: str) -> bool:
    target = host_and_port(address)
    if target is None:
        raise UserError(
            f"{address} is not the address of a Ray cluster as host:port.\n"
            "  To send a job through the job API, use `rsrnet submit`."
        )
    try:
        with socket.create_connection(target, timeout=5):
            return True
    except (OSError, UnicodeError):  # the latter for a name that cannot be one
        return False


def _attach(ray: Any, address: str) -> None:
    """Attach, and send this code along: the cluster may have none, or another version of it."""
    code = [str(folder) for folder in code_folders()]
    try:
        ray.init(address=address, **_INIT, runtime_env={"py_modules": code})
    except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
        raise UserError(
            f"The Ray cluster at {address} does not let this program in: {error}.\n"
            "  If it asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH."
        ) from error


def _start(ray: Any, dashboard: bool) -> None:
    if token_source() is None:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    paths = [str(folder.parent) for folder in code_folders()] + os.environ.get("PYTHONPATH", "").split(
        os.pathsep
    )
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(filter(None, paths)))
    # Ray's warning that it asks for a token now is about what we have just arranged.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    with _loopback_only():
        ray.init(address="local", **_INIT, include_dashboard=dashboard)


@contextmanager
def _loopback_only() -> Iterator[None]:
    """Context: a cluster that is started has this machine only, and nobody else can reach it.

    Ray has this mode for macOS and Windows. Otherwise its processes listen on every interface, and one of them, that
    of the metrics, asks for no token.
    """
    from ray._private import ray_constants

    name, known = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", ray_constants.ENABLE_RAY_CLUSTER
    before = os.environ.get(name)
    os.environ[name] = "0"  # for Ray's processes, and what they start
    ray_constants.ENABLE_RAY_CLUSTER = False  # for this one
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = known
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def code_folders() -> list[Path]:
    """The folders of the packages that workers import, `rsrnet` first."""
    return [Path(file).resolve().parent for file in (rsrnet.__file__, rsrnet_platform.__file__)]


def _here(config: WorkersConfig) -> Cluster:
    """A cluster as it would be started on this machine; or this process, where any number of workers will do."""
    from ray._private.utils import get_num_cpus

    nodes = (Node(int(get_num_cpus()), _gpus_for_ray()),)
    place = find_room(config, "local", True, nodes)
    if config.workers is None and place.workers <= 1 and not place.use_gpu:
        return this_process(config)
    return place


def _gpus_for_ray() -> int:
    """How many GPUs a cluster started here would have; PyTorch would have to be imported to say."""
    from ray._private.accelerators import get_accelerator_manager_for_resource

    manager = get_accelerator_manager_for_resource("GPU")
    if manager is None:
        return 0
    found = int(manager.get_current_node_num_accelerators())
    visible = manager.get_current_process_visible_accelerator_ids()
    return found if visible is None else min(found, len(visible))


def this_process(config: WorkersConfig) -> Cluster:
    """This process alone as the place to compute.

    Raises:
        UserError: if the job asks for GPUs, and this machine has none.
    """
    import torch

    nodes = (Node(cpus=os.cpu_count() or 1, gpus=torch.cuda.device_count()),)
    use_gpu = needs_gpu(config, nodes, "this machine")
    return Cluster(None, False, nodes, 0, Share(config.cpus_per_worker, use_gpu))


def _cluster(ray: Any, config: WorkersConfig, *, started: bool) -> Cluster:
    def look() -> tuple[Node, ...]:
        return tuple(_node(each) for each in ray.nodes() if each["Alive"])

    address = ray.get_runtime_context().gcs_address
    nodes = look() if started else wait_for_room(config, look, address)
    return find_room(config, address, started, nodes)


def _node(found: dict[str, Any]) -> Node:
    resources = found["Resources"]
    return Node(int(resources.get("CPU", 0)), int(resources.get("GPU", 0)), resources, found["Labels"])
