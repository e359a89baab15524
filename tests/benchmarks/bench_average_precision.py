"""Time of the average precision of soft masks, beside scikit-learn's, and of all that is scored per image.

Two kinds of maps: blobs with soft edges and noise, where nearly every score is distinct, and saturated ones of
256 levels, where most pixels are tied at 0 or 1. Both contenders get the same float32 maps;
scikit-learn scores one image after the other.

    python tests/benchmarks/bench_average_precision.py
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from sklearn.metrics import average_precision_score
from table import Row, compare, interleaved, markdown_rows
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


def rows(
    kind: str, pred: Tensor, target: Tensor, conditions: str, rounds: int, *, together: bool = False
) -> list[Row]:
    """Average precision against scikit-learn's; if asked, also all that is scored against that alone."""
    scores, truth = pred.flatten(1), target.flatten(1) > 0.5
    contenders: dict[str, Callable[[], Tensor]] = {
        "scikit-learn": lambda: by_scikit_learn(scores, truth),
        f"average precision of {kind} maps": lambda: average_precision(scores, truth),
    }
    if together:
        contenders[f"AP, F1 and IoU together of {kind} maps"] = lambda: image_metrics(pred, target).ap
    values = {name: run() for name, run in contenders.items()}
    seconds = interleaved(contenders, rounds)
    plain, expected = seconds.pop("scikit-learn"), values.pop("scikit-learn")
    each = 1e3 * statistics.median(plain) / len(pred)
    found = []
    for what, value in values.items():
        difference = (value - expected).abs().max().item()
        same = f"equal to {difference:.0e}" if difference else "equal"
        against = f"scikit-learn's AP, {each:.3g} ms a map, {same}"
        where = f"{len(pred)} of {conditions}"
        found.append(compare(what, against, plain, seconds[what], conditions=where))
    return found


def measure(batch: int = 32, rounds: int = 15, threads: int = 1) -> list[Row]:
    """Soft maps alone and with the other metrics, then saturated and large maps."""
    torch.set_num_threads(threads)
    where = f"{threads} thread{'s' if threads > 1 else ''}"
    small, large = f"224 × 224, {where}", f"2000 × 1500, {where}"
    return [
        *rows("soft", *soft_masks(batch, 224, 224, saturated=False), small, rounds, together=True),
        *rows("saturated", *soft_masks(batch, 224, 224, saturated=True), small, rounds),
        *rows("soft", *soft_masks(2, 1500, 2000, saturated=False), large, max(2, rounds // 3)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=15, help="a third of them for the large maps")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    print(markdown_rows(measure(args.batch, args.rounds, args.threads)))


if __name__ == "__main__":
    main()
