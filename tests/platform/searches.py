"""Searches in every state, made up: what their report and figures are tested with."""

from __future__ import annotations

import itertools
import random
from statistics import fmean
from typing import Any

import pytest

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
