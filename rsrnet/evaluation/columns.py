"""Names of the columns that hold scores: mask, protocol, place and metric, such as ``m_fnl.published.input.f1``."""

from __future__ import annotations

from itertools import product
from typing import Literal, NamedTuple, TypeAlias

from rsrnet.metrics import PUBLISHED, RAW
from rsrnet.validation import MASKS

METRICS = ("ap", "f1", "iou")

PROTOCOLS = {protocol.name: protocol for protocol in (PUBLISHED, RAW)}

Place: TypeAlias = Literal["input", "native"]
"""Where a mask is compared with the truth: on the square that the network sees, or at the image's own size."""


class Setting(NamedTuple):
    """Which mask is scored, and how."""

    mask: str = MASKS[0]
    """One of ``rsrnet.validation.MASKS``."""

    protocol: str = PUBLISHED.name
    """One of ``PROTOCOLS``."""

    place: Place = "input"

    def column(self, metric: str) -> str:
        """Name of the column with a metric under this setting."""
        return ".".join((*self, metric))


PAPERS = Setting()
"""What the paper reports: M_fnl under the published protocol, at the size of the network's input."""


def settings(native: bool) -> list[Setting]:
    """Every mask under every protocol, at the input's size and, if asked for, at the image's own."""
    places: tuple[Place, ...] = ("input", "native") if native else ("input",)
    return [Setting(*each) for each in product(MASKS, PROTOCOLS, places)]
