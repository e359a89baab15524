"""Time of the average precision of soft masks, beside scikit-learn's, and of all that is scored per image.

Two kinds of maps: blobs with soft edges and noise, where nearly every score is distinct, and saturated ones of
256 levels, where most pixels are tied at 0 or 1. Both contenders get the same float32 maps;
scikit-learn scores one image after the other.

    python tests/benchmarks/bench_average_precision.py
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from sklearn.metrics import average_precision_score
from torch import Tensor

from rsrnet.average_precision import average_precision
from rsrnet.metrics import image_metrics


def field(rng: np.random.Generator, height: int, width: int, smoothness: float) -> np.ndarray:
    """A smooth random field (H, W) with variance 1; ``smoothness`` is a share of the image's side."""
    values = gaussian_filter(
        rng.standard_normal((height, width)), smoothness * min(height, width), mode="wrap"
    )
    return values / values.std()


def soft_masks(count: int, height: int, width: int, saturated: bool) -> tuple[Tensor, Tensor]:
    """Predicted maps and true masks, each (B, 1, H, W): the truth covers a fifth of the image, the map errs."""
    rng = np.random.default_rng(0)
    maps, truths = [], []
    for _ in range(count):
        shape = field(rng, height, width, 0.1) - 0.84
        logits = (
            4 * shape + 1.5 * field(rng, height, width, 0.02) + 0.2 * rng.standard_normal((height, width))
        )
        probability = 1 / (1 + np.exp(-logits * (4 if saturated else 1)))
        # 256 levels, as in a map that was stored as an image: most pixels are tied.
        maps.append(np.round(probability * 255) / 255 if saturated else probability)
        truths.append(shape > 0)
    stacks = (torch.from_numpy(np.stack(x).astype(np.float32))[:, None] for x in (maps, truths))
    pred, target = stacks
    return pred, target


def by_scikit_learn(scores: Tensor, truth: Tensor) -> Tensor:
    pairs = zip(scores.numpy(), truth.numpy(), strict=True)
    return torch.tensor([average_precision_score(t, s) for s, t in pairs], dtype=torch.float64)


def compare(name: str, pred: Tensor, target: Tensor, threads: int, rounds: int) -> None:
    """Print milliseconds per image, the ratios to scikit-learn, and the largest difference."""
    torch.set_num_threads(threads)
    scores, truth = pred.flatten(1), target.flatten(1) > 0.5
    contenders: dict[str, Callable[[], Tensor]] = {
        "scikit-learn": lambda: by_scikit_learn(scores, truth),
        "average_precision": lambda: average_precision(scores, truth),
        "image_metrics": lambda: image_metrics(pred, target).ap,
    }
    seconds: dict[str, list[float]] = {contender: [] for contender in contenders}
    values: dict[str, Tensor] = {}
    # Rounds alternate between the contenders, so that other work on the machine slows all of them.
    for _ in range(rounds + 1):
        for contender, run in contenders.items():
            start = time.perf_counter()
            values[contender] = run()
            seconds[contender].append((time.perf_counter() - start) / len(pred))
    warm = {contender: times[1:] for contender, times in seconds.items()}
    plain = warm["scikit-learn"]
    print(f"\n{name}, {threads} thread{'s' if threads > 1 else ''}")
    for contender, times in warm.items():
        ratio = statistics.median(a / b for a, b in zip(plain, times, strict=True))
        best = min(plain) / min(times)
        print(f"  {contender:<18}{min(times) * 1e3:9.3f} ms an image  {best:6.1f}x (median {ratio:.1f}x)")
    difference = (values["average_precision"] - values["scikit-learn"]).abs().max()
    print(f"  largest difference {difference:.1e}; mean AP {values['average_precision'].mean():.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1])
    args = parser.parse_args()
    for kind, saturated in (("soft maps", False), ("saturated maps", True)):
        small, large = soft_masks(args.batch, 224, 224, saturated), soft_masks(2, 1500, 2000, saturated)
        for threads in args.threads:
            compare(f"{args.batch} {kind} of 224 x 224", *small, threads, args.rounds)
        for threads in args.threads:
            compare(f"2 {kind} of 2000 x 1500", *large, threads, max(2, args.rounds // 5))


if __name__ == "__main__":
    main()
