"""Where a model fails: the numbers, the sentence, the picture, for images whose scores were made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.container import ErrorbarContainer
from PIL import Image

from rsrnet_platform.drawing import save
from rsrnet_platform.evaluation.failures import FEW, PROPERTIES, slices, verdict
from rsrnet_platform.evaluation.failures_figure import draw

F1, IOU = "m_fnl.published.input.f1", "m_fnl.published.input.iou"


def images(count: int, seed: int = 0, **columns: Any) -> pa.Table:
    """Images of 100 x 100 pixels, each of its own photograph, with noisy scores around an F1 of 0.8."""
    rng = np.random.default_rng(seed)
    f1 = 0.8 + rng.uniform(-0.1, 0.1, count)
    made = {
        "path": [f"HCOCO/composite_images/c{index}_1_1.jpg" for index in range(count)],
        "subset": ["HCOCO"] * count,
        "group": [f"HCOCO/{index}" for index in range(count)],
        "width": [100] * count,
        "height": [100] * count,
        "area_fraction": np.full(count, 0.15),
        "colour_difference": np.full(count, 12.0),
        F1: f1,
        IOU: f1 - 0.1,
    }
    return pa.table(made | columns)


def rows(table: pa.Table, name: str) -> dict[str, dict[str, Any]]:
    """The bins of a property by their labels."""
    return {row["bin"]: row for row in slices(table).to_pylist() if row["property"] == name}


def half(count: int) -> np.ndarray:
    return np.arange(count) < count // 2


FAILING = {
    "where the region covers 0–1 % of the image": {
        "area_fraction": np.where(half(200), 0.005, 0.15),
        "width": np.where(half(200), 3000, 100),  # so that the regions have as many pixels
    },
    "where the region has 1–3k pixels": {"width": np.where(half(200), 10, 100), "height": np.full(200, 1000)},
    "on Hday2night": {"subset": np.where(half(200), "Hday2night", "HCOCO")},
    "where region and surroundings differ in colour by 0–5": {
        "colour_difference": np.where(half(200), 2.0, 12.0)
    },
    "where region and surroundings differ in colour by > 60": {
        "colour_difference": np.where(half(200), 100.0, 12.0)
    },
}


@pytest.mark.parametrize(("where", "columns"), FAILING.items(), ids=FAILING)
def test_the_sentence_says_where_the_model_fails(where: str, columns: dict[str, Any]) -> None:
    f1 = np.where(half(200), 0.3, 0.9) + np.random.default_rng(0).uniform(-0.05, 0.05, 200)
    table = images(200, **columns, **{F1: f1})
    there, elsewhere = f1[half(200)].mean(), f1[~half(200)].mean()
    sentence = verdict(slices(table))
    assert sentence.startswith(f"Fails most {where}: F1 {there:.2f} there, {elsewhere:.2f} elsewhere")
    assert draw(table).get_suptitle().startswith(sentence)


def test_a_difference_within_its_error_is_no_failure() -> None:
    f1 = np.random.default_rng(0).uniform(0, 1, 200)
    areas = np.random.default_rng(1).uniform(0, 1, 200)
    assert verdict(slices(images(200, area_fraction=areas, **{F1: f1}))).startswith("No bin's F1 is below")


def test_composites_of_one_photograph_do_not_count_as_many() -> None:
    """The same scores are convincing from 100 photographs on each side, and not from 2."""
    f1 = np.where(half(200), 0.3, 0.9)
    subset = np.where(half(200), "HFlickr", "HCOCO")
    many = images(200, subset=subset, **{F1: f1})
    few = images(200, subset=subset, group=[f"{s}/{i % 2}" for i, s in enumerate(subset)], **{F1: f1})
    assert verdict(slices(many)).startswith("Fails most on HFlickr")
    assert verdict(slices(few)) == "Too few photographs to tell where the model fails"


@given(st.integers(1, 5), st.integers(2, 30))
def test_standard_errors_are_those_of_photographs(copies: int, photographs: int) -> None:
    """Scored again and again, a photograph tells no more than once: the plain standard error of the mean."""
    scores = np.random.default_rng(photographs).uniform(0, 1, photographs)
    again = np.repeat(np.arange(photographs), copies)
    table = images(len(again), group=[f"HCOCO/{index}" for index in again], **{F1: scores[again]})
    (found,) = rows(table, "subset").values()
    assert (found["images"], found["photographs"]) == (len(again), photographs)
    assert found["f1"] == pytest.approx(scores.mean())
    assert found["f1_se"] == pytest.approx(scores.std(ddof=1) / np.sqrt(photographs))
    assert found["f1_elsewhere"] is None
    assert found["f1_difference_se"] is None


def test_the_error_of_a_difference_is_that_of_two_independent_means() -> None:
    table = images(400, subset=np.where(half(400), "HFlickr", "HCOCO"))
    found = rows(table, "subset")
    expected = np.hypot(found["HFlickr"]["f1_se"], found["HCOCO"]["f1_se"])
    assert found["HCOCO"]["f1_difference_se"] == pytest.approx(expected, rel=0.01)
    assert found["HFlickr"]["f1"] == pytest.approx(found["HCOCO"]["f1_elsewhere"])


def test_edges_belong_to_the_bin_below_and_empty_bins_between_are_kept() -> None:
    areas = [0.0, 0.01, 0.010001, 0.02, 0.5, 1.0]
    found = rows(images(6, area_fraction=areas), "area_percent")
    counts = {name: row["images"] for name, row in found.items()}
    assert counts == {
        "0–1": 2, "1–2": 2, "2–5": 0, "5–10": 0, "10–20": 0, "20–35": 0, "35–50": 1, "50–100": 1,
    }  # fmt: skip
    assert found["2–5"]["f1"] is None
    assert (found["1–2"]["low"], found["1–2"]["high"]) == (1.0, 2.0)


def test_sizes_are_native_pixels() -> None:
    table = images(3, area_fraction=[0.5] * 3, width=[10, 1000, 6000], height=[10, 1000, 4000])
    found = rows(table, "region_pixels")
    assert [name for name, row in found.items() if row["images"]] == ["0–300", "0.3–1M", "> 3M"]


def test_sub_datasets_come_in_the_published_order() -> None:
    table = images(4, subset=["Mine", "Hday2night", "HAdobe5k", "HCOCO"])
    assert list(rows(table, "subset")) == ["HCOCO", "HAdobe5k", "Hday2night", "Mine"]


def test_every_property_has_every_image() -> None:
    rng = np.random.default_rng(0)
    table = images(
        300,
        area_fraction=rng.uniform(0, 1, 300),
        colour_difference=np.where(rng.random(300) < 0.1, np.nan, rng.gamma(2, 20, 300)),
        subset=rng.choice(["HCOCO", "HFlickr"], 300),
    )
    bins = slices(table).to_pylist()
    for each in PROPERTIES:
        chosen = [row for row in bins if row["property"] == each.name and row["images"]]
        assert sum(row["images"] for row in chosen) == 300
        mean = sum(row["images"] * row["iou"] for row in chosen) / 300
        assert mean == pytest.approx(np.mean(table[IOU].to_pylist()))


def test_images_without_scores_are_left_out_and_told() -> None:
    table = images(50, **{F1: [None, float("nan"), *[0.5] * 48]})
    (found,) = rows(table, "subset").values()
    assert (found["images"], found["f1"]) == (48, 0.5)
    assert "2 images could not be scored" in draw(table).get_suptitle().replace("\N{NO-BREAK SPACE}", " ")


def test_images_without_a_colour_difference_are_a_bin_of_their_own() -> None:
    table = images(60, colour_difference=[None] * 20 + [float("nan")] * 10 + [7.0] * 30)
    counts = {name: row["images"] for name, row in rows(table, "colour_difference").items()}
    assert counts == {"5–10": 30, "none": 30}


def test_a_table_without_scores_is_refused() -> None:
    with pytest.raises(ValueError, match="no image was scored"):
        slices(images(2, **{F1: [None, None]}))


@pytest.mark.parametrize("count", [1, 2, FEW, 300])
def test_the_picture_shows_every_bin_with_its_images(count: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(count)
    table = images(count, area_fraction=rng.uniform(0, 0.6, count), **{F1: rng.integers(0, 2, count) * 1.0})
    figure = draw(table)
    bins = slices(table).to_pylist()
    assert len(figure.axes) == len(PROPERTIES)
    for axes, each in zip(figure.axes, PROPERTIES, strict=True):
        chosen = [row for row in bins if row["property"] == each.name]
        labels = [label.get_text() for label in axes.get_xticklabels()]
        assert labels == [f"{row['bin']}\n{row['images']}" for row in chosen]
        marks = [mark for mark in axes.containers if isinstance(mark, ErrorbarContainer)]
        drawn = sorted(y for mark in marks for y in mark.lines[0].get_ydata())
        shown = sorted(row[name] for row in chosen if row["images"] for name in ("f1", "iou"))
        assert drawn == pytest.approx(shown)
        few = {mark.lines[0].get_markerfacecolor() == "white" for mark in marks}
        assert few == {row["photographs"] < FEW for row in chosen if row["images"]}
        for mark in marks:
            ends = np.concatenate([line.vertices for line in mark.lines[2][0].get_paths()])
            assert ends[:, 1].min() >= 0
            assert ends[:, 1].max() <= 1
    path = save(figure, tmp_path / "failures.png")
    with Image.open(path) as picture:
        assert picture.size == (1800, 1080)
