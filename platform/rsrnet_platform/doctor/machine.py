"""This machine: Python, PyTorch, GPUs, memory."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from rsrnet_platform.doctor.finding import Finding

_GIB = 2**30
MEMORY_GIB = 4.0
"""Free memory below which a training with the paper's settings is in danger."""

SHARED_MEMORY_GIB = 1.0
"""Size of /dev/shm below which processes that read images for a training may die of a bus error."""

_GPU_SECONDS = 60
_TRY_GPUS = """
import json, torch
print(json.dumps([
    [
        torch.cuda.get_device_name(index),
        *torch.cuda.mem_get_info(index),
        float((torch.ones(64, 64, device=f"cuda:{index}") @ torch.ones(64, 64, device=f"cuda:{index}")).mean()),
    ]
    for index in range(torch.cuda.device_count())
]))
"""


def python() -> Iterator[Finding]:
    """The interpreter; that it is new enough, the installer saw to."""
    yield Finding("Python", "ok", f"{platform.python_version()}, {sys.executable}")


def torch() -> Iterator[Finding]:
    """PyTorch, and what it was built for."""
    import torch
    import torchvision

    cuda = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for CPU"
    yield Finding("PyTorch", "ok", f"{torch.__version__} ({cuda}), torchvision {torchvision.__version__}")


def gpus() -> Iterator[Finding]:
    """GPUs: what the driver tells, and a small product on each, in a process of its own, which may crash."""
    driver = _driver()
    done = subprocess.run(
        [sys.executable, "-c", _TRY_GPUS], capture_output=True, text=True, timeout=_GPU_SECONDS, check=False
    )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        remedy = "Mend the driver, or set cluster.accelerator to cpu"
        yield Finding("GPU", "problem", f"{driver or 'GPU'}: a small product fails: {said}", remedy)
        return
    seen = json.loads(done.stdout)
    if not seen:
        yield _without_gpu(driver)
    for index, (name, free, total, mean) in enumerate(seen):
        memory = f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB free"
        if mean != 64:
            remedy = "The card or its driver is broken: leave it out with CUDA_VISIBLE_DEVICES"
            yield Finding(f"GPU {index}", "problem", f"{name}: miscalculates a small product", remedy)
        else:
            yield Finding(f"GPU {index}", "ok", f"{name}, driver {driver or 'unknown'}, {memory}")


def memory() -> Iterator[Finding]:
    """Memory that is free, of this machine or of the container, and /dev/shm."""
    from ray._private.utils import get_system_memory, get_used_memory

    total = get_system_memory()
    free = total - get_used_memory()
    found = f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB free"
    if free < MEMORY_GIB * _GIB:
        yield Finding("memory", "warning", found, "End other programs, or lower fit.batch_size and data.size")
    else:
        yield Finding("memory", "ok", found)
    shared = Path("/dev/shm")  # noqa: S108
    if not shared.is_dir():
        yield Finding("shared memory", "ok", f"not checked: {platform.system()} has no /dev/shm")
        return
    size = shutil.disk_usage(shared).total
    found = f"{shared} holds {size / _GIB:.1f} GiB"
    if size < SHARED_MEMORY_GIB * _GIB:
        remedy = "Give a container --shm-size=2g, or set data.loader_processes to 0"
        yield Finding("shared memory", "warning", found, remedy)
    else:
        yield Finding("shared memory", "ok", found)


def _driver() -> str | None:
    """The version of the NVIDIA driver; None: there is none."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.split()[0] if done.returncode == 0 and done.stdout.strip() else None


def _without_gpu(driver: str | None) -> Finding:
    if driver is None:
        return Finding("GPU", "ok", "none; this machine computes on its CPU")
    remedy = "Install a PyTorch that is built for this driver; look at CUDA_VISIBLE_DEVICES"
    return Finding("GPU", "warning", f"there is one (driver {driver}), but PyTorch does not see it", remedy)
