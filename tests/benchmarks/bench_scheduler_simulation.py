"""What the schedulers would save in searches too large to train here: recorded learning curves, replayed.

A discrete-event simulation in virtual time. A thousand trials run on so many virtual workers; after every epoch
the schedulers of the platform are asked, as Ray Tune asks them. Each trial lies between two of the curves that
`bench_asha.py` recorded on real trainings, nearer to the first, so that no two are alike; the first trial is the
paper's own point. What is not in the recorded times, such as the work of a busier scheduler, is not in the result.

    python tests/benchmarks/bench_scheduler_simulation.py --figure schedulers.png
"""

from __future__ import annotations

import argparse
import heapq
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, TypeAlias

from learning_curves import Curve, draw_trials, read_curves
from search_problem import print_table
from table import Row, compare, markdown_rows

from rsrnet_platform import drawing
from rsrnet_platform.search.config import SearchConfig
from rsrnet_platform.search.schedulers import INDEX, OBJECTIVE, STEP, StandIn, make

CURVES = Path(__file__).with_name("learning_curves.parquet")

LOOKS = {"none": (drawing.DARK, "o"), "asha": (drawing.BLUE, "s"), "median": (drawing.ORANGE, "^")}
"""Colour and marker of each scheduler."""

PANELS = (("to_best", "seconds to the trial chosen", 1.0), ("busy", "workers' time spent training, %", 100.0))
"""Of the figure: what of an outcome, its label, its unit."""


@dataclass(frozen=True)
class Outcome:
    """A simulated search; seconds are virtual."""

    seconds: float
    """From the first trial's beginning to the last one's end."""

    to_best: float
    """To the end of the trial that the search chooses: the best of those trained to the end, the first of equals."""

    busy: float
    """Share of the workers' time in which they trained."""

    epochs: int
    objective: float
    """Of the chosen trial."""

    true_best: float
    """The highest objective, had every trial been trained to the end."""


def simulate(trials: Sequence[Curve], search: SearchConfig, workers: int) -> Outcome:
    """Run trials on workers that are always busy as long as there are trials to begin."""
    scheduler: Any = make(search, max(len(trial.objectives) for trial in trials))
    stand_ins = [StandIn(str(index), {INDEX: index}) for index in range(len(trials))]
    waiting = deque(range(len(trials)))
    events: list[tuple[float, int, int]] = []  # when which trial reports which step

    def begin(now: float) -> None:
        if waiting:
            index = waiting.popleft()
            scheduler.on_trial_add(None, stand_ins[index])
            heapq.heappush(events, (now + trials[index].seconds[0], index, 1))

    for _ in range(workers):
        begin(0.0)
    now, busy, epochs, best, to_best = 0.0, 0.0, 0, 0.0, 0.0
    while events:
        now, index, step = heapq.heappop(events)
        trial = trials[index]
        epochs += 1
        busy += trial.seconds[step - 1]
        result = {STEP: step, OBJECTIVE: trial.objectives[step - 1]}
        decision = scheduler.on_trial_result(None, stand_ins[index], result)
        if step == len(trial.objectives):
            scheduler.on_trial_complete(None, stand_ins[index], result)
            if trial.objectives[-1] > best:
                best, to_best = trial.objectives[-1], now
        elif decision == scheduler.CONTINUE:
            heapq.heappush(events, (now + trial.seconds[step], index, step + 1))
            continue
        begin(now)
    true_best = max(trial.objectives[-1] for trial in trials)
    return Outcome(now, to_best, busy / (workers * now), epochs, best, true_best)


Found: TypeAlias = Mapping[tuple[int, str], Sequence[Outcome]]
"""The outcomes for so many workers and a scheduler, in the same order of searches."""


def average(outcomes: Sequence[Outcome], name: str) -> float:
    return fmean(getattr(outcome, name) for outcome in outcomes)


def show(found: Found) -> None:
    """Print means over the searches; ratios are to the search that gives up on no trial, with as many workers."""
    rows = []
    for (workers, scheduler), outcomes in found.items():
        plain = found[workers, "none"]
        cells = [scheduler]
        for name in ("to_best", "seconds", "epochs"):
            value = average(outcomes, name)
            cells += [f"{value:.0f}", f"{value / average(plain, name):.2f}"]
        behind = [each.true_best - each.objective for each in outcomes]
        missed = sum(each > 0 for each in behind)
        cells += [f"{average(outcomes, 'busy'):.1%}", f"{average(outcomes, 'objective'):.4f}"]
        rows.append([str(workers), *cells, f"{fmean(behind):.4f}", f"{missed} of {len(outcomes)}"])
    head = "workers  scheduler  s to choice  ratio  s in all  ratio  epochs  ratio  busy  objective  behind  missed"
    print_table(head.split("  "), rows)


def figure(found: Found, trials: int, path: Path) -> None:
    """Draw the time to the best trial and the utilisation of the workers, by scheduler and number of workers."""
    sizes = list(dict.fromkeys(workers for workers, _ in found))
    searches = len(next(iter(found.values())))
    note = f"{trials} trials, mean and range of {searches} searches, virtual time"
    picture = drawing.new(7.5, 3.6, "Recorded learning curves, replayed under each scheduler", note)
    handles: dict[str, Any] = {}
    for axes, (name, label, unit) in zip(picture.subplots(1, 2), PANELS, strict=True):
        drawing.tidy(axes)
        for place, (scheduler, (colour, marker)) in enumerate(LOOKS.items()):
            values = [[unit * getattr(each, name) for each in found[workers, scheduler]] for workers in sizes]
            means = list(map(fmean, values))
            below = [mean - min(each) for mean, each in zip(means, values, strict=True)]
            above = [max(each) - mean for mean, each in zip(means, values, strict=True)]
            positions = [index + 0.2 * (place - 1) for index in range(len(sizes))]
            handles[scheduler] = axes.errorbar(
                positions, means, [below, above], fmt=marker, color=colour, capsize=3
            )
        axes.set_xticks(range(len(sizes)), map(str, sizes))
        axes.set_xlabel("workers", fontsize=drawing.TEXT)
        axes.set_ylabel(label, fontsize=drawing.TEXT)
        if name == "to_best":
            axes.set_yscale("log")
        else:
            axes.set_ylim(0, 105)
    drawing.legend(picture, handles, columns=len(handles))
    drawing.save(picture, path)


def searches(
    curves: Sequence[Curve],
    trials: int,
    workers: Sequence[int],
    number: int,
    reduction_factor: int,
    grace_epochs: int,
) -> Found:
    """The same draws of trials under each scheduler with so many workers."""
    draws = [draw_trials(curves, trials, seed) for seed in range(number)]
    found = {}
    for size in workers:
        for scheduler in LOOKS:
            search = SearchConfig(
                scheduler=scheduler,  # type: ignore[arg-type]
                reduction_factor=reduction_factor,
                grace_epochs=grace_epochs,
            )
            found[size, scheduler] = [simulate(drawn, search, size) for drawn in draws]
    return found


def rows(found: Found, conditions: str) -> list[Row]:
    """The time of the search, against the one that gives up on no trial with as many workers."""
    made = []
    for (workers, scheduler), outcomes in found.items():
        if scheduler == "none":
            continue
        plain = found[workers, "none"]
        lost = fmean(one.objective - other.objective for one, other in zip(plain, outcomes, strict=True))
        made.append(
            compare(
                f"simulated search, {scheduler}, {workers} worker{'s' if workers > 1 else ''}: time",
                f"no scheduler, whose choice is {lost:.3f} IoU better on average"
                if lost
                else "no scheduler, same choice",
                [each.seconds for each in plain],
                [each.seconds for each in outcomes],
                conditions=conditions,
                at_most=True,
            )
        )
    return made


def words(trials: int, reduction_factor: int, grace_epochs: int) -> str:
    grace = f"{grace_epochs} epoch{'s' if grace_epochs > 1 else ''} of grace"
    return f"{trials:,} trials between recorded curves, virtual time, {grace}, reduction factor {reduction_factor}"


def measure(
    trials: int = 1000,
    workers: Sequence[int] = (1, 8, 64),
    number: int = 3,
    reduction_factor: int = 3,
    grace_epochs: int = 1,
    path: Path = CURVES,
) -> list[Row]:
    """A row for each scheduler and number of workers.

    Args:
        trials: of a search.
        workers: at once.
        number: of searches, each with another draw of the trials.
        reduction_factor: of ASHA.
        grace_epochs: that every trial gets.
        path: the recorded curves.
    """
    found = searches(read_curves(path), trials, workers, number, reduction_factor, grace_epochs)
    return rows(found, words(trials, reduction_factor, grace_epochs))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--curves", type=Path, default=CURVES)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--searches", type=int, default=3, help="draws of the trials")
    parser.add_argument("--reduction-factor", type=int, default=3)
    parser.add_argument("--grace-epochs", type=int, default=1)
    parser.add_argument("--figure", type=Path, help="write a figure (PNG) to this file")
    args = parser.parse_args()
    found = searches(
        read_curves(args.curves),
        args.trials,
        args.workers,
        args.searches,
        args.reduction_factor,
        args.grace_epochs,
    )
    print(markdown_rows(rows(found, words(args.trials, args.reduction_factor, args.grace_epochs))))
    print()
    show(found)
    if args.figure:
        figure(found, args.trials, args.figure)


if __name__ == "__main__":
    main()
