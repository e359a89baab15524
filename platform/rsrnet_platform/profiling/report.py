"""A profile as people read it, and as programs do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rsrnet.phases import BACKWARD, COMMUNICATION, COPY, DATA, FORWARD, LOSS, OPTIMIZER
from rsrnet.profiling import Profile
from rsrnet_platform.cluster.place import count
from rsrnet_platform.sheet import Sheet
from rsrnet_platform.terminal import memory

_PARTS = {
    DATA: "data: waiting for the loader",
    COPY: "copy to the device",
    FORWARD: "forward",
    LOSS: "loss",
    BACKWARD: "backward",
    COMMUNICATION: "communication: waiting for the other workers' gradients",
    OPTIMIZER: "optimizer",
}


def sheets(found: Profile) -> Sequence[Sheet]:
    """Where the time of a step goes, and the operators with the most time of their own."""
    parts = {_PARTS[name]: seconds for name, seconds in found.phases.items()}
    if found.ranks == 1:
        del parts[_PARTS[COMMUNICATION]]
    parts |= {"everything else": found.rest, "a step": found.seconds}
    rows = [[name, _milliseconds(found, seconds), _share(found, seconds)] for name, seconds in parts.items()]
    operators = [
        [
            each.name,
            f"{each.calls / found.steps:.0f}",
            _milliseconds(found, each.seconds),
            _share(found, each.seconds),
        ]
        for each in found.operators
    ]
    whose = "" if found.ranks == 1 else f", on the first of {found.ranks} workers"
    steps = count(found.steps, "step")
    return [
        Sheet(f"Where the time goes: mean of {steps}{whose}", ["part", "ms a step", "%"], rows),
        Sheet(
            "Operators with the most time of their own",
            ["operator", "calls a step", "ms a step", "%"],
            operators,
        ),
    ]


def outcome(found: Profile) -> str:
    """Pace and memory, in one sentence."""
    where = " on the GPU" if found.device == "cuda" else ""
    return f"{found.images_per_second:.3g} images/s; at most {memory(found.peak)} of memory{where}."


def as_json(found: Profile) -> dict[str, Any]:
    """Everything that was found, in seconds and bytes over all steps."""
    return asdict(found) | {"rest": found.rest, "images_per_second": found.images_per_second}


def _milliseconds(found: Profile, seconds: float) -> str:
    return f"{seconds / found.steps * 1e3:.1f}"


def _share(found: Profile, seconds: float) -> str:
    return f"{seconds / found.seconds * 100:.1f}"
