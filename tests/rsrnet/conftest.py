"""What the tests of training, checkpoints and prediction share: a tiny network and its recipe."""

from __future__ import annotations

import pytest

from rsrnet.model.config import RSRNetConfig
from rsrnet.recipe import FitConfig


@pytest.fixture
def tiny() -> RSRNetConfig:
    """A network that trains in a blink."""
    return RSRNetConfig(depth=18, width=4, iterations=2, scales=(0, 1))


@pytest.fixture
def recipe() -> FitConfig:
    """Three epochs in batches of four."""
    return FitConfig(epochs=3, batch_size=4, lr=2e-3, milestones=(2,), seed=7, encoder_weights="none")
