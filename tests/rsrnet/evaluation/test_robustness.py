"""Scores under corruptions, against evaluations of files that were corrupted beforehand."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rsrnet.data.lists import read_list
from rsrnet.evaluation.columns import METRICS
from rsrnet.evaluation.corruptions import CORRUPTIONS
from rsrnet.evaluation.measure import Evaluator, Row
from rsrnet.evaluation.robustness import COLUMNS, RobustnessEvaluator, corrupted, curve
from rsrnet.model.config import RSRNetConfig
from rsrnet.model.network import RSRNet

SIZE = 32


@pytest.fixture(scope="module")
def model() -> RSRNet:
    torch.manual_seed(1)
    return RSRNet(RSRNetConfig(depth=18, width=4, iterations=2)).eval()


@pytest.fixture(scope="module")
def small(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Composites of the network's size, as PNG under the published names: nothing is resized or lost."""
    root = tmp_path_factory.mktemp("small")
    shutil.copytree(squares, root, dirs_exist_ok=True)
    for composite in read_list(root, "le50_test.txt"):
        for path in (root / composite.path, root / composite.mask_path):
            Image.open(path).resize((SIZE, SIZE)).save(path, "PNG")
    return root


@pytest.fixture(scope="module")
def rows(model: RSRNet, small: Path) -> list[Row]:
    return RobustnessEvaluator(model, small, size=SIZE, batch_size=2)(read_list(small, "le50_test.txt"))


@pytest.mark.parametrize(
    ("name", "strength"), [("gamma", 0), ("jpeg", 5), ("white_balance", 2), ("resize", 4)]
)
def test_scores_are_those_of_corrupted_files(
    model: RSRNet, small: Path, rows: list[Row], tmp_path: Path, name: str, strength: int
) -> None:
    root = tmp_path / "corrupted"
    shutil.copytree(small, root)
    composites = read_list(root, "le50_test.txt")
    for composite in composites:
        image = np.array(Image.open(root / composite.path))
        Image.fromarray(CORRUPTIONS[name](image, strength)).save(root / composite.path, "PNG")
    for row, expected in zip(
        rows, Evaluator(model, root, size=SIZE, batch_size=2, native=False)(composites), strict=True
    ):
        assert row["path"] == expected["path"]
        for mask in ("m_rsr", "m_dec", "m_fnl"):
            for metric in METRICS:
                found = row[f"{name}.{mask}.{metric}"][strength]
                assert found == pytest.approx(expected[f"{mask}.published.input.{metric}"], abs=1e-6)


def test_every_column_begins_with_the_clean_score(rows: list[Row]) -> None:
    for row in rows:
        assert {name for name in row if "." in name} == set(COLUMNS)
        assert all(len(row[name]) == 6 for name in COLUMNS)
        assert len({row[f"{name}.m_fnl.f1"][0] for name in CORRUPTIONS}) == 1


def test_images_are_not_rounded_where_nothing_is_changed() -> None:
    images = torch.rand(2, 3, 5, 7)
    assert torch.equal(corrupted(images, CORRUPTIONS["jpeg"], 0), images)
    rounded = corrupted(images, CORRUPTIONS["saturation"], 5)
    assert rounded.shape == images.shape
    torch.testing.assert_close(rounded[:, 0], rounded[:, 2])


def test_curve_is_the_mean_and_its_losses_are_paired() -> None:
    made = curve([{"a": [0.5, 0.4, 0.0], "group": "x"}, {"a": [0.9, 0.6, 0.2], "group": "y"}], "a")
    np.testing.assert_allclose(made.means, [0.7, 0.5, 0.1])
    np.testing.assert_allclose(made.losses, [0, 0.2, 0.6])
    np.testing.assert_allclose(made.errors, [0, 0.1, 0.1])
    assert np.isnan(curve([{"a": [0.5, 0.4], "group": "x"}], "a").errors).all()
    with pytest.raises(ValueError, match="no image"):
        curve([], "a")
