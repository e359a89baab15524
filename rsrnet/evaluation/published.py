"""The numbers that the paper prints for RSRNet, as fractions.

The means "over all images" are over the 7,237 test composites. The paper's four sub-datasets, weighted by their
composites, give 0.830, 0.766 and 0.721 there, not the 0.826, 0.761 and 0.716 that it prints: differences below
half a point say nothing.
"""

from __future__ import annotations

from typing import NamedTuple


class Scores(NamedTuple):
    """The three metrics of section 4.1, each in [0, 1]."""

    ap: float
    f1: float
    iou: float


ALL = "All"
"""What tables call the mean over all images."""

TABLE_1: dict[str, Scores] = {
    "HCOCO": Scores(0.7842, 0.7131, 0.6585),
    "HAdobe5k": Scores(0.9310, 0.8901, 0.8596),
    "HFlickr": Scores(0.8711, 0.8048, 0.7684),
    "Hday2night": Scores(0.4734, 0.3028, 0.2634),
    ALL: Scores(0.8257, 0.7607, 0.7163),
}
"""RSRNet in Table 1: M_fnl on the test composites of each sub-dataset, and on all of them."""

TEST_COMPOSITES: dict[str, int] = {
    "HCOCO": 4256,
    "HAdobe5k": 2065,
    "HFlickr": 783,
    "Hday2night": 133,
    ALL: 7237,
}
"""How many composites ``le50_test.txt`` names."""
