"""Epochs that successive halving (ASHA) spends, beside the full grid of the same points on the same folds.

Both searches train for real, a few minutes together. ``--record`` keeps every learning curve of the full grid.

    python tests/benchmarks/bench_asha.py --record tests/benchmarks/learning_curves.parquet
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from learning_curves import write_curves
from search_problem import make_images, print_table, run_search, search_job

from rsrnet_platform import cluster
from rsrnet_platform.search.report.outcome import length
from rsrnet_platform.search.trials import Trial, best

SPACE = {
    "model.iterations": {"grid": [1, 2, 4]},
    "model.scales": {"grid": [[0], [0, 1], [0, 1, 2]]},
    "loss.lambda": {"grid": [0.5, 0.8]},
    "fit.lr": {"grid": [3e-4, 1e-3, 3e-3, 1e-2]},
}


def chosen(trials: list[Trial]) -> Trial:
    """The best trial of a search, which has one."""
    trial = best(trials)
    assert trial is not None
    return trial


def deviation(some: list[Trial], others: list[Trial]) -> float:
    """Largest difference between the objectives of two searches, same trial and step: 0 if trials repeat exactly."""
    return max(
        abs(one.objective - other.objective)
        for trial, twin in zip(some, others, strict=True)
        for one, other in zip(trial.reports, twin.reports, strict=False)
    )


def show(full: list[Trial], asha: list[Trial]) -> None:
    """Print what each search spent, what it chose, and how good that is."""
    assert [trial.point for trial in full] == [trial.point for trial in asha]
    ours, theirs = chosen(asha), chosen(full)
    # Judged by the full grid: there every trial was trained to the end.
    value = {trial.index: trial.objective or 0.0 for trial in full}
    better = sum(each > value[ours.index] for each in value.values())
    epochs = [sum(trial.step for trial in trials) for trials in (full, asha)]
    seconds = [length(trials) for trials in (full, asha)]
    finished = [sum(trial.status == "finished" for trial in trials) for trials in (full, asha)]
    rows = [
        ("epochs", *map(str, epochs), f"{epochs[1] / epochs[0]:.2f}"),
        ("seconds", *(f"{each:.0f}" for each in seconds), f"{seconds[1] / seconds[0]:.2f}"),
        ("trials to the end", *map(str, finished), f"{finished[1] / finished[0]:.2f}"),
        ("objective", *(f"{trial.objective:.4f}" for trial in (theirs, ours)), ""),
    ]
    print_table(["", "full grid", "asha", "ratio"], rows)
    ranked = sorted(value.values())
    print()
    print(f"objectives of the full grid: worst {ranked[0]:.3f}, median {ranked[len(ranked) // 2]:.3f}")
    print(f"chosen by the full grid: trial {theirs.index}, {json.dumps(dict(theirs.point))}")
    print(f"chosen by asha:          trial {ours.index}, {json.dumps(dict(ours.point))}")
    loss = value[theirs.index] - value[ours.index]
    print(f"difference in the objective: {loss:.4f}; rank of asha's choice: {better + 1} of {len(full)}")
    print(f"the same trials in both searches differ by {deviation(full, asha):.1e} at most")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4, help="of each fold")
    parser.add_argument("--images", type=int, default=36, help="of the training list")
    parser.add_argument("--reduction-factor", type=int, default=3)
    parser.add_argument("--grace-epochs", type=int, default=1)
    parser.add_argument("--concurrent", type=int, help="trials at once; default: as many as there are CPUs")
    parser.add_argument("--record", type=Path, help="write the learning curves of the full grid to this file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_images(folder / "images", args.images)
        jobs = [
            search_job(
                folder,
                scheduler,
                SPACE,
                {
                    "scheduler": scheduler,
                    "folds": args.folds,
                    "reduction_factor": args.reduction_factor,
                    "grace_epochs": args.grace_epochs,
                    "concurrent": args.concurrent,
                },
                args.epochs,
            )
            for scheduler in ("none", "asha")
        ]
        with cluster.connect(jobs[0].cluster):
            full, asha = map(run_search, jobs)
    if args.record:
        write_curves(full, args.record)
    what = f"{len(full)} points, {args.folds} folds x {args.epochs} epochs, {args.images} images"
    print(f"{what}; asha: reduction factor {args.reduction_factor}, grace epochs {args.grace_epochs}")
    print()
    show(full, asha)


if __name__ == "__main__":
    main()
