"""The figures of the report of a search, for searches in every state."""

from __future__ import annotations

import itertools
import json
import re
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.text import Text

from rsrnet_platform.search.report import figures
from rsrnet_platform.search.trials import Report, Trial
from tests.platform.searches import METRIC, SEARCHES, every_search, trial


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
