"""RSRNet: finds the region of a composite image whose colour or light does not fit (BMVC 2022).

The names below are all most users need. They are imported on first use, so that reading a configuration does
not wait for PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rsrnet.localizer import Finding, Localizer
    from rsrnet.loss_config import LossConfig
    from rsrnet.losses import RSRNetLoss
    from rsrnet.model.config import RSRNetConfig
    from rsrnet.model.network import RSRNet, RSRNetOutput
    from rsrnet.recipe import FitConfig

__version__ = "0.1.0"

_HOME = {
    "Finding": "rsrnet.localizer",
    "FitConfig": "rsrnet.recipe",
    "Localizer": "rsrnet.localizer",
    "LossConfig": "rsrnet.loss_config",
    "RSRNet": "rsrnet.model.network",
    "RSRNetConfig": "rsrnet.model.config",
    "RSRNetLoss": "rsrnet.losses",
    "RSRNetOutput": "rsrnet.model.network",
}

__all__ = [
    "Finding",
    "FitConfig",
    "Localizer",
    "LossConfig",
    "RSRNet",
    "RSRNetConfig",
    "RSRNetLoss",
    "RSRNetOutput",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'rsrnet' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
