"""The `cluster:` section: what may be asked for, whether it fits, and how Ray is asked for it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsrnet_platform import cluster, spec
from rsrnet_platform.cluster import (
    Cluster,
    ClusterConfig,
    Node,
    PoolConfig,
    SearchClusterConfig,
    TrainClusterConfig,
    WorkerRange,
    check_resources,
)
from rsrnet_platform.cluster.config import admits
from rsrnet_platform.cluster.place import Share
from rsrnet_platform.errors import JobError, UserError
from rsrnet_platform.pool import deal

TRAIN: dict[str, Any] = {"kind": "train", "name": "a", "data": {"root": "/x"}}
EVALUATE: dict[str, Any] = TRAIN | {"kind": "evaluate", "model": "models:/m/1"}


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"workers": {"min": 0, "max": 2}}, r"cluster\.workers\.min = 0: a whole number, at least 1"),
        ({"workers": {"min": 3, "max": 2}}, r"cluster\.workers\.max = 2: .* that of min, 3"),
        ({"workers": {"min": 1}}, r"cluster\.workers\.max = None: must be given"),
        ({"workers": {"min": 1, "max": 2, "most": 3}}, r"cluster\.workers\.most = 3: no such key"),
        ({"workers": {"min": 1, "max": "two"}}, r"cluster\.workers\.max = 'two': a whole number"),
        ({"workers": {"min": 1, "max": 2, "interval": 0}}, r"cluster\.workers\.interval = 0.*above 0"),
        ({"workers": "two"}, r"cluster\.workers = 'two': a whole number"),
        ({"workers": -1}, r"cluster\.workers = -1: a whole number, at least 0, or min and max"),
        ({"resources": {"CPU": 1}}, r"cluster\.resources\.CPU = 1\.0: .*set cpus_per_worker instead"),
        ({"resources": {"GPU": 2}}, r"cluster\.resources\.GPU = 2\.0: .*set accelerator instead"),
        ({"resources": {"fast disk": 1}}, r"cluster\.resources\.fast disk = 1\.0: its name must be"),
        ({"resources": {"disk": 1.5}}, r"cluster\.resources\.disk = 1\.5: .*from 1 on a whole one"),
        ({"resources": {"disk": -1}}, r"cluster\.resources\.disk = -1\.0: a number above 0"),
        ({"resources": {"disk": "much"}}, r"cluster\.resources\.disk = 'much': a number"),
        ({"labels": {"-zone": "a"}}, r"cluster\.labels\.-zone = 'a': its key must be"),
        ({"labels": {"zone": "in()"}}, r"cluster\.labels\.zone = 'in\(\)': a label's value"),
        ({"placement": "scatter"}, r"cluster\.placement = 'scatter': .*pack.*strict_spread"),
        ({"workers": 0, "resources": {"disk": 1}}, r"cluster\.resources = .*without Ray"),
        ({"workers": 0, "labels": {"zone": "a"}}, r"cluster\.labels = .*without Ray"),
        ({"workers": {"min": 1, "max": 2}, "labels": {"zone": "a"}}, r"labels = .*use resources instead"),
        ({"workers": {"min": 1, "max": 2}, "placement": "strict_pack"}, r"placement = .*pack or spread"),
    ],
)
def test_section_of_a_training_that_is_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError, match=message):
        spec.parse(TRAIN | {"cluster": section})


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"workers": {"min": 1, "max": 2}}, r"cluster\.workers = .*: a whole number"),
        ({"placement": "spread"}, r"cluster\.placement = 'spread': no such key"),
        ({"grace": 3}, r"cluster\.grace = 3: no such key"),
    ],
)
def test_section_without_workers_that_train_together(section: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError, match=message):
        spec.parse(EVALUATE | {"cluster": section})


def test_range_of_workers_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    job = spec.parse(TRAIN | {"cluster": {"workers": {"min": 2, "max": 8}, "resources": {"disk": 0.5}}})
    assert isinstance(job, spec.TrainJob)
    assert job.cluster.workers == WorkerRange(2, 8)
    assert (job.cluster.least_workers, job.cluster.most_workers) == (2, 8)
    path = tmp_path / "resolved.yaml"
    path.write_text(spec.to_yaml(job))
    assert spec.load(path) == job
    assert spec.flatten(job)["cluster.workers.max"] == 8


def test_every_worker_of_a_range_needs_an_image() -> None:
    given = TRAIN | {"fit": {"batch_size": 4}, "cluster": {"workers": {"min": 1, "max": 8}}}
    with pytest.raises(JobError, match=r"fit\.batch_size = 4: at least one image for each of the 8 workers"):
        spec.parse(given)


A = Node(4, 0, {"disk": 2}, {"zone": "a"})
B = Node(4, 2, {}, {"zone": "b"})


@pytest.mark.parametrize(
    ("config", "nodes", "message"),
    [
        (
            TrainClusterConfig(workers=3, resources={"disk": 1}, accelerator="cpu"),
            [A, B],
            "3 workers with 1 CPU and 1 disk each, but here has 8 CPUs, 2 GPUs and 2 disk on 2 machines: "
            "room for 2",
        ),
        (
            TrainClusterConfig(workers=5, labels={"zone": "a"}),
            [A, B],
            "2 machines, 1 of them labelled zone: a: room for 4",
        ),
        (TrainClusterConfig(labels={"zone": "c"}), [A], "0 GPUs, and is not labelled zone: c: room for 0"),
        (
            TrainClusterConfig(accelerator="gpu", labels={"zone": "a"}),
            [A, B],
            "has none on a machine with the labels asked for",
        ),
        (
            TrainClusterConfig(workers=5, accelerator="cpu", placement="strict_pack"),
            [A, B],
            "each, all on one machine, but .*: room for 4.*set cluster.placement to pack",
        ),
        (
            TrainClusterConfig(workers=3, accelerator="cpu", placement="strict_spread"),
            [A, B],
            "each on a machine of its own, but .*: room for 2",
        ),
        (
            TrainClusterConfig(workers=WorkerRange(3, 9), cpus_per_worker=4, accelerator="cpu"),
            [A, B],
            "at least 3 workers .*: room for 2.*Set cluster.workers.min to 2",
        ),
        (PoolConfig(resources={"disk": 3}, accelerator="cpu"), [A], "1 worker .* 3 disk each.*Ask for less"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_there_is(
    config: cluster.WorkersConfig, nodes: list[Node], message: str
) -> None:
    with pytest.raises(UserError) as refused:
        check_resources(config, tuple(nodes), "here")
    assert re.search(message, str(refused.value), re.DOTALL), refused.value


@pytest.mark.parametrize(
    ("labels", "node", "fits"),
    [
        ({}, {}, True),
        ({"zone": "a"}, {"zone": "a"}, True),
        ({"zone": "a"}, {}, False),
        ({"zone": "!a"}, {"zone": "b"}, True),
        ({"zone": "!a"}, {"zone": "a"}, False),
        ({"zone": "!a"}, {}, True),
        ({"zone": "in(a, b)"}, {"zone": "b"}, True),
        ({"zone": "in(a,b)"}, {"zone": "c"}, False),
        ({"zone": "!in(a, b)"}, {"zone": "a"}, False),
        ({"zone": "a", "disk": "fast"}, {"zone": "a"}, False),
    ],
)
def test_labels_that_a_node_must_have(labels: dict[str, str], node: dict[str, str], fits: bool) -> None:
    assert admits(labels, node) is fits


@given(
    rooms=st.lists(st.integers(0, 4), min_size=1, max_size=4),
    workers=st.integers(1, 4),
    placement=st.sampled_from(["pack", "spread", "strict_pack", "strict_spread"]),
)
def test_groups_that_fit_at_once(rooms: list[int], workers: int, placement: str) -> None:
    """Against placing one group after the other, where the order matters on the emptiest nodes first."""
    place = Cluster(
        "here:1", False, tuple(Node(room, 0) for room in rooms), workers, Share(1, False), placement=placement
    )
    assert place.groups(workers) == _placed(rooms, workers, placement)


def _placed(rooms: list[int], workers: int, placement: str) -> int:
    free, groups = list(rooms), 0
    while True:
        free.sort(reverse=True)
        if placement == "strict_pack":
            if free[0] < workers:
                return groups
            free[0] -= workers
        elif placement == "strict_spread":
            if len(free) < workers or free[workers - 1] < 1:
                return groups
            free[:workers] = [room - 1 for room in free[:workers]]
        else:
            if sum(free) < workers:
                return groups
            for _ in range(workers):
                free.sort()
                free[-1] -= 1
        groups += 1


@pytest.fixture
def two_kinds_of_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cluster with a node that has a disk, and one of another zone; nothing else connects to it."""
    import ray
    from ray.cluster_utils import Cluster as Nodes

    ray.shutdown()
    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        nodes.add_node(num_cpus=2, resources={"disk": 2}, labels={"zone": "b"})
        monkeypatch.setenv("RAY_ADDRESS", nodes.address)
        yield
    finally:
        ray.shutdown()
        nodes.shutdown()


@pytest.mark.ray
@pytest.mark.parametrize(
    "config",
    [
        ClusterConfig(workers=2, accelerator="cpu", resources={"disk": 1}),
        ClusterConfig(workers=2, accelerator="cpu", labels={"zone": "b"}),
    ],
    ids=["resources", "labels"],
)
def test_pool_runs_where_the_section_says(config: ClusterConfig, two_kinds_of_nodes: None) -> None:
    with cluster.connect(config) as place:
        import ray

        (there,) = [node["NodeID"] for node in ray.nodes() if node["Labels"].get("zone") == "b"]
        assert {result for _, result in deal(place, _node_of_worker, range(4), 0)} == {there}
    too_many = SearchClusterConfig(**vars(config) | {"workers": 3})
    with pytest.raises(UserError, match="room for 2"), cluster.connect(too_many):
        pass


def _node_of_worker() -> Any:
    import ray

    return lambda task: ray.get_runtime_context().get_node_id()


@pytest.mark.ray
def test_training_gets_what_the_section_asks_for(two_kinds_of_nodes: None, tmp_path: Path) -> None:
    """Ray Train places a group by the arguments that the section became."""
    import ray.train
    from ray.train.torch import TorchTrainer

    config = TrainClusterConfig(
        workers=2, accelerator="cpu", resources={"disk": 1}, labels={"zone": "b"}, placement="strict_pack"
    )

    def loop() -> dict[str, str] | None:
        here = ray.get_runtime_context().get_node_id()
        return next(node["Labels"] for node in ray.nodes() if node["NodeID"] == here)

    with cluster.connect(config) as place:
        scaling = ray.train.ScalingConfig(num_workers=place.workers, **place.scaling)
        run = ray.train.RunConfig(storage_path=str(tmp_path))
        result = TorchTrainer(loop, scaling_config=scaling, run_config=run).fit()
        assert result.return_value["zone"] == "b"


def test_wait_for_a_group_that_cannot_start_is_short_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
    monkeypatch.setenv(name, "60")
    cluster.settle_environment()
    assert os.environ[name] == "60"
    monkeypatch.delenv(name)
    cluster.settle_environment()
    assert float(os.environ[name]) < 60
