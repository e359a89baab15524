"""What a machine can do at best, what a computation asks of it, and the time that follows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from rsrnet.validation import products


def seconds_of(run: Callable[[], Any], device: str, repeats: int) -> list[float]:
    """Seconds of each of some calls, the device's work included."""
    run()
    times = []
    for _ in range(repeats):
        wait(device)
        start = time.perf_counter()
        run()
        wait(device)
        times.append(time.perf_counter() - start)
    return times


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


@dataclass(frozen=True)
class Ceilings:
    """Measured: the fastest of some repetitions."""

    bandwidth: float
    """Bytes a second of a copy, read and written."""

    products: dict[str, float]
    """Floating-point operations a second of a square matrix product, by precision."""


def measure_ceilings(device: str, megabytes: int, side: int, repeats: int = 10) -> Ceilings:
    source = torch.empty(megabytes * 2**20 // 4, device=device)
    copy = torch.empty_like(source)
    bandwidth = 2 * source.nbytes / min(seconds_of(lambda: copy.copy_(source), device, repeats))
    rates = {}
    for precision in ("float32", "tf32", "bfloat16"):
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        with products(precision):
            rates[precision] = 2 * side**3 / min(seconds_of(lambda a=a, b=b: a @ b, device, repeats))
    return Ceilings(bandwidth, rates)


@dataclass
class Demand(TorchDispatchMode):
    """Counts, operator by operator, what runs within: operations of products, and bytes read and written."""

    operators: list[tuple[float, float]] = field(default_factory=list)
    """Floating-point operations (0 but for products and convolutions) and bytes of each operator."""

    products_output: float = 0.0
    """Bytes that products and convolutions write."""

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        result = function(*arguments, **(named or {}))
        read, written = _bytes(arguments), _bytes(result)
        count = flop_registry.get(function._overloadpacket)
        flops = float(count(*arguments, **(named or {}), out_val=result)) if count else 0.0
        if function.is_view:
            return result
        self.operators.append((flops, read + written))
        self.products_output += written if count else 0.0
        return result

    @property
    def flops(self) -> float:
        return sum(flops for flops, _ in self.operators)

    @property
    def bytes(self) -> float:
        return sum(size for _, size in self.operators)

    def eager_seconds(self, rate: float, bandwidth: float) -> float:
        """Every operator is as slow as its operations or its bytes make it."""
        return sum(max(flops / rate, size / bandwidth) for flops, size in self.operators)

    def compiled_seconds(self, rate: float, bandwidth: float) -> float:
        """What lies between two products is one pass over what the first wrote."""
        products = sum(max(flops / rate, size / bandwidth) for flops, size in self.operators if flops)
        return products + 2 * self.products_output / bandwidth


def _bytes(values: Any) -> int:
    return sum(leaf.nbytes for leaf in tree_leaves(values) if isinstance(leaf, Tensor))
