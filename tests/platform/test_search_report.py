"""The report of a search: the comparison, the tables, the words, the figures; for searches in every state."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import re
import subprocess
import sys
from collections import defaultdict
from dataclasses import FrozenInstanceError
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.text import Text
from PIL import Image
from rich.console import Console

from rsrnet_platform.search import report
from rsrnet_platform.search.report import figures
from rsrnet_platform.search.trials import Report, Trial

METRIC = "val/iou"
PAPER = {"model.iterations": 12, "loss.lambda": 0.5, "model.scales": [0, 1, 2, 3], "fit.lr": 1e-4}
EPOCHS = 3


def trial(index: int, scores: list[float], point: dict[str, Any] | None = None, **changes: Any) -> Trial:
    """A trial that was trained to the end of as many folds as there are scores, an epoch a second."""
    made = Trial(
        index, point or dict(PAPER), folds=len(scores), epochs=EPOCHS, status="finished", started=10.0 * index
    )
    for fold, epoch in itertools.product(range(len(scores)), range(1, EPOCHS + 1)):
        step = fold * EPOCHS + epoch
        score = scores[fold] * epoch / EPOCHS
        objective = fmean([*scores[:fold], score])
        made.add(Report(step, fold, epoch, score, objective, time=made.started + step))
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def cut(made: Trial, status: Any, step: int, error: str | None = None) -> Trial:
    """The same trial, ended after a number of epochs."""
    made.status, made.reports, made.error = status, made.reports[:step], error
    return made


def drawn(count: int, seed: int = 0, *, wide: bool = False) -> list[Trial]:
    """A random search of so many trials, a part of them not finished."""
    draw = random.Random(seed)
    trials = []
    for index in range(count):
        point: dict[str, Any] = dict(PAPER) | (
            {"data.flip": True, "fit.encoder_weights": "imagenet"} if wide else {}
        )
        if index:
            point["model.iterations"] = draw.randint(2, 20)
            point["loss.lambda"] = draw.uniform(0.1, 1)
            point["model.scales"] = draw.choice([[0, 1, 2, 3], [1, 2, 3], [2, 3], [3]])
            point["fit.lr"] = 10 ** draw.uniform(-5, -2.3)
        if index and wide:
            point["data.flip"] = draw.random() < 0.5
            point["fit.encoder_weights"] = draw.choice(
                ["imagenet", "none", "/weights/of/some/other/network.pth"]
            )
        made = trial(index, [draw.gauss(0.7, 0.02) for _ in range(5)], point)
        ends = draw.choice(["finished", "finished", "stopped", "diverged", "failed"]) if index else "finished"
        trials.append(made if ends == "finished" else cut(made, ends, draw.randint(0, 9)))
    return trials


def grid() -> list[Trial]:
    """The paper's point and a grid of 16, all finished."""
    points = [
        PAPER | {"model.iterations": k, "loss.lambda": weight, "model.scales": scales}
        for k in (4, 8, 12, 16)
        for weight in (0.25, 0.5)
        for scales in ([0, 1, 2, 3], [2, 3])
    ]
    draw = random.Random(1)
    return [
        trial(index, [draw.gauss(0.7, 0.02) for _ in range(3)], point)
        for index, point in enumerate([PAPER, *points])
    ]


SEARCHES = {
    "grid": grid(),
    "one trial": [trial(0, [0.7, 0.6])],
    "nothing finished": [
        cut(trial(0, [0.7, 0.6]), "running", 2),
        cut(trial(1, [0.7, 0.6]), "failed", 0, "boom"),
    ],
    "nothing reported": [cut(trial(0, [0.7, 0.6]), "running", 0)],
    "paper's trial missing": [trial(1, [0.7, 0.6]), cut(trial(2, [0.7, 0.6]), "running", 3)],
    "paper's trial failed": [cut(trial(0, [0.7, 0.6]), "failed", 1, "boom"), trial(1, [0.7, 0.6])],
    "equal trials": [trial(index, [0.7, 0.7]) for index in range(3)],
    "10 trials": drawn(10),
    "120 trials": drawn(120),
    "200 trials, 6 settings": drawn(200, wide=True),
}
every_search = pytest.mark.parametrize("trials", SEARCHES.values(), ids=SEARCHES)


# The comparison


@given(
    st.integers(2, 7).flatmap(
        lambda n: st.lists(st.lists(st.floats(0, 1), min_size=n, max_size=n), min_size=1)
    )
)
def test_the_best_is_compared_with_the_paper_fold_by_fold(scores: list[list[float]]) -> None:
    trials = [trial(index, folds) for index, folds in enumerate(scores)]
    means = np.mean(scores, axis=1)
    found = report.comparison(trials)
    assert found is not None
    assert found.best.objective == pytest.approx(means.max())
    assert found.paper is trials[0]
    assert found.difference == pytest.approx(means.max() - means[0])
    paired = np.subtract(scores[found.best.index], scores[0])
    assert found.spread == pytest.approx(paired.std(ddof=1), abs=1e-12)
    assert found.decisive == (found.difference > found.spread)


def test_the_hardness_of_a_fold_does_not_hide_a_difference() -> None:
    hard = [0.3, 0.5, 0.9]
    found = report.comparison([trial(0, hard), trial(1, [score + 0.01 for score in hard])])
    assert found is not None
    assert found.decisive
    assert found.best.spread == pytest.approx(np.std(hard, ddof=1))


def test_a_difference_below_its_spread_is_not_decisive() -> None:
    found = report.comparison([trial(0, [0.5, 0.5]), trial(1, [0.7, 0.4])])
    assert found is not None
    assert (found.best.index, found.decisive) == (1, False)
    assert found.difference == pytest.approx(0.05)
    assert found.spread == pytest.approx(np.std([0.2, -0.1], ddof=1))


def test_the_papers_point_as_the_best_differs_from_itself_by_nothing() -> None:
    found = report.comparison([trial(0, [0.5, 0.5]), trial(1, [0.5, 0.5])])
    assert found is not None
    assert found.best is found.paper
    assert (found.difference, found.decisive) == (0, False)
    with pytest.raises(FrozenInstanceError):
        found.difference = 1.0  # type: ignore[misc]


@pytest.mark.parametrize("name", ["paper's trial missing", "paper's trial failed"])
def test_without_the_papers_point_there_is_a_best_and_no_difference(name: str) -> None:
    found = report.comparison(SEARCHES[name])
    assert found is not None
    assert found.best.index == 1
    assert (found.paper, found.difference, found.spread, found.decisive) == (None, None, None, False)


def test_only_finished_trials_are_compared() -> None:
    assert report.comparison([]) is None
    assert report.comparison(SEARCHES["nothing finished"]) is None
    better = cut(trial(1, [0.9, 0.1]), "stopped", EPOCHS)
    assert better.objective == 0.9
    found = report.comparison([trial(0, [0.5, 0.5]), better])
    assert found is not None
    assert found.best.index == 0


# The tables


@every_search
def test_both_tables_hold_every_trial(trials: list[Trial], tmp_path: Path) -> None:
    report.write_table(trials, tmp_path / "new")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["trials.csv", "trials.parquet"]
    parquet = pd.read_parquet(tmp_path / "new" / "trials.parquet")
    folds = trials[0].folds
    assert list(parquet) == [
        *("trial", "status", *trials[0].point, "objective", "spread"),
        *(f"fold_{fold + 1}" for fold in range(folds)),
        *("epochs", "seconds", "error", "run_id"),
    ]
    csv = pd.read_csv(tmp_path / "new" / "trials.csv")
    pd.testing.assert_frame_equal(csv, parquet, check_dtype=False, check_column_type=False)
    for row, made in zip(parquet.to_dict("records"), trials, strict=True):
        assert (row["trial"], row["status"], row["epochs"]) == (made.index, made.status, len(made.reports))
        assert json.loads(row["model.scales"]) == made.point["model.scales"]
        assert row["fit.lr"] == made.point["fit.lr"]
        assert row["seconds"] == len(made.reports)
        scores = [row[f"fold_{fold + 1}"] for fold in range(folds) if not math.isnan(row[f"fold_{fold + 1}"])]
        assert scores == [made.reports[end].score for end in range(EPOCHS - 1, len(made.reports), EPOCHS)]
        if made.status == "finished":
            assert row["objective"] == pytest.approx(np.mean(scores))
            assert row["spread"] == pytest.approx(np.std(scores, ddof=1))
        if made.status == "diverged":
            assert math.isnan(row["objective"])


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**31), 2**31),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=5),
    st.lists(st.integers(0, 3), max_size=3),
)


@settings(max_examples=40)
@given(values=st.lists(VALUES, min_size=1, max_size=6))
def test_a_column_has_one_type_and_loses_nothing(
    values: list[Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("tables")
    report.write_table(
        [trial(index, [0.5, 0.6], {"fit.x": value}) for index, value in enumerate(values)], folder
    )
    column = pq.read_table(folder / "trials.parquet").column("fit.x")
    kinds = {type(value) for value in values if value is not None}
    read = column.to_pylist()
    if kinds <= {int, float} or (len(kinds) == 1 and kinds <= {bool, str}):
        assert read == values
    else:
        assert str(column.type) == "string"
        assert [value if value is None else json.loads(value) for value in read] == values


def test_a_table_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report.write_table(SEARCHES["one trial"], tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(table: Any, path: Path) -> None:
        path.write_bytes(b"half a ta")
        raise OSError("disk full")

    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(OSError, match="disk full"):
        report.write_table(SEARCHES["grid"], tmp_path)
    assert {path: path.read_bytes() for path in before} == before


# The report


@every_search
def test_the_report_links_to_files_that_are_there(trials: list[Trial], tmp_path: Path) -> None:
    path = report.write(trials, METRIC, "demo", tmp_path / "report")
    assert path == tmp_path / "report" / "report.md"
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# Search demo\n\n")
    links = re.findall(r"\]\(([^)]*)\)", text)
    assert {path.name, *links} == {file.name for file in path.parent.iterdir()}
    pictures = [link for link in links if link.endswith(".png")]
    assert len(pictures) == (3 if any(made.status == "finished" for made in trials) else 1)
    for picture in pictures:
        with Image.open(path.parent / picture) as image:
            assert image.format == "PNG"
            assert 800 <= image.width <= 2500
            assert 500 <= image.height <= 2500
            assert len(image.convert("L").getcolors() or []) > 10


@every_search
def test_written_again_the_files_are_the_same(trials: list[Trial], tmp_path: Path) -> None:
    contents = []
    for folder in ("one", "two"):
        written = report.write(trials, METRIC, "demo", tmp_path / folder).parent
        contents.append({path.name: path.read_bytes() for path in written.iterdir()})
    assert contents[0] == contents[1]


def rows_of(text: str) -> list[dict[str, str]]:
    """The rows of the only table of a Markdown text."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [[cell.strip(" `") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def test_the_report_says_what_was_found(tmp_path: Path) -> None:
    best = trial(2, [0.71, 0.83, 0.70], PAPER | {"fit.lr": 0.000031623, "model.iterations": 8})
    trials = [
        trial(0, [0.70, 0.80, 0.69]),
        trial(1, [0.60, 0.61, 0.62]),
        best,
        cut(trial(3, [0.9, 0.9, 0.9]), "stopped", 4),
        cut(trial(4, [0.9, 0.9, 0.9]), "diverged", 2),
        cut(trial(5, [0.9, 0.9, 0.9]), "failed", 3, "ValueError: a | b\n  <see> *this* `log`"),
    ]
    text = report.write(trials, METRIC, "demo", tmp_path).read_text(encoding="utf-8")
    outcome, spent = text.split("\n\n")[1:3]
    assert "Trial 2 is the best of 3 finished trials" in outcome
    assert "`fit.lr = 3.16e-05`" in outcome
    assert f"**{fmean([0.71, 0.83, 0.70]):.3f} ± {np.std([0.71, 0.83, 0.70], ddof=1):.3f}**" in outcome
    assert f"{fmean([0.70, 0.80, 0.69]):.3f} ± {np.std([0.70, 0.80, 0.69], ddof=1):.3f}" in outcome
    assert f"better by {0.05 / 3:.3f} ± {np.std([0.01, 0.03, 0.01], ddof=1):.3f}: more than" in outcome
    assert "3 finished, 1 stopped early, 1 diverged, 1 failed" in spent
    assert f"{3 * 9 + 4 + 2 + 3} of {6 * 9} (67 %)" in spent
    assert [row["trial"] for row in rows_of(text)] == ["2", "0 (paper)", "1"]
    row = rows_of(text)[0]
    assert (row["fit.lr"], row["model.iterations"], row["by fold"]) == ("3.16e-05", "8", "0.710 0.830 0.700")
    assert row["difference from the paper"] == "+0.017 ± 0.012"
    failures = text.partition("## Failures")[2]
    assert "Trial 4" in failures
    assert "    ValueError: a | b\n      <see> *this* `log`\n" in failures
    assert "Trial 3" not in failures


def test_the_table_has_the_ten_best_and_the_papers_point_wherever_it_stands(tmp_path: Path) -> None:
    trials = [trial(index, [0.5 + index / 100, 0.5]) for index in range(20)]
    rows = rows_of(report.write(trials, METRIC, "demo", tmp_path).read_text(encoding="utf-8"))
    assert [row["trial"] for row in rows] == [*(str(19 - rank) for rank in range(10)), "0 (paper)"]
    assert [row["rank"] for row in rows] == [*map(str, range(1, 11)), "20"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nothing finished", "No trial finished"),
        ("one trial", "the only trial that finished"),
        ("equal trials", "It is the paper's own point; no other is better."),
        ("paper's trial missing", "The paper's own point was not tried"),
        ("paper's trial failed", "The paper's own point did not finish (failed)"),
    ],
)
def test_the_report_of_an_unusual_search(name: str, words: str, tmp_path: Path) -> None:
    text = report.write(SEARCHES[name], METRIC, "demo", tmp_path).read_text(encoding="utf-8")
    assert words in text
    assert ("The search is not over." in text) == any(made.status == "running" for made in SEARCHES[name])
    assert "nan" not in text.lower()
    assert "None" not in text


# The summary


def shown(trials: list[Trial]) -> str:
    console = Console(width=80, no_color=True, highlight=False)
    with console.capture() as capture:
        console.print(report.summary(trials, METRIC))
    return capture.get()


@every_search
def test_the_summary_fits_on_a_screen(trials: list[Trial]) -> None:
    lines = shown(trials).splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 30), folds=st.integers(2, 24), width=st.integers(1, 40))
def test_many_settings_and_folds_still_fit_and_what_differs_is_shown(
    count: int, folds: int, width: int
) -> None:
    point: dict[str, Any] = {f"fit.{'x' * width}{number}": [True] * width for number in range(count)}
    last = list(point)[-1]
    trials = [trial(0, [0.5] * folds, point), trial(1, [0.6] * folds, point | {last: "other"})]
    lines = shown(trials).splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert any("other" in line for line in lines)
    hidden = re.search(r"\.\.\. (\d+) more", "\n".join(lines))
    told = sum("fit.x" in line for line in lines)
    assert told + (int(hidden[1]) if hidden else 0) == count


def test_the_summary_sets_the_best_beside_the_papers_point() -> None:
    best = trial(1, [0.71, 0.83, 0.70], PAPER | {"model.iterations": 8})
    text = shown([trial(0, [0.70, 0.80, 0.69]), best, cut(trial(2, [0.9, 0.9, 0.9]), "stopped", 4)])
    assert re.search(r"model\.iterations +│ +8 │ +12 ", text)
    assert re.search(r"model\.scales +│ +\[0, 1, 2, 3\] │ +\[0, 1, 2, 3\] ", text)
    assert re.search(r"val/iou +│ +0\.747 ± 0\.072 │ +0\.730 ± 0\.061 ", text)
    assert "0.710 0.830 0.700" in text
    assert "Difference: +0.017 ± 0.012" in text
    assert re.search(r"Larger than its standard deviation over the folds: yes", text)
    assert "Trials: 2 finished, 1 stopped early." in text
    assert "Epochs: 22 of 27 (81 %)." in text


def test_the_summary_tells_what_became_of_the_papers_point() -> None:
    assert "did not finish (failed)" in shown(SEARCHES["paper's trial failed"])
    assert "was not tried" in shown(SEARCHES["paper's trial missing"])
    assert "No finished trial is better than the paper's own point." in shown(SEARCHES["equal trials"])
    assert "No trial finished." in shown(SEARCHES["nothing finished"])
    assert "Trials: none." in shown([])


# The figures


def panels_of(trials: list[Trial]) -> dict[str, Any]:
    figure = figures.objective_by_setting(trials, METRIC)
    return {axes.get_xlabel(): axes for axes in figure.axes if axes.get_visible()}


def points_of(axes: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places, heights and lengths of the error bars of a panel."""
    (container,) = [item for item in axes.containers if isinstance(item, ErrorbarContainer)]
    data, _, (bars,) = container.lines
    lengths = [segment[1][1] - segment[0][1] for segment in bars.get_segments()]
    return np.asarray(data.get_xdata(), float), np.asarray(data.get_ydata(), float), np.array(lengths) / 2


@pytest.mark.parametrize("name", ["grid", "10 trials", "120 trials", "200 trials, 6 settings"])
def test_a_panel_for_each_setting_shows_every_finished_trial(name: str) -> None:
    trials = SEARCHES[name]
    done = [made for made in trials if made.status == "finished"]
    panels = panels_of(trials)
    assert list(panels) == list(trials[0].point)
    for path, axes in panels.items():
        x, y, bars = points_of(axes)
        np.testing.assert_allclose(y, [np.mean(made.scores) for made in done])
        np.testing.assert_allclose(bars, [np.std(made.scores, ddof=1) for made in done])
        if path == "loss.lambda" and name != "grid":
            np.testing.assert_allclose(x, [made.point[path] for made in done])


def test_each_value_has_its_place_on_a_linear_logarithmic_or_categorical_axis() -> None:
    done = [made for made in SEARCHES["120 trials"] if made.status == "finished"]
    panels = panels_of(SEARCHES["120 trials"])
    assert [panels[path].get_xscale() for path in ("loss.lambda", "fit.lr")] == ["linear", "log"]
    x, _, _ = points_of(panels["fit.lr"])
    np.testing.assert_allclose(x, [made.point["fit.lr"] for made in done])
    x, _, _ = points_of(panels["model.iterations"])
    assert list(x.round()) == [made.point["model.iterations"] for made in done]
    x, _, _ = points_of(panels["model.scales"])
    places = panels["model.scales"].get_xticks()
    labels = [label.get_text() for label in panels["model.scales"].get_xticklabels()]
    nearest = [labels[int(np.abs(places - place).argmin())] for place in x]
    assert [json.loads(label) for label in nearest] == [made.point["model.scales"] for made in done]


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([1e-4, 1e-2], "log"),
        ([1, 1000], "log"),
        ([0.0, 1e-2], "linear"),
        ([-1.0, 1.0], "linear"),
        ([1e-3, 1e-2], "linear"),
        ([None, 1e-4, 1e-2], "linear"),  # places, one a value
        ([True, False], "linear"),
        (["a", None, [1]], "linear"),
        ([0.5], "linear"),
    ],
)
def test_the_axis_suits_the_values(values: list[Any], scale: str) -> None:
    trials = [trial(index, [0.5, 0.6], {"fit.x": value}) for index, value in enumerate(values * 2)]
    axes = panels_of(trials)["fit.x"]
    assert axes.get_xscale() == scale
    x, _, _ = points_of(axes)
    low, high = axes.get_xlim()
    assert ((low < x) & (x < high)).all()
    groups = defaultdict(list)
    for value, place in zip(values * 2, x, strict=True):
        groups[json.dumps(value)].append(place)
    # Trials of a value stand side by side, nearer to each other than to any other.
    assert all(len(set(places)) == 2 for places in groups.values())
    extents = sorted((min(places), max(places)) for places in groups.values())
    assert all(left[1] < right[0] for left, right in itertools.pairwise(extents))


def test_few_values_have_their_mean() -> None:
    trials = SEARCHES["grid"]
    for path, axes in panels_of(trials).items():
        groups = defaultdict(list)
        for made in trials:
            groups[json.dumps(made.point[path])].append(np.mean(made.scores))
        bars = [item for item in axes.collections if len(item.get_segments()) == len(groups)]
        if len(groups) == 1:  # its mean is that of all trials, and says nothing of the setting
            continue
        drawn = [segment[0][1] for segment in bars[-1].get_segments()]
        np.testing.assert_allclose(sorted(drawn), sorted(map(np.mean, groups.values())))


def test_every_panel_marks_the_best_and_the_papers_point() -> None:
    trials = SEARCHES["120 trials"]
    done = [made for made in trials if made.status == "finished"]
    best = max(done, key=lambda made: np.mean(made.scores))
    figure = figures.objective_by_setting(trials, METRIC)
    for axes in figure.axes:
        x, y, _ = points_of(axes)
        marks = {
            line.get_marker(): line.get_xydata()[0] for line in axes.lines if line.get_marker() in ("*", "D")
        }
        np.testing.assert_array_equal(marks["*"], [x[done.index(best)], y[done.index(best)]])
        np.testing.assert_array_equal(marks["D"], [x[0], y[0]])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(figure.legends) == 1
    assert {"best", "the paper's own point", "mean by value"} < set(labels)
    assert any("5 folds" in label for label in labels)
    left_out = figure.get_suptitle()
    for status, word in {"stopped": "stopped early", "diverged": "diverged", "failed": "failed"}.items():
        count = sum(made.status == status for made in trials)
        assert re.search(rf"\b{count}\s{word}", left_out)


def lines_of(figure: Any) -> dict[int, list[Any]]:
    """Lines of parallel coordinates by the number of their trial."""
    lines = defaultdict(list)
    for line in figure.axes[0].lines:
        if (line.get_gid() or "").startswith("trial-"):
            lines[int(line.get_gid().removeprefix("trial-"))].append(line)
    return lines


@every_search
def test_every_trial_is_a_line_through_its_values(trials: list[Trial]) -> None:
    lines = lines_of(figures.parallel_coordinates(trials, METRIC))
    settings_count = len(trials[0].point)
    assert set(lines) == {made.index for made in trials}
    objectives = {}
    crossings = defaultdict(list)
    for made in trials:
        x, y = lines[made.index][0].get_data()
        assert y.min() > -0.07
        assert y.max() < 1.07
        assert x[-1] == settings_count - (made.status != "finished")
        if made.status == "finished":
            objectives[y[-1]] = made.objective
        for place, value in enumerate(made.point.values()):
            if isinstance(value, float):
                crossings[place].append((value, y[np.abs(x - place).argmin()]))
    heights = sorted(objectives)
    assert [objectives[height] for height in heights] == sorted(objectives.values())
    for pairs in crossings.values():
        ordered = sorted(pairs)
        assert all(a[1] < b[1] for a, b in itertools.pairwise(ordered) if a[0] < b[0])


def test_the_lines_colour_width_and_dashes_tell_the_trials_apart() -> None:
    trials = SEARCHES["120 trials"]
    done = [made for made in trials if made.status == "finished"]
    best = max(done, key=lambda made: np.mean(made.scores))
    figure = figures.parallel_coordinates(trials, METRIC)
    lines = lines_of(figure)
    assert max(done, key=lambda made: lines[made.index][0].get_linewidth()) is best
    assert [index for index, of in lines.items() if any(line.is_dashed() for line in of)] == [0]
    greys = {lines[made.index][0].get_color() for made in trials if made.status != "finished"}
    assert len(greys) == 1
    # Lightness falls with the objective throughout, so the map is one that can be read without its colours.
    colours = [
        lines[made.index][0].get_color() for made in sorted(done, key=lambda made: made.objective or 0.0)
    ]
    lightness = [np.dot(colour[:3], (0.2126, 0.7152, 0.0722)) for colour in colours]
    assert all(a >= b for a, b in itertools.pairwise(lightness))
    assert len(figure.axes) == 2
    assert METRIC in figure.axes[1].get_ylabel()


@every_search
def test_bars_last_from_start_to_end_and_a_step_follows_the_best(trials: list[Trial]) -> None:
    figure = figures.over_time(trials, METRIC)
    above, below = figure.axes
    assert below.get_xlabel().endswith("since the search began")
    second = {"seconds": 1, "minutes": 60, "hours": 3600}[below.get_xlabel().split()[0]]
    bars = {}
    for container in below.containers:
        assert isinstance(container, BarContainer)
        for bar in container.patches:
            bars[round(bar.get_y() + bar.get_height() / 2)] = bar
    assert set(bars) == {made.index for made in trials}
    for made in trials:
        bar = bars[made.index]
        np.testing.assert_allclose(bar.get_x() * second, made.started, atol=1e-9)
        np.testing.assert_allclose(bar.get_width() * second, len(made.reports), atol=1e-6)
    colours = {(made.status, bars[made.index].get_facecolor()) for made in trials}
    assert len(colours) == len({status for status, _ in colours}) == len({colour for _, colour in colours})
    done = sorted(
        (made for made in trials if made.status == "finished"), key=lambda made: made.reports[-1].time
    )
    if done:
        (step,) = [line for line in above.lines if line.get_drawstyle() == "steps-post"]
        expected = np.maximum.accumulate([np.mean(made.scores) for made in done])
        np.testing.assert_allclose(step.get_ydata()[:-1], expected)
        np.testing.assert_allclose(step.get_xdata()[:-1] * second, [made.reports[-1].time for made in done])
    ends = {line.get_marker(): line for line in below.lines}
    stopped = [made for made in trials if made.status == "stopped"]
    assert ("|" in ends) == bool(stopped)
    if stopped:
        expected = [(made.reports[-1].time if made.reports else made.started, made.index) for made in stopped]
        np.testing.assert_allclose(ends["|"].get_xydata() * (second, 1), expected, atol=1e-6)


def test_a_search_without_a_trial_has_a_report_and_figures(tmp_path: Path) -> None:
    text = report.write([], METRIC, "demo", tmp_path).read_text(encoding="utf-8")
    assert "Trials: none. Epochs: 0" in text
    assert len(pd.read_parquet(tmp_path / "trials.parquet")) == 0
    for draw in (figures.objective_by_setting, figures.parallel_coordinates, figures.over_time):
        assert METRIC in "".join(text.get_text() for text in draw([], METRIC).findobj(Text))


@pytest.mark.parametrize(("seconds", "unit"), [(100, "seconds"), (1000, "minutes"), (100_000, "hours")])
def test_time_has_a_suitable_unit(seconds: float, unit: str) -> None:
    made = trial(0, [0.5, 0.6])
    made.reports[-1] = Report(6, 1, 3, 0.6, 0.55, time=seconds)
    assert figures.over_time([made], METRIC).axes[1].get_xlabel() == f"{unit} since the search began"


def texts_of(figure: Any) -> list[Text]:
    """Every text that is seen, once the figure is laid out."""
    figure.canvas.draw()
    texts = [
        *figure.texts,
        figure._suptitle,
        *(text for legend in figure.legends for text in legend.get_texts()),
    ]
    for axes in figure.axes:
        texts += axes.texts
        for axis in (axes.xaxis, axes.yaxis) if axes.axison and axes.get_visible() else ():
            low, high = sorted(axis.get_view_interval())
            ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            texts += [axis.label, *(label for tick in ticks for label in (tick.label1, tick.label2))]
    return list({id(text): text for text in texts if text.get_visible() and text.get_text()}.values())


MANY_SETTINGS = [
    trial(
        index,
        [0.5 + index / 100, 0.6],
        {
            f"fit.a_setting_with_a_long_name_{number}": f"a value with a long name, {index % 4}"
            for number in range(6)
        }
        | {
            "fit.y": 0.0 if index % 3 else 1e-4,
            "fit.z": [1e-6, 1e-5, 1e-4, 1.0][index % 4],
            "fit.w": [0.0, 0.02, 0.04, 1.0][index % 4],
        },
    )
    for index in range(24)
]


@pytest.mark.parametrize(
    "draw", [figures.objective_by_setting, figures.parallel_coordinates, figures.over_time]
)
@pytest.mark.parametrize("trials", [*SEARCHES.values(), MANY_SETTINGS], ids=[*SEARCHES, "long names"])
def test_no_text_covers_another_or_leaves_the_figure(trials: list[Trial], draw: Any) -> None:
    figure = draw(trials, METRIC)
    texts = texts_of(figure)
    boxes = [(text.get_text(), text.get_rotation(), text.get_window_extent()) for text in texts]
    assert len(boxes) > 3
    for text, _, box in boxes:
        assert figure.bbox.x0 <= box.x0, text
        assert box.x1 <= figure.bbox.x1, text
        assert figure.bbox.y0 <= box.y0, text
        assert box.y1 <= figure.bbox.y1, text
    for one, other in itertools.combinations(boxes, 2):
        slanted = one[1] not in (0, 90) and other[1] not in (0, 90)  # their boxes are wider than they are
        assert slanted or not one[2].overlaps(other[2]), (one[0], other[0])


def test_nothing_heavy_is_imported_before_it_is_needed_and_pyplot_never() -> None:
    script = """
import sys
from rsrnet_platform.search import report
from rsrnet_platform.search.report import figures
from rsrnet_platform.search.trials import Report, Trial
assert not {"matplotlib", "pyarrow", "pandas", "torch", "ray", "mlflow"} & set(sys.modules)
made = Trial(0, {"fit.lr": 1e-4}, 2, 1, "finished", [Report(1, 0, 1, .5, .5, 1.), Report(2, 1, 1, .6, .55, 2.)])
for draw in (figures.objective_by_setting, figures.parallel_coordinates, figures.over_time):
    draw([made], "val/iou").canvas.draw()
assert "matplotlib" in sys.modules and "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
