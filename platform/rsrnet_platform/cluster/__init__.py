"""Where a job computes: what its file asks for, what a place has, and the way there."""

from rsrnet_platform.cluster.config import (
    ClusterConfig,
    PoolConfig,
    SearchClusterConfig,
    TrainClusterConfig,
    WorkerRange,
    WorkersConfig,
)
from rsrnet_platform.cluster.connection import (
    code_folders,
    connect,
    foresee,
    running_here,
    settle_environment,
    this_process,
    token_source,
)
from rsrnet_platform.cluster.place import Cluster, Node, check_resources

__all__ = [
    "Cluster",
    "ClusterConfig",
    "Node",
    "PoolConfig",
    "SearchClusterConfig",
    "TrainClusterConfig",
    "WorkerRange",
    "WorkersConfig",
    "check_resources",
    "code_folders",
    "connect",
    "foresee",
    "running_here",
    "settle_environment",
    "this_process",
    "token_source",
]
