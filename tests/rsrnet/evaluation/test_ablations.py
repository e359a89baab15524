"""The paper's Tables 2 and 3 as they are stored, against the lines that the paper prints."""

from __future__ import annotations

import pytest

from rsrnet.evaluation.ablations import LABELS, TABLE_2, TABLE_3
from rsrnet.model.config import ABLATIONS

PRINTED_2 = """
78.35 0.7130 65.99
80.53 0.7426 69.72
77.24 0.6973 64.55
80.82 0.7431 69.69
81.66 0.7564 70.52
80.62 0.7451 69.81
81.08 0.7440 69.93
81.24 0.7515 70.57
82.57 0.7607 71.63
"""
PRINTED_3 = """
w/o GRU             81.29 0.7495 70.21 77.88 0.7526 70.38 81.66 0.7564 70.52
w/o MSM             80.27 0.7398 68.92 75.57 0.7400 69.15 80.62 0.7451 69.81
w/o F_c             80.74 0.7392 69.11 76.79 0.7413 69.58 81.08 0.7440 69.93
w/o weighted upsample 80.57 0.7423 69.26 76.81 0.7486 70.20 81.24 0.7517 70.57
full                82.19 0.7547 70.62 78.32 0.7591 71.42 82.57 0.7607 71.63
"""


def fractions(texts: list[str]) -> list[float]:
    values = list(map(float, texts))
    return [value if index % 3 == 1 else value / 100 for index, value in enumerate(values)]


def test_table_2_is_the_papers() -> None:
    assert list(LABELS) == list(TABLE_2) == list(ABLATIONS)
    for scores, line in zip(TABLE_2.values(), PRINTED_2.strip().splitlines(), strict=True):
        assert list(scores) == pytest.approx(fractions(line.split()))


def test_table_3_is_the_papers() -> None:
    printed = PRINTED_3.strip().splitlines()
    assert list(TABLE_3) == list(TABLE_2)[4:]
    for (row, masks), line in zip(TABLE_3.items(), printed, strict=True):
        assert line.startswith(LABELS[row])
        assert list(masks) == ["m_rsr", "m_dec", "m_fnl"]
        stored = [value for scores in masks.values() for value in scores]
        assert stored == pytest.approx(fractions(line.split()[-9:]))
