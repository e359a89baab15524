"""Memory of this process: the device's where it computes on one, else the machine's."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")


def in_use(device: torch.device) -> int:
    """Bytes that this process holds now: of a GPU what PyTorch took of it, else what is resident."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device)
    return _resident("VmRSS")


def peak(device: torch.device) -> int:
    """The most bytes that this process ever held, see :func:`in_use`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return _resident("VmHWM")


def capacity(device: torch.device) -> int | None:
    """Bytes that the GPU has; None for the machine's memory, which other processes share."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return None


def _resident(key: str) -> int:
    """A figure of Linux; elsewhere the peak, which is all that Python knows."""
    if not _STATUS.exists():
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
    (line,) = (line for line in _STATUS.read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024
