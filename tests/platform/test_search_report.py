"""The report of a search: the comparison, the tables, the words; for searches in every state."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
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
from matplotlib.text import Text
from PIL import Image
from rich.console import Console

from rsrnet_platform.search import report
from rsrnet_platform.search.report import figures
from rsrnet_platform.search.trials import Trial
from tests.platform.searches import EPOCHS, METRIC, PAPER, SEARCHES, cut, every_search, trial

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


def test_a_search_without_a_trial_has_a_report_and_figures(tmp_path: Path) -> None:
    text = report.write([], METRIC, "demo", tmp_path).read_text(encoding="utf-8")
    assert "Trials: none. Epochs: 0" in text
    assert len(pd.read_parquet(tmp_path / "trials.parquet")) == 0
    for draw in (figures.objective_by_setting, figures.parallel_coordinates, figures.over_time):
        assert METRIC in "".join(text.get_text() for text in draw([], METRIC).findobj(Text))


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
