"""What a place to compute has, and how many workers find room there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rsrnet_platform.cluster.config import GroupConfig, WorkerRange, WorkersConfig, admits
from rsrnet_platform.errors import UserError


@dataclass(frozen=True)
class Node:
    """What one machine of a cluster has in all."""

    cpus: int
    gpus: int
    resources: Mapping[str, float] = field(default_factory=dict)
    """Custom resources."""

    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Share:
    """What each worker of a job holds, and on which nodes it may run."""

    cpus: int
    use_gpu: bool
    resources: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def amounts(self) -> dict[str, float]:
        """What Ray is asked for, for each worker."""
        gpu = {"GPU": 1.0} if self.use_gpu else {}
        return {"CPU": float(self.cpus), **gpu, **self.resources}

    def room(self, node: Node) -> int:
        """How many such workers a node has room for."""
        if not admits(self.labels, node.labels):
            return 0
        rooms = [node.cpus // self.cpus, node.gpus if self.use_gpu else node.cpus]
        rooms += [int(node.resources.get(name, 0) / amount + 1e-9) for name, amount in self.resources.items()]
        return min(rooms)

    def __str__(self) -> str:
        parts = [count(self.cpus, "CPU"), *(["a GPU"] if self.use_gpu else [])]
        parts += [f"{amount:g} {name}" for name, amount in self.resources.items()]
        return _listed(parts)


@dataclass(frozen=True)
class Cluster:
    """A place to compute, and what each worker of the job holds there."""

    address: str | None
    """`host:port` of the cluster; None in this process alone."""

    started: bool
    """Whether it was started for this job and ends with it."""

    nodes: tuple[Node, ...]
    workers: int
    """Of a range: as many as there is room for now."""

    share: Share
    elastic: WorkerRange | None = None
    placement: str = "pack"

    @property
    def cpus_per_worker(self) -> int:
        """CPU cores that each worker holds."""
        return self.share.cpus

    @property
    def use_gpu(self) -> bool:
        """Whether each worker holds a GPU."""
        return self.share.use_gpu

    @property
    def pool_room(self) -> int:
        """How many workers fit so that one CPU stays free for what brings them their work."""
        return _pool_room(self.nodes, self.share)

    @property
    def where(self) -> str:
        """The place, in words."""
        if self.address is None:
            return "this process"
        return "a Ray cluster started for this job" if self.started else running_at(self.address)

    def groups(self, workers: int) -> int:
        """How many groups of so many workers fit at once, placed as the job says."""
        return _groups([self.share.room(node) for node in self.nodes], workers, self.placement)

    @property
    def actor_options(self) -> dict[str, Any]:
        """The same, as the options of an actor."""
        return {
            "num_cpus": self.cpus_per_worker,
            "num_gpus": 1 if self.use_gpu else 0,
            "resources": dict(self.share.resources),
            "label_selector": dict(self.share.labels),
        }

    @property
    def scaling(self) -> dict[str, Any]:
        """The same, as arguments of Ray Train's ``ScalingConfig``, for a group of workers."""
        return {
            "use_gpu": self.use_gpu,
            "resources_per_worker": self.share.amounts,
            "placement_strategy": self.placement.upper(),
            "label_selector": dict(self.share.labels) or None,
        }

    def __str__(self) -> str:
        if self.address is None:
            return f"{self.where}, on {'a GPU' if self.use_gpu else 'CPU'}"
        workers = f"{self.elastic} workers" if self.elastic else count(self.workers, "worker")
        return f"{workers} with {self.share} each, on {self.where} ({_capacity(self.nodes, self.share)})"


def find_room(config: WorkersConfig, address: str, started: bool, nodes: tuple[Node, ...]) -> Cluster:
    """Lay out a job on a cluster.

    Args:
        config: what the job asks for.
        address: of the cluster.
        started: whether it is of this job alone.
        nodes: what there is.

    Raises:
        UserError: as :func:`check_resources`.
    """
    share = check_resources(config, nodes, "this machine" if started else running_at(address))
    elastic = config.workers if isinstance(config.workers, WorkerRange) else None
    if elastic:
        workers = min(elastic.max, sum(map(share.room, nodes)))
    elif config.workers is None:
        workers = _pool_room(nodes, share)
    else:
        workers = config.most_workers
    return Cluster(address, started, nodes, workers, share, elastic, placement_of(config))


def check_resources(config: WorkersConfig, nodes: tuple[Node, ...], where: str) -> Share:
    """Check that all workers of a job fit at once: Ray would wait for the missing room without a word.

    Args:
        config: what the job asks for; of a range of workers, the fewest must fit.
        nodes: what there is.
        where: the place, in words.

    Returns:
        What each worker holds.

    Raises:
        UserError: if they do not fit; it says what there is and what would fit.
    """
    use_gpu = needs_gpu(config, nodes, where)
    share = Share(config.cpus_per_worker, use_gpu, config.resources, config.labels)
    rooms = [share.room(node) for node in nodes]
    placement = placement_of(config)
    room = {"strict_pack": max(rooms, default=0), "strict_spread": sum(map(bool, rooms))}.get(
        placement, sum(rooms)
    )
    # A pool without a number takes what there is, but must not go without what it asks for by name.
    needed = config.least_workers if config.workers is not None or share.resources or share.labels else 0
    if needed > room:
        raise UserError(_too_little(config, share, nodes, where, room, needed, placement))
    return share


def _too_little(
    config: WorkersConfig,
    share: Share,
    nodes: tuple[Node, ...],
    where: str,
    room: int,
    needed: int,
    placement: str,
) -> str:
    key = "cluster.workers.min" if isinstance(config.workers, WorkerRange) else "cluster.workers"
    remedies = [f"Set {key} to {room}" if room else "Ask for less"]
    if share.use_gpu:
        remedies.append("set cluster.accelerator to cpu")
    if placement.startswith("strict_"):
        remedies.append(f"set cluster.placement to {placement.removeprefix('strict_')}")
    remedies.append("use a larger cluster (cluster.address)")
    least = "at least " if isinstance(config.workers, WorkerRange) else ""
    order = {"strict_pack": ", all on one machine", "strict_spread": ", each on a machine of its own"}
    return (
        f"The job asks for {least}{count(needed, 'worker')} with {share} each{order.get(placement, '')}, "
        f"but {where} has {_capacity(nodes, share)}: room for {room}.\n  {', or '.join(remedies)}."
    )


def needs_gpu(config: WorkersConfig, nodes: tuple[Node, ...], where: str) -> bool:
    """Whether workers hold a GPU each.

    Raises:
        UserError: if they are to, and there is none.
    """
    available = any(node.gpus for node in nodes if admits(config.labels, node.labels))
    if config.accelerator == "gpu" and not available:
        on = " on a machine with the labels asked for" if config.labels else ""
        raise UserError(
            f"The job asks for GPUs (cluster.accelerator: gpu), but {where} has none{on}.\n"
            "  Set cluster.accelerator to auto or cpu, or use a cluster with GPUs (cluster.address)."
        )
    return available and config.accelerator != "cpu"


def running_at(address: str) -> str:
    """A cluster that is not the job's own, in words."""
    return f"the Ray cluster at {address}"


def count(number: int, noun: str) -> str:
    """A number of things, in words."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def placement_of(config: WorkersConfig) -> str:
    """How the workers of a group lie on the nodes."""
    return config.placement if isinstance(config, GroupConfig) else "pack"


def _pool_room(nodes: tuple[Node, ...], share: Share) -> int:
    """How many fit so that one CPU stays free for what brings them their work."""
    return min(sum(map(share.room, nodes)), (sum(node.cpus for node in nodes) - 1) // share.cpus)


def _groups(rooms: Sequence[int], workers: int, placement: str) -> int:
    if placement == "strict_pack":
        return sum(room // workers for room in rooms)
    groups = sum(rooms) // workers
    if placement == "strict_spread":
        # Of so many groups, each node bears a worker of each at most.
        while sum(min(room, groups) for room in rooms) < groups * workers:
            groups -= 1
    return groups


def _capacity(nodes: tuple[Node, ...], share: Share) -> str:
    """What the nodes have of what a worker asks for, in words."""
    parts = [count(sum(node.cpus for node in nodes), "CPU"), count(sum(node.gpus for node in nodes), "GPU")]
    parts += [f"{sum(node.resources.get(name, 0) for node in nodes):g} {name}" for name in share.resources]
    total = _listed(parts) + ("" if len(nodes) == 1 else f" on {len(nodes)} machines")
    if not share.labels:
        return total
    admitted = sum(admits(share.labels, node.labels) for node in nodes)
    wanted = _listed([f"{key}: {value}" for key, value in share.labels.items()])
    return (
        f"{total}, {admitted or 'none'} of them labelled {wanted}"
        if len(nodes) > 1
        else (f"{total}, and is {'' if admitted else 'not '}labelled {wanted}")
    )


def _listed(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]
