"""torch.compile for the steps of a training (``fit.compile``).

The network is compiled in parts: whole, its K iterations would be compiled one behind the other, in K times the time.
What is compiled is for batches of one size; everything else, such as the last batch of an epoch and the validation,
computes as it would without.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from rsrnet.model.network import RSRNet


class CompilerError(RuntimeError):
    """Raised when torch.compile does not work on a machine; the message says why."""


def require_compiler(device: torch.device) -> None:
    """Compile a line, to find out whether that works for a device.

    Raises:
        CompilerError: if it does not: there is no C++ compiler, no Triton, or the GPU is too old for it.
    """

    def line(x: Tensor) -> Tensor:
        return (x + 1).relu().sum()

    compiled: Callable[[Tensor], Tensor] = torch.compile(line, dynamic=False)
    try:
        compiled(torch.ones(8, device=device))
    except Exception as error:  # of whichever of the many tools that take part
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CompilerError(
            f"fit.compile: torch.compile does not work for `{device.type}` on this machine: {reason}\n"
            "  Install a C++ compiler (g++, or the one that $CXX names), for GPUs also Triton; or leave it out."
        ) from error


def compile_parts(model: RSRNet) -> None:
    """Compile a network in place, each part when it is called first.

    What this process has compiled before is forgotten: of one function torch.compile keeps eight variants, and from the
    ninth on, as in a search over architectures, it would compute uncompiled without a word.
    """
    torch.compiler.reset()
    for part in (model.encoder, model.reasoning, model.decoder, model.combination):
        if part is not None:
            part.compile(dynamic=False)


def eager() -> AbstractContextManager[None]:
    """Context: what is compiled in place computes as it would without."""
    return torch.compiler.set_stance("force_eager")


def compiled() -> AbstractContextManager[None]:
    """Context, within :func:`eager`: what is compiled in place is used."""
    return torch.compiler.set_stance("default")
