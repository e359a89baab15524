"""The score and its threshold, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from rsrnet.detection import calibrate, score

scores = st.lists(st.integers(0, 20).map(lambda each: each / 20), min_size=1, max_size=40)


def test_score_is_the_mean_of_the_highest_hundredth() -> None:
    masks = torch.rand(3, 1, 50, 40, generator=torch.Generator().manual_seed(0))
    expected = [np.sort(mask.numpy().ravel())[-20:].mean() for mask in masks]
    np.testing.assert_allclose(score(masks), expected, rtol=1e-6)
    assert score(torch.full((1, 1, 4, 4), 0.25)).tolist() == [0.25]  # fewer than a hundred pixels


@given(scores, scores)
def test_threshold_and_area_are_scikit_learns(composites, photographs) -> None:
    found = calibrate(composites, photographs)
    truth = [1] * len(composites) + [0] * len(photographs)
    assert found.auc == pytest.approx(roc_auc_score(truth, composites + photographs))
    false_positive, true_positive, _ = roc_curve(truth, composites + photographs)
    assert found.true_positive_rate - found.false_positive_rate == pytest.approx(
        (true_positive - false_positive).max()
    )
    assert found.true_positive_rate == pytest.approx(np.mean(np.array(composites) >= found.threshold))
    assert found.false_positive_rate == pytest.approx(np.mean(np.array(photographs) >= found.threshold))
    assert (found.composites, found.photographs) == (len(composites), len(photographs))


def test_threshold_lies_in_the_middle_of_the_gap() -> None:
    found = calibrate([0.9, 0.8], [0.2, 0.4])
    assert found.threshold == pytest.approx(0.6)
    assert (found.auc, found.true_positive_rate, found.false_positive_rate) == (1, 1, 0)


@pytest.mark.parametrize(("composites", "photographs"), [([], [0.1]), ([0.1], []), ([float("nan")], [0.1])])
def test_nothing_to_choose_from_is_refused(composites, photographs) -> None:
    with pytest.raises(ValueError, match="finite scores of composites and of photographs"):
        calibrate(composites, photographs)
