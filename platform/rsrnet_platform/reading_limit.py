"""What to say when the loader, and not the network, decides how fast a training is."""

from __future__ import annotations

from rsrnet.data.config import DataConfig

WAITING = 0.25
"""Part of the time spent waiting for images from which on reading is worth a look."""

STEPS = 20
SECONDS = 5.0
"""So much must have been trained before a training speaks of it."""


def hint(data: DataConfig, waiting: float) -> str | None:
    """What limits the training and what to do about it; None: the network does.

    Args:
        data: of the training.
        waiting: part of its time spent waiting for images, 0 to 1.
    """
    if waiting < WAITING:
        return None
    remedies = [
        f"set data.loader_processes above {data.loader_processes}, if there are processors to spare for them"
    ]
    if not _is_packed(data.root):
        remedies.append(
            f"pack the images once at the training size (`rsrnet data pack {data.root} PACK`, then data.root: PACK)"
        )
    return (
        f"Reading is the limit, not the network: {waiting:.0%} of the time is spent waiting for images. "
        f"To mend it, {', or '.join(remedies)}."
    )


def _is_packed(root: str) -> bool:
    from rsrnet.data.folder import Folder
    from rsrnet.data.source import open_source

    return not isinstance(open_source(root), Folder)
