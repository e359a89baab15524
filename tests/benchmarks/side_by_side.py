"""The same training, run with and without Ray, for the benchmarks that compare them."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from table import Row, markdown_rows

ROUNDS = 3

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Case:
    """A training on sample composites; each worker has one thread and one CPU."""

    folder: Path
    """Holds everything that is written."""

    images: int = 96
    size: int = 96
    depth: int = 18
    width: int = 8
    iterations: int = 4
    batch_size: int = 8
    epochs: int = 4

    @property
    def conditions(self) -> str:
        """In words."""
        return (
            f"ResNet{self.depth}, width {self.width}, K = {self.iterations}, {self.size} px, batch {self.batch_size}, "
            "one thread a worker"
        )

    @property
    def root(self) -> Path:
        """The dataset, which is made when it is asked for first."""
        from rsrnet.synthesis.sample import SampleConfig, build_sample

        root = self.folder / "sample"
        if not root.exists():
            build_sample(root, SampleConfig(train=self.images, val=8, test=8, size=self.size), processes=1)
        return root

    def plain(self, workers: int) -> dict[str, Any]:
        """What ``plain_training.py`` finds, under torchrun if there are several workers."""
        given, out = self.folder / "settings.json", self.folder / "out.json"
        model = {"depth": self.depth, "width": self.width, "iterations": self.iterations}
        fit = {"epochs": self.epochs, "batch_size": self.batch_size, "encoder_weights": "none"}
        settings = {"root": str(self.root), "size": self.size, "threads": 1, "model": model, "fit": fit}
        given.write_text(json.dumps(settings))
        program = [sys.executable]
        if workers > 1:
            program += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={workers}"]
        subprocess.run(
            [*program, str(HERE / "plain_training.py"), given, out], check=True, env=self.environment
        )
        found: dict[str, Any] = json.loads(out.read_text())
        return found

    def job(self, name: str, workers: int) -> Path:
        """A job file for the same training."""
        path = self.folder / f"{name}.yaml"
        path.write_text(f"""
kind: train
name: {name}
data: {{root: {self.root}, val: le50_val.txt, size: {self.size}, loader_processes: 0}}
model: {{depth: {self.depth}, width: {self.width}, iterations: {self.iterations}}}
fit: {{epochs: {self.epochs}, batch_size: {self.batch_size}, encoder_weights: none}}
cluster: {{workers: {workers}, address: local}}
storage: {self.folder / "runs"}
tracking: {{uri: {self.folder / "mlflow.db"}, model: null}}
""")
        return path

    def on_ray(self, name: str, workers: int) -> list[dict[str, float]]:
        """The metrics of each epoch of a run of the job file."""
        from rsrnet import checkpoint

        subprocess.run([BIN / "rsrnet", "run", self.job(name, workers)], check=True, env=self.environment)
        attempt = self.folder / "runs" / name / "attempt-1"
        newest = max(path for path in attempt.glob("checkpoint_*") if path.is_dir())
        history: list[dict[str, float]] = checkpoint.load_training(newest)["history"]
        return history

    @property
    def environment(self) -> dict[str, str]:
        """One thread a process, and no cluster or server of the shell."""
        without = ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")
        kept = {key: value for key, value in os.environ.items() if key not in without}
        return kept | {"OMP_NUM_THREADS": "1"}


def main(description: str | None, measure: Callable[[int], list[Row]]) -> None:
    """The command line of a benchmark: its rows are printed as README.md shows them."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    print(markdown_rows(measure(parser.parse_args().rounds)))


def pace(history: list[dict[str, float]]) -> float:
    """Images a second of an epoch of training, without the first; its median."""
    return statistics.median(metrics["time/images_per_second"] for metrics in history[1:])
