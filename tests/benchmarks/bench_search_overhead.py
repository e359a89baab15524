"""What a search adds to the trainings it consists of, in seconds per trial.

The same points are trained by a search, one trial at a time, and one after another in this process, by the same
code with a host that only collects the reports. Rounds alternate between the two.

    python tests/benchmarks/bench_search_overhead.py
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias
from unittest.mock import patch

from search_problem import Collector, Stopwatch, make_images, print_table, run_search, search_job, train_here
from table import Row, markdown_rows, summary

from rsrnet.agreement import NoNotice
from rsrnet_platform import cluster, spec
from rsrnet_platform.search.ledger import Ledger
from rsrnet_platform.search.trials import Journal
from rsrnet_platform.tracking import Tracker

# The rate changes what a network learns, not how long it takes.
SPACE = {"fit.lr": {"loguniform": [1e-3, 1e-2]}}

CALLS: dict[str, list[tuple[Any, str]]] = {
    "begin": [(Ledger, "begin")],
    "hear": [(Ledger, "hear")],
    "end": [(Ledger, "end")],
    "new run": [(Tracker, "child")],
    "metrics": [(Tracker, "log_epochs")],
    "end of run": [(Tracker, "set_tags"), (Tracker, "finish")],
    "journal": [(Journal, "keep")],
}
"""Methods of the process that runs the search, by what they are for; the first three hold the others. Those of MLflow
only put into an outbox what its thread sends: the search does not wait for the store."""


@dataclass(frozen=True)
class Later:
    """What a trial after the first took in a search, and its training in this process; seconds."""

    search: float
    """From the end of the trial before, in the ledger, to its own."""

    journal: float
    """The same by the times in the journal."""

    parts: Mapping[str, float]
    """Of ``search``, by label of ``CALLS``."""

    steps: float
    """Of ``search``: the training's own clock around its steps."""

    own: float
    """The training by itself."""

    own_steps: float
    """The training's own clock around its steps, by itself."""

    own_kept: float
    """The training by itself with a checkpoint after every epoch, as the actor of a trial writes them."""

    @property
    def ledger(self) -> float:
        """Of ``search``: all that the process that runs the search does at the calls of Ray Tune."""
        return sum(self.parts[label] for label in ("begin", "hear", "end"))


Round: TypeAlias = tuple[list[Later], dict[str, float]]
"""The trials of a search after the first, and what the search cost once."""


def search_and_repeat(job: spec.TuneJob, scratch: Path) -> Round:
    """Search, then train the same points again in this process; the trials, and what a search costs once."""
    from ray import tune

    from rsrnet_platform.search import ray_tune
    from rsrnet_platform.search.trial_actor import ActorHost

    hear, heard = Ledger.hear, defaultdict[int, float](float)

    def listen(ledger: Ledger, index: int, result: Mapping[str, Any]) -> None:
        heard[index] += result["metrics"]["time/epoch_seconds"]
        hear(ledger, index, result)

    watch = Stopwatch()
    timed_run = watch.timed("search", ray_tune.run)
    with patch.object(Ledger, "hear", listen), watch.on(CALLS), patch.object(ray_tune, "run", timed_run):
        trials = run_search(job)
    assert {trial.status for trial in trials} == {"finished"}
    begun, ends = watch.spans["begin"][0][0], [end for _, end in watch.spans["end"]]
    later = []
    for (before, trial), (start, end) in zip(pairwise(trials), pairwise(ends), strict=True):
        collector = Collector()
        own = train_here(job, trial.point, collector)
        own_steps = sum(report["metrics"]["time/epoch_seconds"] for report in collector.reports)
        with patch.object(tune, "report", lambda metrics: None):
            kept = train_here(
                job, trial.point, ActorHost(scratch / job.name / str(trial.index), False, NoNotice())
            )
        parts = {label: watch.seconds(label, start, end) for label in CALLS}
        journal = trial.ended - before.ended
        later.append(Later(end - start, journal, parts, heard[trial.index], own, own_steps, kept))
    ((start, stop),) = watch.spans["search"]
    once = {
        "Ray Tune, until the first trial begins": begun - start,
        "the first trial, beyond a later one": ends[0] - begun - median(each.search for each in later),
        "Ray Tune, after the last trial": stop - ends[-1],
    }
    return later, once


def show(trials: list[Later], onces: list[dict[str, float]], reports: int) -> None:
    """Print medians over the trials after the first, and over the rounds."""

    def middle(value: Callable[[Later], float]) -> float:
        return median(map(value, trials))

    own = middle(lambda each: each.own)
    beyond = middle(lambda each: each.search - each.own)
    parts = {label: median(each.parts[label] for each in trials) for label in CALLS}
    ledger = middle(lambda each: each.ledger)
    kept = middle(lambda each: each.own_kept - each.own)
    slower = middle(lambda each: (each.steps / each.own_steps - 1) * each.own)
    lines = {
        "the training by itself": own,
        "in the search": middle(lambda each: each.search),
        "beyond the training": beyond,
        "the same by the journal": middle(lambda each: each.journal - each.own),
        "  the training is slower": slower,
        f"  checkpoints ({reports})": kept,
        "  MLflow: new run": parts["new run"],
        f"  MLflow: metrics ({reports} times)": parts["metrics"],
        "  MLflow: end of run": parts["end of run"],
        "  journal": parts["journal"],
        "  the rest of the ledger": middle(lambda each: 2 * each.ledger - sum(each.parts.values())),
        "  Ray Tune and its actor: the rest": beyond - slower - kept - ledger,
    }
    print_table(
        ["a trial after the first", "seconds", "of the training"],
        [[name, f"{value:.3f}", f"{value / own:.1%}"] for name, value in lines.items()],
    )
    print()
    once = {name: median(each[name] for each in onces) for name in onces[0]}
    print_table(
        ["once a search", "seconds", "in trainings"],
        [[name, f"{value:.3f}", f"{value / own:.1f}"] for name, value in once.items()],
    )


def found(trials: int, folds: int, epochs: int, rounds: int) -> list[Round]:
    """Every round's figures."""
    # The paper's own point is a trial besides those that are drawn.
    search = {"algorithm": "random", "trials": trials - 1, "folds": folds, "concurrent": 1}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_images(folder / "images", train=24)
        jobs = [search_job(folder, f"round-{i}", SPACE, search, epochs) for i in range(rounds)]
        train_here(jobs[0], {"fit.lr": 1e-3}, Collector())  # the first training in a process is slower
        with cluster.connect(jobs[0].cluster):
            return [search_and_repeat(job, folder / "here") for job in jobs]


def rows(measured: list[Round], conditions: str) -> list[Row]:
    """What a trial after the first costs beyond its own training: of it, and in seconds."""
    shares = [median(100 * (each.search - each.own) / each.own for each in later) for later, _ in measured]
    seconds = [median(each.search - each.own for each in later) for later, _ in measured]
    own = median(each.own for later, _ in measured for each in later)
    what, against = "search, a trial after the first: beyond its own training", "its training by itself"
    return [
        summary(what, f"{against}, {own:.3g} s", shares, unit="%", conditions=conditions, at_most=True),
        summary(what, "-", seconds, unit="s", conditions=conditions, at_most=True),
    ]


def words(trials: int, folds: int, epochs: int) -> str:
    return f"{trials} trials of {folds} folds × {epochs} epochs, one at a time on 1 CPU, a tiny network"


def measure(trials: int = 10, folds: int = 2, epochs: int = 3, rounds: int = 3) -> list[Row]:
    """Two rows; a value of a round is the median of its trials.

    Args:
        trials: of a search, the first included.
        folds: of a trial.
        epochs: of a fold.
        rounds: searches, each followed by the same trainings without.
    """
    return rows(found(trials, folds, epochs, rounds), words(trials, folds, epochs))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=10, help="of a search, the first included")
    parser.add_argument("--folds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    measured = found(args.trials, args.folds, args.epochs, args.rounds)
    print(markdown_rows(rows(measured, words(args.trials, args.folds, args.epochs))))
    print()
    show(
        [trial for later, _ in measured for trial in later],
        [once for _, once in measured],
        args.folds * args.epochs,
    )


if __name__ == "__main__":
    main()
