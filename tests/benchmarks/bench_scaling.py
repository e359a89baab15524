"""Images a second of two DDP workers with a thread each, beside one worker with one thread; and what agreeing costs.

The batch is that of all workers together, as in every job: two workers take the same steps as one, in half the time
at best. Under torchrun, so that nothing but the engine is measured; rounds alternate, the first epoch does not count.

    python tests/benchmarks/bench_scaling.py
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from side_by_side import ROUNDS, Case, main, pace
from table import Row, summary

PAPER = {"size": 224, "depth": 34, "width": 64, "iterations": 12, "batch_size": 4, "images": 12, "epochs": 2}
"""The paper's network and images; a step takes seconds, so that a few tell its pace."""


def measure(rounds: int = ROUNDS) -> list[Row]:
    """Two workers beside one, with the paper's network and with a small one; and for the small one, why."""
    large, small, bounds, shares = [], [], [], []
    with TemporaryDirectory() as paper_folder, TemporaryDirectory() as folder:
        paper = Case(Path(paper_folder), **PAPER)
        case = Case(Path(folder), batch_size=16)
        half = replace(case, batch_size=case.batch_size // 2)
        for _ in range(rounds):
            large.append(pace(paper.plain(2)["history"]) / pace(paper.plain(1)["history"]))
            one, two, alone = case.plain(1), case.plain(2), half.plain(1)
            small.append(pace(two["history"]) / pace(one["history"]))
            bounds.append(2 * pace(alone["history"]) / pace(one["history"]))
            step = case.batch_size / pace(two["history"])
            shares.append(100 * two["agreement"] / step)
    return [
        summary(
            "images a second, 2 DDP workers with one thread each: the paper's network",
            "1 worker with one thread",
            large,
            target=1.8,
            conditions=paper.conditions,
        ),
        summary(
            "images a second, 2 DDP workers with one thread each: a small network",
            "1 worker with one thread",
            small,
            conditions=case.conditions,
        ),
        summary(
            "twice that of 1 worker with half of the batch: what 2 would reach if exchanging gradients cost nothing",
            "1 worker with one thread",
            bounds,
            conditions=case.conditions,
        ),
        summary(
            "agreeing whether a step counts, 2 workers that have nothing else to do",
            "the step",
            shares,
            target=1.0,
            at_most=True,
            unit="%",
            conditions=case.conditions,
        ),
    ]


if __name__ == "__main__":
    main(__doc__, measure)
