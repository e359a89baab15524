"""Training and evaluation on a GPU, step by step, against what the GPU can do at best.

Needs `rsrnet` and torch alone. Measures two ceilings (bytes a second of a copy, operations a second of matrix products
in each precision), counts the operations and bytes of the model, then takes it through: eager float32, TF32, bfloat16
autocast, channels-last maps, torch.compile of the parts (fit.compile) and of the whole, CUDA graphs. Each step's gain
over the one before is predicted from the ceilings (operator by operator the slower of its operations and its bytes;
compiled: one pass between two products), measured, and its masks are compared with those of eager float32. Targets:
training at least 4 times eager float32, and half of the measured bfloat16 rate.

    python tests/benchmarks/bench_gpu.py
    python tests/benchmarks/bench_gpu.py --device cpu --tiny       # to see that it runs
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

import torch
from roofline import Ceilings, Demand, measure_ceilings, seconds_of
from torch import Tensor

from rsrnet.compilation import compile_parts
from rsrnet.losses import RSRNetLoss
from rsrnet.model.config import RSRNetConfig
from rsrnet.model.network import RSRNet
from rsrnet.validation import autocast, products


@dataclass(frozen=True)
class Step:
    name: str
    precision: str
    memory_format: torch.memory_format
    compiled: Literal["parts", "whole", "graphs"] | None = None
    """What is compiled: the parts, as fit.compile does, the whole network, or that with CUDA graphs; None: eager."""


NCHW, NHWC = torch.contiguous_format, torch.channels_last
STEPS = (
    Step("eager float32", "float32", NCHW),
    Step("TF32", "tf32", NCHW),
    Step("bfloat16", "bfloat16", NCHW),
    Step("channels last", "bfloat16", NHWC),
    Step("compiled in parts", "bfloat16", NHWC, "parts"),
    Step("compiled as a whole", "bfloat16", NHWC, "whole"),
    Step("CUDA graphs", "bfloat16", NHWC, "graphs"),
)
"""Each keeps what the one before has."""


@dataclass(frozen=True)
class Sizes:
    config: RSRNetConfig
    batch: int
    side: int
    repeats: int
    megabytes: int
    product: int


FULL = Sizes(RSRNetConfig(), 32, 224, 10, 1024, 8192)
TINY = Sizes(RSRNetConfig(depth=18, width=8, iterations=2), 2, 64, 2, 16, 256)


def prepare(step: Step, sizes: Sizes, device: str, training: bool) -> tuple[Callable[[], Tensor], Any]:
    """A call that trains on one batch or evaluates it and returns M_fnl; and its network, not compiled."""
    torch.manual_seed(0)
    network = RSRNet(sizes.config).to(device).train(training)
    network.lay_out(step.memory_format)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, weight_decay=1e-4, fused=True)
    criterion = RSRNetLoss()
    shape = sizes.batch, 3, sizes.side, sizes.side
    images = torch.rand(shape, generator=torch.Generator().manual_seed(1)).to(device)
    target = (images[:, :1] > 0.7).float()
    if step.compiled == "parts":
        compile_parts(network)
    elif step.compiled:
        network.compile(mode="reduce-overhead" if step.compiled == "graphs" else None)

    def train() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with autocast(torch.device(device), step.precision):
            output = network(images)
        with products(step.precision):
            criterion(output, target).total.backward()
        optimizer.step()
        return output.m_fnl.detach().clone()

    @torch.no_grad()
    def evaluate() -> Tensor:
        with autocast(torch.device(device), step.precision):
            return network(images, every_mask=False).m_fnl.clone()

    return train if training else evaluate, network


def predicted(step: Step, demand: Demand, ceilings: Ceilings) -> float:
    """Seconds, at best."""
    rate = ceilings.products[step.precision]
    if step.compiled:
        return demand.compiled_seconds(rate, ceilings.bandwidth)
    return demand.eager_seconds(rate, ceilings.bandwidth)


def table(steps: list[Step], sizes: Sizes, device: str, ceilings: Ceilings, training: bool) -> list[str]:
    """The lines of one table: training or evaluation."""
    lines = [
        "| step | images/s | of the bfloat16 rate | seconds at best | gain predicted | gain measured | all gains | "
        "largest difference of M_fnl |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    first: Tensor | None = None
    before: tuple[float, float] | None = None
    begin = 0.0
    for step in steps:
        run, _ = prepare(step, sizes, device, training)
        masks = run()  # of the starting weights, in training too
        eager, _ = prepare(Step(step.name, step.precision, step.memory_format), sizes, device, training)
        with Demand() as demand:
            eager()
        seconds = median(seconds_of(run, device, sizes.repeats))
        best = predicted(step, demand, ceilings)
        if first is None or before is None:
            first, before, begin = masks, (best, seconds), seconds
        difference = (masks - first).abs().max().item()
        share = demand.flops / seconds / ceilings.products["bfloat16"]
        lines.append(
            f"| {step.name} | {sizes.batch / seconds:.1f} | {share:.1%} | {best:.4f} | {before[0] / best:.2f} | "
            f"{before[1] / seconds:.2f} | {begin / seconds:.2f} | {difference:.1e} |"
        )
        before = best, seconds
        del run, eager
        if device == "cuda":
            torch.cuda.empty_cache()
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a small network and small images")
    parser.add_argument("--batch", type=int, help="32 by default")
    parser.add_argument(
        "--steps", type=int, default=len(STEPS), help="how many of the steps, from the first on"
    )
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("no GPU that torch can use here; --device cpu --tiny shows that the script runs")
    sizes = TINY if args.tiny else FULL
    if args.batch:
        sizes = Sizes(sizes.config, args.batch, sizes.side, sizes.repeats, sizes.megabytes, sizes.product)
    steps = [step for step in STEPS[: args.steps] if args.device == "cuda" or step.name != "CUDA graphs"]
    torch.backends.cudnn.benchmark = True
    ceilings = measure_ceilings(args.device, sizes.megabytes, sizes.product)
    name = torch.cuda.get_device_name() if args.device == "cuda" else "processor"
    print(
        f"{name}, torch {torch.__version__}; copy {ceilings.bandwidth / 1e9:.0f} GB/s; products, TFLOP/s: ",
        end="",
    )
    print(", ".join(f"{key} {value / 1e12:.2f}" for key, value in ceilings.products.items()))
    for training in (True, False):
        run, _ = prepare(STEPS[0], sizes, args.device, training)
        with Demand() as demand:
            run()
        what = "training" if training else "evaluation"
        print(
            f"\n{what}, batch {sizes.batch}, {sizes.side} × {sizes.side}, K = {sizes.config.iterations}: ",
            end="",
        )
        print(f"{demand.flops / 1e9:.1f} GFLOP, {demand.bytes / 1e9:.2f} GB in float32\n")
        del run
        print("\n".join(table(steps, sizes, args.device, ceilings, training)), flush=True)


if __name__ == "__main__":
    main()
