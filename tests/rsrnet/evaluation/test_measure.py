"""Scores of single images, against scikit-learn and plain counting."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score, jaccard_score

from rsrnet.data.lists import read_list
from rsrnet.data.naming import Composite
from rsrnet.evaluation.columns import METRICS, settings
from rsrnet.evaluation.measure import Evaluator
from rsrnet.model.config import RSRNetConfig
from rsrnet.model.network import RSRNet
from rsrnet.validation import MASKS

SIZE = 32


@pytest.fixture(scope="module")
def model() -> RSRNet:
    torch.manual_seed(1)
    return RSRNet(RSRNetConfig(depth=18, width=4, iterations=2)).eval()


@pytest.fixture(scope="module")
def composites(squares: Path) -> list[Composite]:
    return read_list(squares, "le50_test.txt")


def evaluator(model: RSRNet, root: Path, **more: object) -> Evaluator:
    return Evaluator(model, root, **{"size": SIZE, "batch_size": 2, **more})  # type: ignore[arg-type]


def expected(
    root: Path, composite: Composite, model: RSRNet, place: str, stretch: bool
) -> dict[str, list[float]]:
    """AP, F1 and IoU of each mask of one image, by scikit-learn on arrays that PIL decoded."""
    pixels = torch.from_numpy(np.array(Image.open(root / composite.path))).permute(2, 0, 1)[None] / 255
    region = np.array(Image.open(root / composite.mask_path)) / 255
    with torch.no_grad():
        output = model(F.interpolate(pixels, (SIZE, SIZE), mode="bilinear"))
    found = {}
    for name in MASKS:
        mask, truth = getattr(output, name), torch.from_numpy(region)[None, None].float()
        if place == "input":
            truth = F.interpolate(truth, (SIZE, SIZE), mode="bilinear")
        else:
            mask = F.interpolate(mask, region.shape, mode="bilinear")
        scores, true = mask.numpy().ravel(), truth.numpy().ravel() > 0.5
        if stretch:
            span = scores.max() - scores.min()
            scores = (scores - scores.min()) / (span if span >= 0.01 else 1)
        positive = scores > 0.5
        found[name] = [
            average_precision_score(true, scores),
            f1_score(true, positive, zero_division=0),
            jaccard_score(true, positive, zero_division=0),
        ]
    return found


@pytest.mark.parametrize("place", ["input", "native"])
@pytest.mark.parametrize("protocol", ["published", "raw"])
def test_scores_are_scikit_learns(
    squares: Path, composites: list[Composite], model: RSRNet, place: str, protocol: str
) -> None:
    rows = evaluator(model, squares)(composites)
    for composite, row in zip(composites, rows, strict=True):
        wanted = expected(squares, composite, model, place, stretch=protocol == "published")
        for name in MASKS:
            scores = [row[f"{name}.{protocol}.{place}.{metric}"] for metric in METRICS]
            assert scores == pytest.approx(wanted[name], abs=2e-5)


def test_row_says_which_image_it_is_and_what_makes_it_hard(
    squares: Path, composites: list[Composite], model: RSRNet
) -> None:
    row = evaluator(model, squares)(composites)[1]
    assert (row["path"], row["subset"], row["error"]) == (composites[1].path, "Sample", None)
    assert (row["width"], row["height"]) == (48, 40)
    assert row["area_fraction"] == pytest.approx(18 * 18 / (40 * 48))
    assert row["colour_difference"] > 5  # the square is tinted by 85 levels of red


def test_without_native_there_are_no_native_columns(
    squares: Path, composites: list[Composite], model: RSRNet
) -> None:
    (row,) = evaluator(model, squares, native=False)(composites[:1])
    names = {setting.column(metric) for setting in settings(native=False) for metric in METRICS}
    assert {name for name in row if "." in name} == names


@pytest.mark.parametrize(("batch_size", "threads"), [(1, 1), (3, 2), (16, 4)])
def test_batches_and_threads_do_not_matter(
    squares: Path, composites: list[Composite], model: RSRNet, batch_size: int, threads: int
) -> None:
    plain = evaluator(model, squares)(composites)
    other = evaluator(model, squares, batch_size=batch_size, threads=threads)(composites)
    columns = [setting.column(metric) for setting in settings(native=True) for metric in METRICS]
    first, second = ([[row[column] for column in columns] for row in rows] for rows in (plain, other))
    np.testing.assert_allclose(first, second, atol=1e-4)


def test_image_that_cannot_be_used_is_a_row_with_the_reason(
    squares: Path, composites: list[Composite], model: RSRNet, tmp_path: Path
) -> None:
    root = tmp_path / "damaged"
    shutil.copytree(squares, root)
    (root / composites[1].path).write_bytes(b"")
    (root / composites[3].mask_path).unlink()
    Image.new("L", (7, 5)).save(root / composites[4].mask_path)
    rows = evaluator(model, root)(composites)
    whole = evaluator(model, squares)(composites)
    for index, reason in ((1, "empty"), (3, "no such file"), (4, "7 x 5")):
        assert reason in rows[index]["error"]
        assert composites[index].name.split("_")[0] in rows[index]["error"]
    for index in (0, 2):
        assert rows[index]["m_fnl.raw.input.ap"] == pytest.approx(
            whole[index]["m_fnl.raw.input.ap"], abs=1e-4
        )


def test_no_composites_no_rows(squares: Path, model: RSRNet) -> None:
    assert evaluator(model, squares)([]) == []
