"""Epochs that successive halving (ASHA) spends, beside the full grid of the same points on the same folds.

ASHA with the default grace, one fold, and with one epoch. All searches train for real, a few minutes together.
``--record`` keeps every learning curve of the full grid.

    python tests/benchmarks/bench_asha.py --record tests/benchmarks/learning_curves.parquet
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from learning_curves import write_curves
from search_problem import make_images, print_table, run_search, search_job
from table import Row, markdown_rows, summary

from rsrnet_platform import cluster
from rsrnet_platform.search.report.outcome import length
from rsrnet_platform.search.trials import Trial, best

SPACE = {
    "model.iterations": {"grid": [1, 2, 4]},
    "model.scales": {"grid": [[0], [0, 1], [0, 1, 2]]},
    "loss.lambda": {"grid": [0.5, 0.8]},
    "fit.lr": {"grid": [3e-4, 1e-3, 3e-3, 1e-2]},
}


GRACES = {"one fold, the default": None, "one epoch": 1}
"""Epochs that ASHA gives every trial, in words and as ``search.grace_epochs``."""

FULL = "full grid"


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


def epochs_of(trials: list[Trial]) -> int:
    return sum(trial.step for trial in trials)


def show(full: list[Trial], asha: list[Trial]) -> None:
    """Print what each search spent, what it chose, and how good that is."""
    ours, theirs = chosen(asha), chosen(full)
    # Judged by the full grid: there every trial was trained to the end.
    value = {trial.index: trial.objective or 0.0 for trial in full}
    better = sum(each > value[ours.index] for each in value.values())
    epochs = [epochs_of(trials) for trials in (full, asha)]
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


def searches(
    folds: int, epochs: int, images: int, reduction_factor: int, concurrent: int | None
) -> dict[str, list[Trial]]:
    """The trials of the full grid, and of ASHA with each grace."""
    common = {"folds": folds, "reduction_factor": reduction_factor, "concurrent": concurrent}
    settings = {FULL: {"scheduler": "none"}}
    settings |= {name: {"scheduler": "asha", "grace_epochs": grace} for name, grace in GRACES.items()}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_images(folder / "images", images)
        jobs = {
            name: search_job(folder, f"search-{number}", SPACE, {**common, **given}, epochs)
            for number, (name, given) in enumerate(settings.items())
        }
        with cluster.connect(jobs[FULL].cluster):
            return {name: run_search(job) for name, job in jobs.items()}


def rows(found: Mapping[str, list[Trial]], conditions: str) -> list[Row]:
    """For each grace the epochs it spends, and by how much the choice is worse."""
    full = found[FULL]
    # Judged by the full grid: there every trial was trained to the end.
    value = {trial.index: trial.objective or 0.0 for trial in full}
    best_value = value[chosen(full).index]
    against = f"the full grid of {len(full)} points"
    made = []
    for name in GRACES:
        trials = found[name]
        assert [trial.point for trial in trials] == [trial.point for trial in full]
        what = f"search by ASHA, grace of {name}"
        share = epochs_of(trials) / epochs_of(full)
        lost = best_value - value[chosen(trials).index]
        made += [
            summary(
                f"{what}: epochs",
                f"{against}, {epochs_of(full)} epochs",
                [share],
                conditions=conditions,
                at_most=True,
            ),
            summary(
                f"{what}: objective lost",
                f"{against}, {best_value:.3f}",
                [lost],
                unit="IoU",
                conditions=conditions,
                at_most=True,
            ),
        ]
    return made


def words(folds: int, epochs: int, images: int, reduction_factor: int, concurrent: int | None) -> str:
    network = f"{folds} folds × {epochs} epochs, {images} images, a tiny network, reduction factor {reduction_factor}"
    return f"{network}, {concurrent or os.cpu_count()} trials at once"


def measure(
    folds: int = 3,
    epochs: int = 4,
    images: int = 36,
    reduction_factor: int = 3,
    concurrent: int | None = None,
) -> list[Row]:
    """Two rows for each grace, each of one search, as it takes minutes: which trial reports first may change it.

    Args:
        folds: of a trial.
        epochs: of a fold.
        images: of the training list.
        reduction_factor: of ASHA.
        concurrent: trials at once; default: as many as there are CPUs.
    """
    found = searches(folds, epochs, images, reduction_factor, concurrent)
    return rows(found, words(folds, epochs, images, reduction_factor, concurrent))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4, help="of each fold")
    parser.add_argument("--images", type=int, default=36, help="of the training list")
    parser.add_argument("--reduction-factor", type=int, default=3)
    parser.add_argument("--concurrent", type=int, help="trials at once; default: as many as there are CPUs")
    parser.add_argument("--record", type=Path, help="write the learning curves of the full grid to this file")
    args = parser.parse_args()
    settings = (args.folds, args.epochs, args.images, args.reduction_factor)
    found = searches(*settings, args.concurrent)
    if args.record:
        write_curves(found[FULL], args.record)
    print(markdown_rows(rows(found, words(*settings, args.concurrent))))
    for name in GRACES:
        print(f"\ngrace of {name}\n")
        show(found[FULL], found[name])


if __name__ == "__main__":
    main()
