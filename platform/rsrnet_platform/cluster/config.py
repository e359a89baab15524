"""The `cluster:` section of a job file; what of it a kind of job has depends on how its workers work together."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from rsrnet.config import ConfigError, Problem, require

_RESOURCE = re.compile(r"[A-Za-z][A-Za-z0-9_.:/-]*")
_OTHERWISE = {
    "CPU": "set cpus_per_worker instead",
    "GPU": "set accelerator instead: a worker has one GPU or none",
    "TPU": "workers compute on CPUs or GPUs",
    "memory": "only custom resources count here",
    "object_store_memory": "only custom resources count here",
}
"""Resources that Ray counts by itself, and what a job file says instead."""

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_LABEL = re.compile(rf"(?:{_NAME}/)?{_NAME}")
_SELECTION = re.compile(rf"!?(?:{_NAME}|in\({_NAME}(?:, ?{_NAME})*\))")


@dataclass(frozen=True)
class WorkerRange:
    """How many workers an elastic training has: as many as there is room for, between two numbers."""

    min: int
    """Fewer are never started; the training waits until there is room for so many."""

    max: int
    """More are never started."""

    interval: float = 30
    """Seconds between two looks for more room. To use it, the workers start again from the newest checkpoint."""

    def __post_init__(self) -> None:
        require(
            self,
            min=(self.min >= 1, "a whole number, at least 1"),
            max=(self.max >= self.min, f"a whole number, at least that of min, {self.min}"),
            interval=(self.interval > 0, "a number of seconds above 0"),
        )

    def __str__(self) -> str:
        return f"{self.min} to {self.max}"


@dataclass(frozen=True)
class WorkersConfig:
    """What all jobs say of their workers."""

    workers: int | WorkerRange | None
    """Worker processes; 0 computes in this process, without Ray."""

    cpus_per_worker: int = 1
    """CPU cores that each worker holds."""

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """What workers compute on; `gpu` is one GPU each, `auto` is `gpu` where the cluster has any."""

    resources: dict[str, float] = field(default_factory=dict)
    """Custom resources that each worker holds besides, `NAME: amount`, as nodes were given them by `ray start
    --resources`."""

    labels: dict[str, str] = field(default_factory=dict)
    """Labels of the nodes that workers may run on, `KEY: value`; also `!value`, `in(a, b)` and `!in(a, b)`."""

    address: str | None = None
    """Ray cluster, `host:port`; `local`: start one; null: $RAY_ADDRESS, or the running one, or start one."""

    max_failures: int = 3
    """Restarts from the newest checkpoint before a failing job is given up; -1: without end."""

    patience: float = 0.0
    """Seconds to wait at the start for machines that the cluster adds, or that still start; 0: a job without room is
    refused at once."""

    def __post_init__(self) -> None:
        require(
            self,
            workers=(
                not isinstance(self.workers, int) or self.workers >= 0,
                f"a whole number, at least 0{self._other_workers}",
            ),
            cpus_per_worker=(self.cpus_per_worker >= 1, "a whole number, at least 1"),
            accelerator=(self.accelerator in ("auto", "cpu", "gpu"), "auto, cpu or gpu"),
            address=(
                self.address in (None, "local") or host_and_port(str(self.address)) is not None,
                "host:port, local or null (a job goes to a http:// address with `rsrnet submit`)",
            ),
            max_failures=(self.max_failures >= -1, "a whole number, at least -1"),
            patience=(0 <= self.patience < math.inf, "a number of seconds, at least 0"),
        )
        wrong = [*_wrong_resources(self.resources), *_wrong_labels(self.labels)]
        if self.workers == 0:
            unused = {"resources": self.resources, "labels": self.labels}
            wrong += [
                Problem(name, value, "nothing, as workers = 0 computes in this process, without Ray")
                for name, value in unused.items()
                if value
            ]
        if wrong:
            raise ConfigError(wrong)

    @property
    def _other_workers(self) -> str:
        """What the number of workers may be besides a number, in words."""
        return ""

    @property
    def least_workers(self) -> int:
        """How many there are at least, this process being one."""
        workers = self.workers.min if isinstance(self.workers, WorkerRange) else self.workers
        return max(1, workers or 1)

    @property
    def most_workers(self) -> int:
        """How many there may be, as far as the job file says."""
        return self.workers.max if isinstance(self.workers, WorkerRange) else self.least_workers


@dataclass(frozen=True)
class ClusterConfig(WorkersConfig):
    """How many workers a job has, what each holds, and where they run."""

    workers: int = 1


@dataclass(frozen=True)
class PoolConfig(WorkersConfig):
    """How many workers a job has that are independent of each other, what each holds, and where they run."""

    workers: int | None = None
    """Worker processes; 0: this process, without Ray; null: one for each GPU, or as many as the CPUs bear, and this
    process where that is one."""

    @property
    def _other_workers(self) -> str:
        return ", or null"


Placement = Literal["pack", "spread", "strict_pack", "strict_spread"]


@dataclass(frozen=True)
class GroupConfig(WorkersConfig):
    """What jobs say of workers that train together."""

    placement: Placement = "pack"
    """How the workers of a training lie on the nodes: `pack` on few and `spread` over many as far as there is room;
    `strict_pack` all on one, `strict_spread` each on another."""

    grace: float = 10.0
    """Seconds that trainings have to write a checkpoint after SIGTERM or Ctrl-C, before the job ends."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self,
            grace=(self.grace >= 0, "a number of seconds, at least 0"),
            placement=(
                self.placement in ("pack", "spread", "strict_pack", "strict_spread"),
                "pack, spread, strict_pack or strict_spread",
            ),
        )


@dataclass(frozen=True)
class SearchClusterConfig(ClusterConfig, GroupConfig):
    """How many workers each training of a job has, what each holds, where they run, and how they end early."""


@dataclass(frozen=True)
class TrainClusterConfig(GroupConfig):
    """How many workers a training has, what each holds, where they run, and how it ends early."""

    workers: int | WorkerRange = 1
    """Worker processes; 0 computes in this process, without Ray; `{min: 1, max: 8}`: as many as there is room for,
    now and when nodes come and go."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # Ray Train 2.60 counts the free room of all nodes: it would wait for room that there is not.
        elastic = isinstance(self.workers, WorkerRange)
        require(
            self,
            labels=(not (elastic and self.labels), "nothing, as workers is a range; use resources instead"),
            placement=(
                not elastic or not self.placement.startswith("strict_"),
                "pack or spread, as workers is a range",
            ),
        )

    @property
    def _other_workers(self) -> str:
        return ", or min and max"


def host_and_port(address: str) -> tuple[str, int] | None:
    """The two parts of `host:port`; None: it is nothing of the kind."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not (port.isascii() and port.isdigit()):
        return None
    return host.strip("[]"), int(port)


def admits(labels: Mapping[str, str], node: Mapping[str, str]) -> bool:
    """Whether a node's labels are among those that a job admits, as Ray decides it."""
    return all(_admits(selection, node.get(key)) for key, selection in labels.items())


def _admits(selection: str, value: str | None) -> bool:
    without = selection.removeprefix("!")
    listed = without.removeprefix("in(").removesuffix(")").split(",")
    return (value in [each.strip() for each in listed]) is not selection.startswith("!")


def _wrong_resources(resources: Mapping[str, float]) -> list[Problem]:
    wrong = []
    for name, amount in resources.items():
        if name in _OTHERWISE:
            wrong.append(Problem(f"resources.{name}", amount, f"no custom resource; {_OTHERWISE[name]}"))
        elif not _RESOURCE.fullmatch(name):
            rule = "its name must be of letters, digits and _ . : / -, a letter first"
            wrong.append(Problem(f"resources.{name}", amount, rule))
        elif not (0 < amount <= 1 or (amount > 1 and amount == int(amount))):
            wrong.append(Problem(f"resources.{name}", amount, "a number above 0, from 1 on a whole one"))
    return wrong


def _wrong_labels(labels: Mapping[str, str]) -> list[Problem]:
    wrong = []
    for key, value in labels.items():
        if not _LABEL.fullmatch(key):
            rule = "its key must be of letters, digits and - _ ., and may have a prefix before a /"
            wrong.append(Problem(f"labels.{key}", value, rule))
        elif not _SELECTION.fullmatch(value):
            wrong.append(Problem(f"labels.{key}", value, "a label's value, !value, in(a, b) or !in(a, b)"))
    return wrong
