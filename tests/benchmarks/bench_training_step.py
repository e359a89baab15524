"""A training step of the full model beside the paper's equations written plainly: time and peak memory.

Both start from the same weights, see the same batch and make the same masks of it; the plain form steps with torch's
Adam as it comes. Memory is what one step takes at its peak, with weights and Adam's moments: tensors on the processor,
the caching allocator's peak on a GPU. The default is what ``jobs/train.yaml`` runs; the options of ``fit`` are measured
beside it.

    python tests/benchmarks/bench_training_step.py --batch 8 --rounds 3
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from peak_memory import peak_bytes
from plain_rsrnet import PlainRSRNet, both, plain_step
from roofline import wait
from table import Row, compare, interleaved, markdown_rows
from torch import Tensor

from rsrnet.engine import Training
from rsrnet.model.config import RSRNetConfig
from rsrnet.model.network import RSRNet
from rsrnet.recipe import FitConfig
from rsrnet.validation import autocast, products

AGAINST = "the paper's equations written plainly, same weights"


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


OPTIONS = {
    "": FitConfig(),
    ", fit.checkpoint_iterations": FitConfig(checkpoint_iterations=True),
    ", fit.compile": FitConfig(compile=True),
    ", fit.precision: bfloat16": FitConfig(precision="bfloat16"),
    ", fit.precision: bfloat16, fit.compile": FitConfig(precision="bfloat16", compile=True),
}


def our_step(recipe: FitConfig, start: RSRNet, images: Tensor, target: Tensor) -> Callable[[], None]:
    training = Training(RSRNet(start.config), recipe, size=images.shape[-1], device=images.device)
    training.model.load_state_dict(start.state_dict())
    training.model.train()

    def step() -> None:
        training.optimizer.zero_grad(set_to_none=True)
        with autocast(training.device, recipe.precision):
            output = training.model(images)
        with products(recipe.precision):
            training.criterion(output, target).total.backward()
        training.optimizer.step()
        wait(images.device.type)

    return step


def their_step(start: RSRNet, images: Tensor, target: Tensor) -> Callable[[], None]:
    plain = PlainRSRNet(start.config)
    plain.load_state_dict(start.state_dict())
    plain.to(images.device)
    recipe = FitConfig()
    optimizer = torch.optim.Adam(plain.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)

    def step() -> None:
        with products(recipe.precision):
            plain_step(plain, optimizer, images, target)
        wait(images.device.type)

    return step


@torch.no_grad()
def difference(config: RSRNetConfig, images: Tensor) -> float:
    """The largest difference between our masks and the plain form's in a training step, of all iterations."""
    ours, plain = (network.train() for network in both(config, images.device.type))
    with products("float32"):
        found, expected = ours(images), plain(images)
    return max(
        float((found.masks - expected.masks).abs().max()), float((found.m_fnl - expected.m_fnl).abs().max())
    )


def measure(
    batch: int = 8,
    side: int = 224,
    rounds: int = 3,
    threads: int = 2,
    config: RSRNetConfig | None = None,
    device: str | None = None,
) -> list[Row]:
    """Time and memory of the default, then of each option."""
    config, device = config or RSRNetConfig(), device or default_device()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    where = device if device == "cuda" else f"{threads} thread{'s' if threads > 1 else ''}"
    conditions = f"B = {batch}, K = {config.iterations}, {side} × {side}, {where}"
    start = RSRNet(config)
    images = torch.rand(batch, 3, side, side, device=device)
    target = (torch.rand(batch, 1, side, side, device=device) > 0.7).float()
    equal = f"{AGAINST}, outputs equal to {difference(config, images):.1e}"
    contenders = {"plain": their_step(start, images, target)}
    contenders |= {name: our_step(recipe, start, images, target) for name, recipe in OPTIONS.items()}
    seconds = interleaved(contenders, rounds)
    memory = {name: peak_bytes(step, device) for name, step in contenders.items()}
    rows = []
    for name, recipe in OPTIONS.items():
        against = equal if recipe.precision == "float32" else AGAINST
        rows.append(
            compare(
                f"training step{name}",
                against,
                seconds["plain"],
                seconds[name],
                target=None if name else 1.5,
                conditions=conditions,
            )
        )
        rows.append(
            compare(
                f"peak memory of a training step{name}",
                f"{against}: {memory['plain'] / 2**20:.0f} MiB",
                [memory["plain"]],
                [memory[name]],
                target=None if name else 0.7,
                conditions=conditions,
                at_most=True,
            )
        )
    return rows


def main(description: str | None, measured: Callable[..., list[Row]], rounds: int) -> None:
    """The command line of what is measured of the whole network."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--device", default=default_device())
    args = parser.parse_args()
    config = RSRNetConfig(width=args.width)
    print(markdown_rows(measured(args.batch, args.size, args.rounds, args.threads, config, args.device)))


if __name__ == "__main__":
    main(__doc__, measure, rounds=3)
