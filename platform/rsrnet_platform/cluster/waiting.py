"""The wait for machines that a cluster does not have yet: those its autoscaler adds, and those that still start."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rsrnet_platform.cluster.config import WorkersConfig
from rsrnet_platform.cluster.place import Node, Share, check_resources, needs_gpu, placement_of, running_at
from rsrnet_platform.errors import UserError
from rsrnet_platform.terminal import console, duration

_PAUSE = 0.5
"""Seconds between two looks at the nodes."""


def wait_for_room(
    config: WorkersConfig, look: Callable[[], tuple[Node, ...]], address: str
) -> tuple[Node, ...]:
    """Wait until a running cluster has room for a job, at most as long as the job says.

    Meanwhile the workers are asked for, which is what an autoscaler goes by.

    Args:
        config: what the job asks for.
        look: asks for what there is now.
        address: of the cluster, to which this process is connected.

    Returns:
        What there was when there was room.

    Raises:
        UserError: if there is too little room until then.
    """
    since = time.monotonic()
    nodes = look()
    trouble = _trouble(config, nodes, address)
    if trouble is None:
        return nodes
    if not config.patience:
        raise UserError(
            f"{trouble}\n  Where the cluster adds machines as jobs ask for them, or some are still starting, "
            "a job waits for them for cluster.patience seconds."
        )
    missing = str(trouble).partition("\n")[0]
    console.print(
        f"{missing}\nWaiting for machines, for up to {duration(config.patience)} (cluster.patience)."
    )
    with _asked_for(config, nodes, address), console.status("Waiting for machines"):
        while trouble := _trouble(config, nodes, address):
            if time.monotonic() - since > config.patience:
                raise UserError(
                    f"{trouble}\n  The job waited for machines for {duration(config.patience)} (cluster.patience). "
                    "`ray status` on the cluster's head says what became of them."
                )
            time.sleep(_PAUSE)
            nodes = look()
    console.print(f"The room is there after {duration(time.monotonic() - since)}.")
    return nodes


def _trouble(config: WorkersConfig, nodes: tuple[Node, ...], address: str) -> UserError | None:
    try:
        check_resources(config, nodes, running_at(address))
    except UserError as error:
        return error
    return None


@contextmanager
def _asked_for(config: WorkersConfig, nodes: tuple[Node, ...], address: str) -> Iterator[None]:
    """Context: Ray looks for room for as many workers as the job needs at least."""
    from ray.util import placement_group, remove_placement_group

    use_gpu = config.accelerator == "gpu" or needs_gpu(config, nodes, running_at(address))
    share = Share(config.cpus_per_worker, use_gpu, config.resources, config.labels)
    workers = config.least_workers
    group = placement_group(
        [share.amounts] * workers,
        strategy=placement_of(config).upper(),
        bundle_label_selector=[dict(share.labels)] * workers if share.labels else None,
    )
    try:
        yield
    finally:
        # What it holds by now comes free; an autoscaler keeps idle machines for minutes.
        remove_placement_group(group)
