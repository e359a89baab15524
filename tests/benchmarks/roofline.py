"""What a machine can do at best, what a computation asks of it, and the time that follows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from rsrnet.validation import products

CONVOLUTIONS = ("aten::convolution", "aten::convolution_backward")
_NO_TRAFFIC = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view")
"""Operators that neither read nor write, though they are no views."""


def wait(device: str) -> None:
    """Until a device has done all that it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def seconds_of(run: Callable[[], Any], device: str, repeats: int, calls: int = 1) -> list[float]:
    """Seconds of a call, measured some times over so many calls in a row, the device's work included."""
    run()
    times = []
    for _ in range(repeats):
        wait(device)
        start = time.perf_counter()
        for _ in range(calls):
            run()
        wait(device)
        times.append((time.perf_counter() - start) / calls)
    return times


@dataclass(frozen=True)
class Ceilings:
    """Measured: the fastest of some repetitions."""

    bandwidth: float
    """Bytes a second of a copy, read and written."""

    products: dict[str, float]
    """Floating-point operations a second of a square matrix product, by precision."""

    launch: float
    """Seconds that starting an operator takes, however small."""

    def rate(self, precision: str, dtype: torch.dtype | None) -> float:
        """Operations a second of products of numbers of a type, in a network of some precision."""
        if precision == "bfloat16":
            return self.products["bfloat16" if dtype == torch.bfloat16 else "float32"]
        return self.products[precision]


def measure_ceilings(device: str, megabytes: int, side: int, repeats: int = 10, calls: int = 20) -> Ceilings:
    """Run copies, products and tiny operators alone, many in a row: what a single one waits for is not its own."""
    source = torch.empty(megabytes * 2**20 // 4, device=device)
    copy = torch.empty_like(source)
    bandwidth = 2 * source.nbytes / min(seconds_of(lambda: copy.copy_(source), device, repeats, calls))
    rates = {}
    for precision in ("float32", "tf32", "bfloat16"):
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        with products(precision):
            rates[precision] = 2 * side**3 / min(seconds_of(lambda a=a, b=b: a @ b, device, repeats, calls))
    one = torch.zeros(1, device=device)
    return Ceilings(bandwidth, rates, min(seconds_of(lambda: one.add_(1), device, repeats, 1000)))


def convolution_seconds(run: Callable[[], Any], device: str) -> float:
    """Seconds that the convolutions of a call take on the device, those of its backward pass included."""
    on_gpu = torch.device(device).type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    with profile(activities=activities) as recorded:
        run()
        wait(device)
    events = [event for event in recorded.key_averages() if event.key in CONVOLUTIONS]
    return sum(event.device_time_total if on_gpu else event.cpu_time_total for event in events) / 1e6


@dataclass
class Operator:
    flops: float
    """Floating-point operations; 0 but for products and convolutions."""

    bytes: int
    """Read and written."""

    written: int
    dtype: torch.dtype | None
    is_convolution: bool


@dataclass
class Demand(TorchDispatchMode):
    """Counts, operator by operator, what runs within: operations of products, and bytes read and written."""

    operators: list[Operator] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        result = function(*arguments, **(named or {}))
        packet = function._overloadpacket
        if function.is_view or packet.__name__ in _NO_TRAFFIC:
            return result
        read, written = _bytes(arguments), _bytes(result)
        if function._schema.is_mutable and not written:  # what works in place on lists returns nothing
            written = read
        count = flop_registry.get(packet)
        flops = float(count(*arguments, **(named or {}), out_val=result)) if count else 0.0
        tensors = [leaf for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor)]
        dtype = tensors[0].dtype if tensors else None
        is_convolution = f"aten::{packet.__name__}" in CONVOLUTIONS
        self.operators.append(Operator(flops, read + written, written, dtype, is_convolution))
        return result

    @property
    def flops(self) -> float:
        return sum(each.flops for each in self.operators)

    @property
    def convolution_flops(self) -> float:
        return sum(each.flops for each in self.operators if each.is_convolution)

    @property
    def bytes(self) -> int:
        return sum(each.bytes for each in self.operators)

    def eager_seconds(self, precision: str, ceilings: Ceilings) -> float:
        """Every operator is as slow as its operations, its bytes or its start make it."""
        return sum(max(_seconds(each, precision, ceilings), ceilings.launch) for each in self.operators)

    def compiled_seconds(self, precision: str, ceilings: Ceilings, *, launched: bool) -> float:
        """What lies between two products is one pass over what the first wrote.

        Args:
            precision: of the network.
            ceilings: of the machine.
            launched: whether the processor starts each; otherwise they are replayed as one graph.
        """
        least = ceilings.launch if launched else 0.0
        seconds = 0.0
        for each in self.operators:
            if each.flops:
                seconds += max(_seconds(each, precision, ceilings), least)
                seconds += max(2 * each.written / ceilings.bandwidth, least)
        return seconds


def _seconds(operator: Operator, precision: str, ceilings: Ceilings) -> float:
    products = operator.flops / ceilings.rate(precision, operator.dtype)
    return max(products, operator.bytes / ceilings.bandwidth)


def _bytes(values: Any) -> int:
    return sum(leaf.nbytes for leaf in tree_leaves(values) if isinstance(leaf, Tensor))
