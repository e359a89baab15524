"""Time of one forward and backward pass of the loss, beside the formulation of public code in this field.

That formulation handles one mask after another: torch's BCE, SSIM by five 2-D convolutions with the 11 x 11
window (the target's statistics anew for every mask), and IoU in a loop over the images.

    python tests/benchmarks/bench_loss.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from rsrnet.losses import LossConfig, RSRNetLoss


@dataclass
class Output:
    masks: Tensor
    m_fnl: Tensor


def published_ssim(mask: Tensor, target: Tensor, window: Tensor) -> Tensor:
    def local_mean(x: Tensor) -> Tensor:
        return functional.conv2d(x, window, padding=5)

    mu1, mu2 = local_mean(mask), local_mean(target)
    var1 = local_mean(mask * mask) - mu1 * mu1
    var2 = local_mean(target * target) - mu2 * mu2
    cov = local_mean(mask * target) - mu1 * mu2
    top = (2 * mu1 * mu2 + 0.01**2) * (2 * cov + 0.03**2)
    return (top / ((mu1 * mu1 + mu2 * mu2 + 0.01**2) * (var1 + var2 + 0.03**2))).mean()


def published_iou(mask: Tensor, target: Tensor) -> Tensor:
    losses = []
    for m, t in zip(mask, target, strict=True):
        intersection = (m * t).sum()
        losses.append(1 - intersection / (m.sum() + t.sum() - intersection))
    return torch.stack(losses).mean()


def published_loss(masks: Tensor, target: Tensor, lambda_: float) -> Tensor:
    line = torch.exp(-(torch.arange(11.0) - 5).square() / (2 * 1.5**2))
    window = torch.outer(line, line)[None, None] / line.sum() ** 2
    last = masks.shape[1] - 1
    total = torch.zeros(())
    for k in range(last + 1):
        mask = masks[:, k : k + 1]
        weight = 1.0 if k == last else lambda_ ** (last - 1 - k)
        bce = functional.binary_cross_entropy(mask, target)
        ssim = 1 - published_ssim(mask, target, window)
        total = total + weight * (bce + ssim + published_iou(mask, target))
    return total


def timed(loss: Callable[[Tensor], Tensor], masks: Tensor) -> tuple[float, Tensor, Tensor]:
    """Seconds, value and gradient of one forward and backward pass."""
    leaf = masks.clone().requires_grad_()
    start = time.perf_counter()
    value = loss(leaf)
    value.backward()
    seconds = time.perf_counter() - start
    assert leaf.grad is not None
    return seconds, value.detach(), leaf.grad


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--masks", type=int, default=13, help="K + 1")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    masks = torch.rand(args.batch, args.masks, args.size, args.size)
    target = (torch.rand(args.batch, 1, args.size, args.size) > 0.7).float()
    config = LossConfig()
    ours = RSRNetLoss(config)
    contenders: dict[str, Callable[[Tensor], Tensor]] = {
        "published": lambda x: published_loss(x, target, config.lambda_),
        "RSRNetLoss": lambda x: ours(Output(x[:, :-1], x[:, -1:]), target).total,
    }
    # Rounds alternate between the two, so that other work on the machine slows both.
    runs = [{name: timed(loss, masks) for name, loss in contenders.items()} for _ in range(args.rounds + 1)]
    warm = runs[1:]
    seconds = {name: min(run[name][0] for run in warm) for name in contenders}
    _, value, gradient = warm[0]["RSRNetLoss"]
    _, published_value, published_gradient = warm[0]["published"]

    print(f"B = {args.batch}, {args.masks} masks, {args.size} x {args.size}, {args.threads} threads")
    for name, best in seconds.items():
        print(f"{name:<12}{best * 1e3:10.1f} ms, forward and backward, best of {args.rounds}")
    print(f"ratio       {seconds['published'] / seconds['RSRNetLoss']:10.1f}")
    print(f"largest difference: value {abs(value - published_value):.1e}, ", end="")
    print(f"gradient {(gradient - published_gradient).abs().max():.1e}")


if __name__ == "__main__":
    main()
