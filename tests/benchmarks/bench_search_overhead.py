"""What a search adds to the trainings it consists of, in seconds per trial.

The same points are trained by a search, one trial at a time, and one after another in this process, by the same
code with a host that only collects the reports. Rounds alternate between the two.

    python tests/benchmarks/bench_search_overhead.py
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any
from unittest.mock import patch

from search_problem import Collector, make_images, print_table, run_search, search_job, train_here

from rsrnet_platform import cluster, spec
from rsrnet_platform.search.ledger import Ledger
from rsrnet_platform.search.trials import Journal, Trial
from rsrnet_platform.tracking import Tracker

# Loguniform in a setting that changes what is learnt, but not how long it takes.
SPACE = {"fit.lr": {"loguniform": [1e-3, 1e-2]}}

CALLS: dict[str, list[tuple[Any, str]]] = {
    "ledger": [(Ledger, "begin"), (Ledger, "hear"), (Ledger, "end")],
    "new run": [(Tracker, "of_attempt")],
    "metrics": [(Tracker, "log_epochs")],
    "end of run": [(Tracker, "set_tags"), (Tracker, "finish")],
    "journal": [(Journal, "keep")],
}
"""Methods of the process that runs the search, by what they are for; the first holds the others."""


class Stopwatch:
    """Writes down when the methods in ``CALLS`` begin and end."""

    def __init__(self) -> None:
        self.spans: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)

    @contextmanager
    def running(self) -> Iterator[None]:
        with ExitStack() as stack:
            for label, methods in CALLS.items():
                for owner, name in methods:
                    timed = self._timed(label, getattr(owner, name))
                    # A class method is bound already.
                    is_bound = isinstance(vars(owner)[name], classmethod)
                    stack.enter_context(patch.object(owner, name, staticmethod(timed) if is_bound else timed))
            yield

    def _timed(self, label: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                self.spans[label].append((start, time.perf_counter()))

        return timed

    def seconds(self, label: str, start: float, end: float) -> float:
        """Spent in the methods of a label between two times."""
        return sum(stop - begin for begin, stop in self.spans[label] if start <= begin and stop <= end)


@dataclass(frozen=True)
class Round:
    """What one search and the same trainings in this process took; seconds."""

    begin: float
    """From the start of Ray Tune to the beginning of the first trial."""

    first: float
    """The first trial, to its end in the ledger."""

    later: float
    """Every other trial, from the end of the one before to its own end: the mean."""

    end: float
    """From the end of the last trial to the end of Ray Tune."""

    journal: list[float]
    """The same as ``later`` by the journal: from the last report of the trial before to its own last one, each."""

    parts: dict[str, float]
    """Of ``later``, by label of ``CALLS``."""

    own: list[float]
    """Each training by itself, the first left out."""

    own_kept: list[float]
    """The same with a checkpoint after every epoch, as the actor of a trial writes them."""


def measure(job: spec.TuneJob, scratch: Path) -> Round:
    """Search, then train the same points again in this process."""
    from ray import tune

    from rsrnet_platform.search import ray_tune
    from rsrnet_platform.search.trial_actor import ActorHost

    watch, whole = Stopwatch(), Stopwatch()
    search = whole._timed("search", ray_tune.run)
    with watch.running(), patch.object(ray_tune, "run", search):
        trials: list[Trial] = run_search(job)
    assert {trial.status for trial in trials} == {"finished"}
    ((start, stop),) = whole.spans["search"]
    reports = trials[0].steps
    ledger = watch.spans["ledger"]  # of each trial: its beginning, its reports, its end
    assert len(ledger) == len(trials) * (reports + 2)
    begun, ends = ledger[0][0], [end for _, end in ledger[reports + 1 :: reports + 2]]
    later = len(trials) - 1
    own, own_kept = [], []
    for trial in trials[1:]:
        own.append(train_here(job, trial.point, Collector()))
        with patch.object(tune, "report", lambda metrics: None):
            own_kept.append(
                train_here(job, trial.point, ActorHost(scratch / job.name / str(trial.index), False))
            )
    return Round(
        begun - start,
        ends[0] - begun,
        (ends[-1] - ends[0]) / later,
        stop - ends[-1],
        [trial.ended - before.ended for before, trial in pairwise(trials)],
        {label: watch.seconds(label, ends[0], ends[-1]) / later for label in CALLS},
        own,
        own_kept,
    )


def show(rounds: list[Round], reports: int) -> None:
    """Print what was measured: means over the trials after the first, and over the rounds."""
    own = fmean(second for each in rounds for second in each.own)
    later = fmean(each.later for each in rounds)
    beyond = later - own
    parts = {label: fmean(each.parts[label] for each in rounds) for label in CALLS}
    kept = fmean(second for each in rounds for second in each.own_kept) - own
    named = sum(parts.values()) - parts["ledger"]
    paired = [long - short for each in rounds for long, short in zip(each.journal, each.own, strict=True)]
    lines = {
        "the training itself": own,
        "in the search": later,
        "beyond the training": beyond,
        f"  checkpoints ({reports})": kept,
        "  MLflow: new run": parts["new run"],
        f"  MLflow: metrics ({reports} times)": parts["metrics"],
        "  MLflow: end of run": parts["end of run"],
        f"  journal ({reports + 2} times)": parts["journal"],
        "  the rest of the ledger": parts["ledger"] - named,
        "  Ray Tune and its actor: the rest": beyond - kept - parts["ledger"],
        "beyond the training, by the journal: median": median(paired),
    }
    head = ["a trial after the first", "seconds", "of the training"]
    print_table(head, [[name, f"{value:.3f}", f"{value / own:.1%}"] for name, value in lines.items()])
    once = {
        "Ray Tune, until the first trial begins": fmean(each.begin for each in rounds),
        "the first trial, beyond the training": fmean(each.first for each in rounds) - own,
        "Ray Tune, after the last trial": fmean(each.end for each in rounds),
    }
    print()
    print_table(
        ["once a search", "seconds", "in trainings"],
        [[name, f"{value:.3f}", f"{value / own:.1f}"] for name, value in once.items()],
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=10, help="of a search, the first included")
    parser.add_argument("--folds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    search = {
        "algorithm": "random",
        "trials": args.trials - 1,  # and the paper's own point
        "folds": args.folds,
        "concurrent": 1,
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_images(folder / "images", train=24)
        jobs = [search_job(folder, f"round-{i}", SPACE, search, args.epochs) for i in range(args.rounds)]
        train_here(jobs[0], {"fit.lr": 1e-3}, Collector())  # the first training in a process is slower
        with cluster.connect(jobs[0].cluster):
            rounds = [measure(job, folder / "here") for job in jobs]
    print(
        f"{args.trials} trials of {args.folds} folds x {args.epochs} epochs, {args.rounds} rounds, ", end=""
    )
    print("one trial at a time, 1 CPU")
    print()
    show(rounds, args.folds * args.epochs)


if __name__ == "__main__":
    main()
