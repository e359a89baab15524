"""Seconds from a job file to the first training step, beside plain ``python`` to its first step, and what each is.

The plain side (``plain_training.py``) imports PyTorch, reads the lists, builds the network and trains; the job does
that in a worker of Ray Train, on a Ray cluster that it starts, with a fresh MLflow store. Rounds alternate.

    python tests/benchmarks/bench_startup.py                          # the rows
    python tests/benchmarks/bench_startup.py --picture startup.png    # the stages, and a picture of them
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from side_by_side import HERE, Case
from table import Row, markdown_rows, summary

ROUNDS = 3

STAGES = {
    "start": "Python, command line, job file",
    "lists": "lists of images, probe of the store",
    "ray": "Ray cluster",
    "images": "look at the images",
    "mlflow": "MLflow store and run",
    "ray train": "imports of Ray Train in the job",
    "controller": "Ray Train's controller: its process, its imports",
    "worker": "worker: its process, its imports, process group",
    "first batch": "model, first batch, first step",
}
"""What begins with each stamp."""

FEW = {"images": 16, "size": 64, "iterations": 2, "epochs": 1}


def stages(case: Case, name: str) -> dict[str, float]:
    """Seconds of each stage of a job, from its start to the end of its first step."""
    stamps = case.folder / f"{name}.jsonl"
    (case.folder / "mlflow.db").unlink(missing_ok=True)
    job = case.job(name, 1)
    start = time.time()
    command = [sys.executable, HERE / "startup_stamps.py", job, stamps]
    subprocess.run(command, check=True, env=case.environment)
    first: dict[str, float] = {"start": start}
    for line in stamps.read_text().splitlines():
        what, when = json.loads(line)
        first.setdefault(what, when)
    known = sorted((when, what) for what, when in first.items())
    ends = [when for when, _ in known[1:]]
    return {what: end - when for (when, what), end in zip(known, ends, strict=False)}


def plain(case: Case) -> float:
    """Seconds of plain Python to the end of its first step."""
    start = time.time()
    return float(case.plain(1)["first_step"]) - start


def rounds(number: int) -> tuple[list[dict[str, float]], list[float]]:
    """The stages of the job, and the seconds of plain Python, each in every round."""
    jobs, plains = [], []
    with TemporaryDirectory() as folder:
        case = Case(Path(folder), **FEW)
        assert case.root.exists()  # made before anything is timed
        for turn in range(number):
            plains.append(plain(case))
            jobs.append(stages(case, f"round-{turn}"))
    return jobs, plains


def rows(jobs: list[dict[str, float]], plains: list[float]) -> list[Row]:
    """The rows of the table."""
    ratios = [sum(job.values()) / alone for job, alone in zip(jobs, plains, strict=True)]
    what, against = "start-up: job file to first step", "plain `python` to first step"
    conditions = "1 worker, a Ray cluster of its own, fresh MLflow store"
    return [
        summary(what, against, ratios, at_most=True, conditions=conditions),
        summary(
            what, "-", [sum(job.values()) for job in jobs], at_most=True, unit="s", conditions=conditions
        ),
    ]


def measure(number: int = ROUNDS) -> list[Row]:
    """Two rows."""
    return rows(*rounds(number))


def medians(jobs: list[dict[str, float]]) -> dict[str, float]:
    """Seconds of each stage, in words."""
    return {text: statistics.median(job.get(stage, 0.0) for job in jobs) for stage, text in STAGES.items()}


def draw(seconds: dict[str, float], alone: float, path: Path) -> None:
    """Two bars: the job, by its stages, and plain Python."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), layout="constrained")
    axes = figure.subplots()
    left = 0.0
    for number, (text, length) in enumerate(seconds.items()):
        axes.barh("job file", length, left=left, color=f"C{number}", label=f"{text}: {length:.1f} s")
        left += length
    axes.barh("plain python", alone, color="0.6", label=f"plain python: {alone:.1f} s")
    axes.set_xlabel("seconds to the end of the first training step")
    axes.invert_yaxis()
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    jobs, plains = rounds(args.rounds)
    for text, seconds in medians(jobs).items():
        print(f"{seconds:6.2f} s  {text}")
    print(markdown_rows(rows(jobs, plains)))
    if args.picture:
        draw(medians(jobs), statistics.median(plains), args.picture)


if __name__ == "__main__":
    main()
