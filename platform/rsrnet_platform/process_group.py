"""How the workers of a group reach each other: by the network card that has the node's address in the cluster.

On CPUs PyTorch's gloo listens at the address that the machine's own name stands for. Many an installer writes
``127.0.1.1`` for it into ``/etc/hosts``; workers of other machines would then look for this one in themselves.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

if TYPE_CHECKING:
    from ray.train._internal.base_worker_group import BaseWorkerGroup

GLOO_CARD = "GLOO_SOCKET_IFNAME"


@dataclass
class ProcessGroup(TorchConfig):
    """Ray Train's configuration of a process group, whose workers listen at the address that Ray has of their node."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """What Ray Train has set the group up."""
        return _Backend


class _Backend(_TorchBackend):
    def on_start(self, worker_group: BaseWorkerGroup, backend_config: TorchConfig) -> None:  # type: ignore[override]
        worker_group.execute(choose_card)
        super().on_start(worker_group, backend_config)


def choose_card() -> None:
    """Tell gloo which network card to use in this process, unless the user told it."""
    card = card_of(ray.util.get_node_ip_address())
    if card is not None:
        os.environ.setdefault(GLOO_CARD, card)


def card_of(address: str) -> str | None:
    """The name of the network card that has an address; None: none has it, as behind a network translation."""
    cards = psutil.net_if_addrs().items()
    return next((name for name, given in cards if any(each.address == address for each in given)), None)
