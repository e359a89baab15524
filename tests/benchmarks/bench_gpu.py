"""Training and evaluation on a GPU, step by step, against what the GPU can do at best.

Needs `rsrnet` and torch alone. Measures the ceilings (bytes a second of a copy, operations a second of matrix products
in each precision, seconds to start an operator), counts the operations and bytes of the model, then takes it through:
eager float32, TF32, bfloat16 autocast, channels-last maps, torch.compile of the parts (fit.compile) and of the whole,
CUDA graphs of the network (loss and Adam run as before). Each step's gain over the one before is predicted from the
ceilings (operator by operator the slowest of its operations, its bytes and its start; compiled: one pass between two
products; graphs: without the starts), measured, and the masks of its last call are compared with those of eager
float32. Targets: training at least 4 times eager float32, and the convolutions at half of the measured bfloat16 rate.

    python tests/benchmarks/bench_gpu.py
    python tests/benchmarks/bench_gpu.py --device cpu --tiny       # to see that it runs
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal

import torch
from roofline import Ceilings, Demand, convolution_seconds, measure_ceilings, seconds_of
from torch import Tensor
from torch._dynamo.utils import counters

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


class Run:
    """A network, and what one call of it takes: to train on a batch, or to evaluate it.

    The learning rate is 0, so that every call computes the same masks, those that replay a graph too.
    """

    def __init__(self, step: Step, sizes: Sizes, device: str, training: bool) -> None:
        torch.manual_seed(0)
        self.device, self.precision, self.training = torch.device(device), step.precision, training
        self.network = RSRNet(sizes.config).to(device).train(training)
        self.network.lay_out(step.memory_format)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=0.0, weight_decay=1e-4, fused=True)
        self.criterion = RSRNetLoss()
        shape = sizes.batch, 3, sizes.side, sizes.side
        self.images = torch.rand(shape, generator=torch.Generator().manual_seed(1)).to(device)
        self.target = (self.images[:, :1] > 0.7).float()
        if step.compiled == "parts":
            compile_parts(self.network)
        elif step.compiled:
            self.network.compile(mode="reduce-overhead" if step.compiled == "graphs" else None)

    def __call__(self) -> Tensor:
        """M_fnl, (B, 1, S, S)."""
        if not self.training:
            with torch.no_grad(), autocast(self.device, self.precision):
                return self.network(self.images, every_mask=False).m_fnl.clone()
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.device, self.precision):
            output = self.network(self.images)
        with products(self.precision):
            self.criterion(output, self.target).total.backward()
        self.optimizer.step()
        return output.m_fnl.detach().clone()

    def demands(self) -> tuple[Demand, Demand]:
        """What a call asks: the network, and what is beside it, which is never compiled (loss and Adam)."""
        network, beside = Demand(), Demand()
        if not self.training:
            with network:
                self()
            return network, beside
        self.optimizer.zero_grad(set_to_none=True)
        with network, autocast(self.device, self.precision):
            output = self.network(self.images)
        ends = (output.masks, output.m_fnl)
        masks, m_fnl = leaves = [end.detach().requires_grad_() for end in ends]
        with beside, products(self.precision):
            self.criterion(replace(output, masks=masks, m_fnl=m_fnl), self.target).total.backward()
        with network, products(self.precision):
            torch.autograd.backward(ends, [leaf.grad for leaf in leaves])
        with beside:
            self.optimizer.step()
        return network, beside


def predicted(step: Step, network: Demand, beside: Demand, ceilings: Ceilings) -> float:
    """Seconds, at best."""
    around = beside.eager_seconds(step.precision, ceilings)
    if step.compiled:
        launched = step.compiled != "graphs"
        return around + network.compiled_seconds(step.precision, ceilings, launched=launched)
    return around + network.eager_seconds(step.precision, ceilings)


def of_the_convolutions(run: Run, step: Step, network: Demand, device: str, ceilings: Ceilings) -> str:
    """The rate of the convolutions as a share of bfloat16's; "-" for graphs, which do not tell operators apart."""
    if step.compiled == "graphs":
        return "-"
    return (
        f"{network.convolution_flops / convolution_seconds(run, device) / ceilings.products['bfloat16']:.1%}"
    )


def require_graphs() -> None:
    """torch.compile leaves a graph out without a word where it cannot be recorded."""
    if skips := counters["inductor"]["cudagraph_skips"]:
        raise SystemExit(f"{skips} CUDA graphs were not recorded: TORCH_LOGS=perf_hints says why")


def table(steps: list[Step], sizes: Sizes, device: str, ceilings: Ceilings, training: bool) -> list[str]:
    """The lines of one table: training or evaluation."""
    lines = [
        "| step | images/s | of the bfloat16 rate | the convolutions alone | seconds at best | gain predicted | "
        "gain measured | all gains | largest difference of M_fnl |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    first: Tensor | None = None
    before: tuple[float, float] | None = None
    begin = 0.0
    for step in steps:
        # Counted uncompiled: what is compiled for a graph of its own runs no operators that could be counted.
        network, beside = Run(replace(step, compiled=None), sizes, device, training).demands()
        run = Run(step, sizes, device, training)
        seconds = median(seconds_of(run, device, sizes.repeats))
        masks = run()
        if step.compiled == "graphs":
            require_graphs()
        best = predicted(step, network, beside, ceilings)
        if first is None or before is None:
            first, before, begin = masks, (best, seconds), seconds
        difference = (masks - first).abs().max().item()
        share = (network.flops + beside.flops) / seconds / ceilings.products["bfloat16"]
        convolutions = of_the_convolutions(run, step, network, device, ceilings)
        lines.append(
            f"| {step.name} | {sizes.batch / seconds:.1f} | {share:.1%} | {convolutions} | {best:.4f} | "
            f"{before[0] / best:.2f} | {before[1] / seconds:.2f} | {begin / seconds:.2f} | {difference:.1e} |"
        )
        before = best, seconds
        del run
        if torch.device(device).type == "cuda":
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
    on_gpu = torch.device(args.device).type == "cuda"
    if on_gpu and not torch.cuda.is_available():
        parser.error("no GPU that torch can use here; --device cpu --tiny shows that the script runs")
    sizes = TINY if args.tiny else FULL
    if args.batch:
        sizes = replace(sizes, batch=args.batch)
    steps = [step for step in STEPS[: args.steps] if on_gpu or step.compiled != "graphs"]
    ceilings = measure_ceilings(args.device, sizes.megabytes, sizes.product)
    name = torch.cuda.get_device_name() if on_gpu else "processor"
    print(
        f"{name}, torch {torch.__version__}; copy {ceilings.bandwidth / 1e9:.0f} GB/s; an operator's start "
        f"{ceilings.launch * 1e6:.1f} us; products, TFLOP/s: ",
        end="",
    )
    print(", ".join(f"{key} {value / 1e12:.2f}" for key, value in ceilings.products.items()))
    for training in (True, False):
        network, beside = Run(STEPS[0], sizes, args.device, training).demands()
        what = "training" if training else "evaluation"
        print(
            f"\n{what}, batch {sizes.batch}, {sizes.side} × {sizes.side}, K = {sizes.config.iterations}: ",
            end="",
        )
        flops, moved = network.flops + beside.flops, network.bytes + beside.bytes
        print(f"{flops / 1e9:.1f} GFLOP, {moved / 1e9:.2f} GB in float32\n")
        print("\n".join(table(steps, sizes, args.device, ceilings, training)), flush=True)


if __name__ == "__main__":
    main()
