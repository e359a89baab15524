"""Composites from photographs: the four colour transfers of iHarmony4 on real images."""

from rsrnet.synthesis.compose import CompositionError
from rsrnet.synthesis.photos import PhotographError
from rsrnet.synthesis.plan import SampleConfig
from rsrnet.synthesis.sample import SampleError, SampleReport, build_sample

__all__ = [
    "CompositionError",
    "PhotographError",
    "SampleConfig",
    "SampleError",
    "SampleReport",
    "build_sample",
]
