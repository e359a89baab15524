"""Cost of a training step against K, the image's side, and the batch: are they linear?

Draws docs/cost.png, and fits a straight line to each curve: against K, against the pixels, against the batch. The
figure of a curve is its largest distance from the line, as a share of the value there.

    python tests/benchmarks/bench_cost.py
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from peak_memory import peak_bytes
from table import ROOT, Row, interleaved, markdown_rows

from rsrnet.engine import Training
from rsrnet.model.config import RSRNetConfig
from rsrnet.model.network import RSRNet
from rsrnet.recipe import FitConfig

PICTURE = ROOT / "docs" / "cost.png"
ITERATIONS = (2, 4, 8, 12, 16)
SIDES = (96, 160, 224, 288)
BATCHES = (1, 2, 4, 6)


@dataclass(frozen=True)
class Curve:
    """What a step costs against one of its sizes, the others at K = 12, 224 x 224 (or what is said), B = 2."""

    name: str
    label: str
    sizes: Sequence[int]
    x: Sequence[float]
    """What the cost should be linear in: K, pixels, images."""

    seconds: Sequence[float]
    """Of a training step, the fastest of some."""

    memory: Sequence[float]
    """MiB at its peak."""

    def distance(self, values: Sequence[float]) -> float:
        """Largest distance from a straight line, as a share of the value."""
        slope, offset = np.polyfit(self.x, values, 1)
        return float(np.max(np.abs(np.polyval([slope, offset], self.x) / np.array(values) - 1)))

    def offset(self, values: Sequence[float]) -> float:
        """Where the line begins, as a share of its end."""
        slope, offset = np.polyfit(self.x, values, 1)
        return float(offset / np.polyval([slope, offset], self.x[-1]))


def step(width: int, iterations: int, batch: int, side: int) -> Callable[[], None]:
    torch.manual_seed(0)
    model = RSRNet(RSRNetConfig(width=width, iterations=iterations))
    training = Training(model, FitConfig(), size=side)
    images = torch.rand(batch, 3, side, side)
    target = (torch.rand(batch, 1, side, side) > 0.7).float()

    def run() -> None:
        training.optimizer.zero_grad(set_to_none=True)
        training.criterion(model(images), target).total.backward()
        training.optimizer.step()

    return run


def curves(width: int, rounds: int) -> list[Curve]:
    found = []
    for name, label, sizes, x, arguments in (
        ("K", "iterations K", ITERATIONS, ITERATIONS, [(k, 2, 224) for k in ITERATIONS]),
        ("pixels", "side of the image", SIDES, [s * s for s in SIDES], [(12, 2, s) for s in SIDES]),
        ("batch", "images of a batch", BATCHES, BATCHES, [(12, b, 224) for b in BATCHES]),
    ):
        contenders = {str(size): step(width, *each) for size, each in zip(sizes, arguments, strict=True)}
        times = interleaved(contenders, rounds)
        memory = [peak_bytes(run, "cpu") / 2**20 for run in contenders.values()]
        # The fastest round: what other work on the machine adds is not the model's.
        found.append(Curve(name, label, sizes, x, [min(times[str(size)]) for size in sizes], memory))
    return found


def draw(found: Sequence[Curve], picture: Path, conditions: str) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, len(found), figsize=(11, 5.5), constrained_layout=True)
    for column, curve in zip(axes.T, found, strict=True):
        for axis, values, unit in zip(
            column, (curve.seconds, curve.memory), ("seconds a step", "MiB at its peak"), strict=True
        ):
            fine = np.linspace(0, max(curve.x), 50)
            axis.plot(fine, np.polyval(np.polyfit(curve.x, values, 1), fine), color="0.7", lw=1)
            axis.plot(curve.x, values, "o", color="tab:blue")
            axis.set_xticks(curve.x, [str(size) for size in curve.sizes])
            axis.set(xlabel=curve.label, ylabel=unit, ylim=(0, None), xlim=(0, None))
            axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"Training step: {conditions}; lines: least squares", fontsize=10)
    figure.savefig(picture, dpi=110)
    plt.close(figure)


def measure(width: int = 32, rounds: int = 3, threads: int = 2, picture: Path = PICTURE) -> list[Row]:
    torch.set_num_threads(threads)
    found = curves(width, rounds)
    conditions = f"width {width}, else K = 12, 224 × 224, B = 2, {threads} thread{'s' if threads > 1 else ''}"
    draw(found, picture, conditions)
    rows = []
    for curve in found:
        for what, values in (("time", curve.seconds), ("peak memory", curve.memory)):
            distance = 100 * curve.distance(values)
            rows.append(
                Row(
                    f"training step, {what} against {curve.name}: distance from a line",
                    f"a straight line; {100 * curve.offset(values):.0f} % of the last point does not grow",
                    distance,
                    distance,
                    distance,
                    unit="%",
                    conditions=f"{curve.sizes[0]} to {curve.sizes[-1]}; {conditions}",
                )
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    args = parser.parse_args()
    print(markdown_rows(measure(args.width, args.rounds, args.threads, args.picture)))


if __name__ == "__main__":
    main()
