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


def measure(rounds: int = ROUNDS) -> list[Row]:
    """Three rows."""
    ratios, bounds, shares = [], [], []
    with TemporaryDirectory() as folder:
        case = Case(Path(folder), batch_size=16)
        half = replace(case, batch_size=case.batch_size // 2)
        for _ in range(rounds):
            one, two, alone = case.plain(1), case.plain(2), half.plain(1)
            ratios.append(pace(two["history"]) / pace(one["history"]))
            bounds.append(2 * pace(alone["history"]) / pace(one["history"]))
            step = case.batch_size / pace(two["history"])
            shares.append(100 * two["agreement"] / step)
    return [
        summary(
            "images a second, 2 DDP workers with one thread each",
            "1 worker with one thread",
            ratios,
            target=1.8,
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
    main(__file__, __doc__, measure)
