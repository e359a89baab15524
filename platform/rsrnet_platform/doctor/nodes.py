"""The Ray cluster: whether it answers and has room for the job, and whether its nodes are alike."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import replace

from rsrnet_platform.cluster import PoolConfig, WorkersConfig, connect, foresee
from rsrnet_platform.doctor import versions
from rsrnet_platform.doctor.finding import Finding
from rsrnet_platform.errors import UserError
from rsrnet_platform.reach import ask_nodes
from rsrnet_platform.terminal import duration


def attached() -> bool:
    """Whether this process is connected to a cluster."""
    return "ray" in sys.modules and sys.modules["ray"].is_initialized()


def find(config: WorkersConfig, connection: ExitStack) -> Iterator[Finding]:
    """Look for the cluster of a job, and stay connected to one that runs.

    Args:
        config: the ``cluster`` section.
        connection: ends the connection when it closes.
    """
    if config.workers == 0:
        yield Finding("Ray", "ok", "not used: cluster.workers is 0, the job computes in this process")
        return
    import ray

    anything = PoolConfig(address=config.address)
    if not attached():
        place = foresee(anything)
        if place.started or place.address is None:
            found = (
                f"{ray.__version__}; no cluster runs, a job starts its own here (not tried: it takes seconds)"
            )
            yield Finding("Ray", "ok", found)
            return
    place = connection.enter_context(connect(anything))
    cpus, gpus = (sum(getattr(node, kind) for node in place.nodes) for kind in ("cpus", "gpus"))
    count = len(place.nodes)
    found = f"{ray.__version__}; cluster at {place.address}: nodes {count}, CPUs {cpus}, GPUs {gpus} in all"
    yield Finding("Ray", "ok", found)


def room(config: WorkersConfig) -> Iterator[Finding]:
    """Whether all workers of the job fit at once; what others use of the cluster now comes free."""
    name, at_once = "room for the job", replace(config, patience=0)
    try:
        with connect(at_once) if attached() else nullcontext(foresee(config)) as place:
            found = Finding(name, "ok", f"computes with {place}")
    except UserError as error:
        if not config.patience:
            raise
        missing = str(error).partition("\n")[0]
        remedy = f"The job waits {duration(config.patience)} for machines that join (cluster.patience)"
        found = Finding(name, "warning", missing, remedy)
    yield found


def alike() -> Iterator[Finding]:
    """Whether every node has the versions that this machine has, and the GPUs that Ray counts."""
    name = "nodes' versions"
    if not attached():
        yield Finding(name, "ok", "not checked: no cluster runs that others could be part of")
        return
    own = versions.here()
    answers = ask_nodes(_facts)
    for node, answer in answers.items():
        if answer.value is None:
            remedy = "Look at the node, and at Ray's logs there; or take it out of the cluster"
            yield Finding(name, "problem", f"{node}: {answer.trouble}", remedy)
            continue
        theirs, counted, seen = answer.value
        differ = [
            f"{each} {theirs[each]} (here {version})"
            for each, version in own.items()
            if theirs[each] != version
        ]
        if differ:
            remedy = "Install infra/requirements.lock with the same Python on every node"
            yield Finding(name, "problem", f"{node}: {', '.join(differ)}", remedy)
        if seen is not None and seen < counted:
            remedy = (
                "Mend the driver there, or start its node with the number that there is: ray start --num-gpus"
            )
            yield Finding(
                "nodes' GPUs", "problem", f"{node}: Ray counts {counted}, PyTorch sees {seen}", remedy
            )
    if all(answer.value is not None and answer.value[0] == own for answer in answers.values()):
        listed = ", ".join(f"{each} {version}" for each, version in own.items())
        yield Finding(name, "ok", f"the same on every node ({len(answers)}): {listed}")


def _facts() -> tuple[dict[str, str], int, int | None]:
    """On a node: its versions, its GPUs as Ray counts them, and as PyTorch sees them if there should be any."""
    import ray

    own = ray.get_runtime_context().get_node_id()
    (node,) = (each for each in ray.nodes() if each["NodeID"] == own)
    counted = int(node["Resources"].get("GPU", 0))
    if not counted:
        return versions.here(), 0, None
    import torch

    return versions.here(), counted, torch.cuda.device_count()
