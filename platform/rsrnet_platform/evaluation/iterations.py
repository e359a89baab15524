"""What `kind: iterations` leaves in its folder and in MLflow: curves over K, early exits, strips of masks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from rsrnet import visualize
from rsrnet.data.naming import Composite
from rsrnet.evaluation.iterations import CHANGES, COLUMNS, PHOTOGRAPH, Exit
from rsrnet.evaluation.measure import Row
from rsrnet.evaluation.published import Scores
from rsrnet.evaluation.uncertainty import standard_error
from rsrnet_platform.evaluation.report import IMAGES, REPORT, SUMMARY, image_table, pictures_in
from rsrnet_platform.evaluation.tables import METRICS, texts, with_error
from rsrnet_platform.files import whole
from rsrnet_platform.pictures import Pictures, pixels, planes
from rsrnet_platform.sheet import Sheet

if TYPE_CHECKING:
    from rsrnet.model.network import RSRNet

FIGURE, STRIPS, CURVES = "iterations.png", "strips.png", "iterations.csv"

SHOWN = (1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 32, 48, 64)
"""Iterations in tables and strips, besides the training's and the last."""

QUANTILES = (0.1, 0.5, 0.9)
"""Of the change of an iteration over the images."""

NEGLIGIBLE = 0.005
"""A loss of F1 that counts as none: the paper's own means disagree by as much."""


@dataclass(frozen=True)
class Outcome:
    """What was found."""

    name: str
    """Of the job."""

    model: str

    size: int
    """Side of the network's input, in pixels."""

    trained: int
    """K of the training."""

    rows: Sequence[Row]
    """Of the images that could be scored."""

    lists: Mapping[str, NDArray[np.float64]]
    """Their columns, see :func:`rsrnet.evaluation.iterations.lists_of`."""

    exits: Sequence[Exit]
    times: Sequence[Mapping[str, Any]]
    """Of the full run and of each exit, see :class:`rsrnet.evaluation.iterations.Stopwatch`; or none."""

    @property
    def iterations(self) -> int:
        """The largest K."""
        return self.lists[CHANGES].shape[1]

    def mean(self, column: str) -> NDArray[np.float64]:
        """Mean of a column over the images, (K,)."""
        return self.lists[column].mean(axis=0)

    def scores(self, mask: str, k: int) -> Scores:
        """Mean AP, F1 and IoU of a mask after iteration k."""
        return Scores(*(float(self.mean(f"{mask}.{metric}")[k - 1]) for metric in ("ap", "f1", "iou")))

    def change_quantiles(self) -> NDArray[np.float64]:
        """The quantiles of the change at each iteration, (3, K)."""
        return np.quantile(self.lists[CHANGES], QUANTILES, axis=0)

    def f1_of(self, row: Row) -> float:
        """F1 of an image's M_fnl after the training's K iterations."""
        return row["m_fnl.f1"][self.trained - 1]


def write(outcome: Outcome, every_row: Sequence[Row], folder: Path) -> None:
    """Write tables and the figure; every file appears whole or not at all.

    ``images.parquet`` has a row for each image, with a list over the iterations in each column of scores;
    ``iterations.csv`` the means.
    """
    from rsrnet_platform.evaluation.iterations_figure import draw

    folder.mkdir(parents=True, exist_ok=True)
    lists = [(name, pa.list_(pa.float64())) for name in (*COLUMNS, CHANGES)]
    table = image_table(every_row, lists)
    whole(folder / IMAGES, lambda path: pq.write_table(table, path))
    means = pa.Table.from_pylist([{"iterations": k, **values} for k, values in _curves(outcome)])
    whole(folder / CURVES, lambda path: pc.write_csv(means, path))
    whole(folder / SUMMARY, lambda path: path.write_text(json.dumps(_summary(outcome), indent=1)))
    draw(outcome, folder / FIGURE)
    parts = [f"# Iterations {outcome.name}", f"Model: `{outcome.model}`.", *sentences(outcome)]
    parts += [sheet.markdown() for sheet in sheets(outcome)]
    parts += [f"Every image: [{IMAGES}]({IMAGES}).", *pictures_in(folder, FIGURE)]
    whole(folder / REPORT, lambda path: path.write_text("\n\n".join(parts) + "\n", encoding="utf-8"))


def metrics(outcome: Outcome) -> list[tuple[int, dict[str, float]]]:
    """What MLflow shows: the curves with K as the step, and the early exits at step 0."""
    found = [
        (k, {name.replace(".", "/"): value for name, value in row.items()}) for k, row in _curves(outcome)
    ]
    exits: dict[str, float] = {}
    for made, time in zip(outcome.exits, outcome.times[1:], strict=True):
        key = f"early_exit/{made.tolerance:g}"
        exits |= {f"{key}/{name.replace('.', '/')}": value for name, value in made.scores.items()}
        exits |= {f"{key}/iterations": made.iterations, f"{key}/time_saved": time["saved"]}
    return [*found, (0, exits)] if exits else found


def sheets(outcome: Outcome) -> list[Sheet]:
    """The scores over K, and the early exits."""
    tables = [_over_k(outcome)]
    return [*tables, _exits(outcome)] if outcome.exits else tables


def sentences(outcome: Outcome) -> list[str]:
    """What the numbers say: the best K, and what early exit spares at what price."""
    f1, trained = outcome.lists["m_fnl.f1"], outcome.trained
    now = f1[:, trained - 1].mean()
    best = int(f1.mean(axis=0).argmax()) + 1
    gain = f1[:, best - 1] - f1[:, trained - 1]
    if gain.mean() < NEGLIGIBLE:
        said = [f"No K up to {outcome.iterations} beats the training's {trained} by half a point of F1."]
    else:
        error = float(standard_error(gain, outcome.lists[PHOTOGRAPH]))
        clear = "more" if gain.mean() > 2 * error else "not more"
        said = [
            f"M_fnl is best at K = {best}: F1 {with_error(gain.mean(), error)} against K = {trained} of the training, "
            f"{clear} than twice its standard error."
        ]
    if not outcome.exits:
        return said
    pairs = list(zip(outcome.exits, outcome.times[1:], strict=True))
    cheap = [pair for pair in pairs if now - pair[0].scores["m_fnl.f1"] < NEGLIGIBLE]
    if not cheap:
        return [*said, "Every early exit costs more than half a point of F1."]
    made, time = max(cheap, key=lambda pair: pair[1]["saved"])
    change = made.scores["m_fnl.f1"] - now
    return [
        *said,
        f"Early exit at a tolerance of {made.tolerance:g}: {made.iterations:.1f} of {outcome.trained} iterations an "
        f"image, {_percent(time['saved'])} of the time saved, F1 of M_fnl {change:+.4f}.",
    ]


def draw_strips(
    outcome: Outcome,
    model: RSRNet,
    root: str,
    composites: Sequence[Composite],
    rows: Sequence[Row],
    folder: Path,
) -> None:
    """Draw M_rsr after some of the iterations, and M_fnl after the training's.

    Args:
        outcome: what was found.
        model: makes the masks, on the processor.
        root: the dataset.
        composites: the images.
        rows: what was found about them.
        folder: where to.
    """
    shown = shown_iterations(outcome)
    pictures = Pictures(root, composites, outcome.size)
    with torch.inference_mode():
        masks = model(pictures.images, outcome.iterations).masks.numpy()
        final = planes(model(pictures.images, outcome.trained).m_fnl)
    inputs, truth = pixels(pictures.images), planes(pictures.truth)
    empty = np.zeros_like(truth[0])
    panels = [
        [visualize.overlay(inputs[i], empty, truth[i]), *(masks[i, k - 1] for k in shown), final[i]]
        for i in range(len(rows))
    ]
    titles = ["input, truth", *(f"{k} (trained)" if k == outcome.trained else str(k) for k in shown), "M_fnl"]
    labels = [f"F1 {outcome.f1_of(row):.2f}" for row in rows]
    picture = visualize.comparison(panels, titles, visualize.STRIP_PANEL, labels)
    whole(folder / STRIPS, partial(picture.save, format="PNG"))


def shown_iterations(outcome: Outcome) -> list[int]:
    """Some of the K, the training's and the last among them."""
    last = outcome.iterations
    return sorted({k for k in SHOWN if k <= last} | {outcome.trained, last})


def _curves(outcome: Outcome) -> Iterator[tuple[int, dict[str, float]]]:
    """Each K with the means of the scores, and with the mean and the quantiles of the change."""
    means = {column: outcome.mean(column) for column in (*COLUMNS, CHANGES)}
    low, middle, high = outcome.change_quantiles()
    spread = {"change.p10": low, "change.median": middle, "change.p90": high}
    curves = {name.replace(CHANGES, "change.mean"): values for name, values in means.items()} | spread
    for k in range(1, outcome.iterations + 1):
        yield k, {name: float(values[k - 1]) for name, values in curves.items()}


def _over_k(outcome: Outcome) -> Sheet:
    rows = []
    middle = outcome.change_quantiles()[1]
    for k in shown_iterations(outcome):
        others = [f"{outcome.scores(mask, k).f1:.4f}" for mask in ("m_rsr", "m_dec")]
        trained = " (trained)" if k == outcome.trained else ""
        rows.append([f"{k}{trained}", *others, *texts(outcome.scores("m_fnl", k)), f"{middle[k - 1]:.3f}"])
    heads = ["M_rsr: F1", "M_dec: F1", *(f"M_fnl: {metric}" for metric in METRICS)]
    title = f"After K iterations, published protocol, {outcome.size} x {outcome.size}, {len(outcome.rows):,} images"
    return Sheet(title, ["K", *heads, "change"], rows)


def _exits(outcome: Outcome) -> Sheet:
    full, *others = outcome.times
    before = outcome.scores("m_fnl", outcome.trained)
    rows = [["none", f"{outcome.trained}", *texts(before), "", f"{1000 * full['seconds']:.1f}", ""]]
    for made, time in zip(outcome.exits, others, strict=True):
        scores = Scores(*(made.scores[f"m_fnl.{metric}"] for metric in ("ap", "f1", "iou")))
        change = with_error(scores.f1 - before.f1, made.errors["m_fnl.f1"])
        spent = f"{1000 * time['seconds']:.1f}"
        rows.append(
            [
                f"{made.tolerance:g}",
                f"{made.iterations:.1f}",
                *texts(scores),
                change,
                spent,
                _percent(time["saved"]),
            ]
        )
    columns = ["tolerance", "iterations", *METRICS, "change of F1", "ms an image", "time saved"]
    return Sheet(f"Early exit: M_fnl, at most {outcome.trained} iterations", columns, rows)


def _summary(outcome: Outcome) -> dict[str, object]:
    return {
        "name": outcome.name,
        "model": outcome.model,
        "images": len(outcome.rows),
        "trained_iterations": outcome.trained,
        "iterations": [{"k": k, **values} for k, values in _curves(outcome)],
        "early_exit": [vars(made) for made in outcome.exits],
        "times": list(outcome.times),
        "in_words": sentences(outcome),
    }


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
