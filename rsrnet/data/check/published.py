"""What is known of iHarmony4 and of its lists for inharmonious regions, to compare a copy with.

The counts are those of the lists as published; a complete copy has exactly these.
"""

from __future__ import annotations

LISTS = ("le50_train.txt", "le50_val.txt", "le50_test.txt")
"""The lists that are checked unless others are named. No validation list was published."""

OFFICIAL = {"IHD_train.txt": "le50_train.txt", "IHD_test.txt": "le50_test.txt"}
"""The dataset's own lists, and those that leaving large foregrounds out makes of them."""

SPLIT = ("le50_train.txt", "le50_test.txt")
"""The lists whose common photographs are known."""

LARGEST_FOREGROUND = 0.5
"""A composite whose foreground is a larger part of the image than this is left out."""

COUNTS = {
    "IHD_train.txt": {"HCOCO": 38545, "HAdobe5k": 19437, "HFlickr": 7449, "Hday2night": 311},
    "IHD_test.txt": {"HCOCO": 4283, "HAdobe5k": 2160, "HFlickr": 828, "Hday2night": 133},
    "le50_train.txt": {"HCOCO": 38327, "HAdobe5k": 18652, "HFlickr": 6967, "Hday2night": 309},
    "le50_test.txt": {"HCOCO": 4256, "HAdobe5k": 2065, "HFlickr": 783, "Hday2night": 133},
}
"""Composites of each sub-dataset in each list."""

SHARED_PHOTOGRAPHS = {"HCOCO": 1389, "HFlickr": 8, "HAdobe5k": 0, "Hday2night": 0}
"""Photographs that both have in common."""

SHARED_SCENES = {"Hday2night": 5}
"""Scenes that they have in common."""
