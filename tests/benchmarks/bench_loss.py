"""Time of one forward and backward pass of the loss, beside the formulation of public code in this field.

That formulation (plain_rsrnet.py) handles one mask after another: torch's BCE, SSIM by five 2-D convolutions with the
11 x 11 window (the target's statistics anew for every mask), and IoU in a loop over the images.

    python tests/benchmarks/bench_loss.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from plain_rsrnet import plain_loss
from table import Row, compare, markdown_rows
from torch import Tensor

from rsrnet.losses import LossConfig, RSRNetLoss
from rsrnet.validation import products


@dataclass
class Output:
    masks: Tensor
    m_fnl: Tensor


def timed(loss: Callable[[Tensor], Tensor], masks: Tensor) -> tuple[float, Tensor, Tensor]:
    """Seconds, value and gradient of one forward and backward pass."""
    leaf = masks.clone().requires_grad_()
    start = time.perf_counter()
    value = loss(leaf)
    value.backward()
    if masks.is_cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    assert leaf.grad is not None
    return seconds, value.detach(), leaf.grad


def measure(batch: int = 8, masks: int = 13, size: int = 224, threads: int = 2, rounds: int = 5) -> list[Row]:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    predicted = torch.rand(batch, masks, size, size, device=device)
    target = (torch.rand(batch, 1, size, size, device=device) > 0.7).float()
    config = LossConfig()
    ours = RSRNetLoss(config)
    contenders: dict[str, Callable[[Tensor], Tensor]] = {
        "published": lambda x: plain_loss(x, target, config.lambda_),
        "RSRNetLoss": lambda x: ours(Output(x[:, :-1], x[:, -1:]), target).total,
    }
    # Rounds alternate between the two, so that other work on the machine slows both.
    with products("float32"):  # as ours: of the other's convolutions a GPU would round the inputs
        runs = [
            {name: timed(loss, predicted) for name, loss in contenders.items()} for _ in range(rounds + 1)
        ]
    warm = runs[1:]
    _, value, gradient = warm[0]["RSRNetLoss"]
    _, published_value, published_gradient = warm[0]["published"]
    difference = max(abs(value - published_value).item(), (gradient - published_gradient).abs().max().item())
    where = device if device == "cuda" else f"{threads} thread{'s' if threads > 1 else ''}"
    return [
        compare(
            "loss, forward and backward",
            f"the published formulation, equal to {difference:.0e}",
            [run["published"][0] for run in warm],
            [run["RSRNetLoss"][0] for run in warm],
            target=15.0 if device == "cpu" else 5.0,
            conditions=f"B = {batch}, {masks} masks, {size} × {size}, {where}",
        )
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--masks", type=int, default=13, help="K + 1")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    print(markdown_rows(measure(args.batch, args.masks, args.size, args.threads, args.rounds)))


if __name__ == "__main__":
    main()
