"""The memory that a step takes at its peak."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile


def peak_bytes(step: Callable[[], None], device: str) -> int:
    """Bytes of all tensors at the step's peak, those that outlive it (weights, moments) included.

    On a processor the allocations are those the profiler records, on top of the tensors that live before the step;
    scratch memory of oneDNN is not among them.
    """
    before = _closure_bytes(step)
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        # Other contenders' tensors are there too.
        there = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        return before + torch.cuda.max_memory_allocated() - there
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    results = recorded.profiler.kineto_results  # type: ignore[union-attr]
    events = [event for event in results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return before + peak


def _closure_bytes(step: Callable[[], None]) -> int:
    """Bytes of the models, optimizers and tensors that a step refers to, each once.

    Without gradients, which a step begins with giving back.
    """
    gc.collect()
    seen: dict[int, int] = {}

    def see(value: object) -> None:
        if isinstance(value, torch.Tensor):
            seen[value.data_ptr()] = value.untyped_storage().nbytes()
        elif isinstance(value, torch.nn.Module):
            for tensor in [*value.parameters(), *value.buffers()]:
                see(tensor)
        elif isinstance(value, torch.optim.Optimizer):
            for state in value.state.values():
                for tensor in state.values():
                    see(tensor)
        elif type(value).__name__ == "Training":
            see(value.model)  # type: ignore[attr-defined]
            see(value.optimizer)  # type: ignore[attr-defined]

    for cell in step.__closure__ or ():
        see(cell.cell_contents)
    return sum(seen.values())
