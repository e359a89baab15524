"""Evaluation of the full model, images a second, beside the paper's equations written plainly.

python tests/benchmarks/bench_evaluation.py --batch 8
"""

from __future__ import annotations

import torch
from bench_training_step import AGAINST, default_device, main
from plain_rsrnet import both
from roofline import wait
from table import Row, compare, interleaved

from rsrnet.model.config import RSRNetConfig
from rsrnet.validation import autocast, products


def measure(
    batch: int = 8,
    side: int = 224,
    rounds: int = 5,
    threads: int = 2,
    config: RSRNetConfig | None = None,
    device: str | None = None,
) -> list[Row]:
    """In float32, and in bfloat16, in which the masks differ."""
    config, device = config or RSRNetConfig(), device or default_device()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    ours, plain = (network.eval() for network in both(config, device))
    images = torch.rand(batch, 3, side, side, device=device)
    where = device if device == "cuda" else f"{threads} thread{'s' if threads > 1 else ''}"
    conditions = f"B = {batch}, K = {config.iterations}, {side} × {side}, {where}"

    @torch.no_grad()
    def run(precision: str | None) -> torch.Tensor:
        if precision is None:
            with products("float32"):
                masks = plain(images).m_fnl
        else:
            with autocast(torch.device(device), precision):
                masks = ours(images, every_mask=False).m_fnl
        wait(device)
        return masks

    seconds = interleaved(
        {name or "plain": lambda name=name: run(name) for name in (None, "float32", "bfloat16")}, rounds
    )
    expected = run(None)
    rows = []
    for precision, target in (("float32", 1.3), ("bfloat16", None)):
        difference = (run(precision) - expected).abs().max().item()
        rows.append(
            compare(
                "evaluation, images/s" + (", bfloat16" if precision == "bfloat16" else ""),
                f"{AGAINST}, outputs equal to {difference:.0e}",
                seconds["plain"],
                seconds[precision],
                target=target,
                conditions=conditions,
            )
        )
    return rows


if __name__ == "__main__":
    main(__doc__, measure, rounds=5)
