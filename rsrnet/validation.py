"""Scores of a model during a training: a plain loop over batches, shared among ranks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import overload

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from rsrnet.agreement import Notice, any_rank
from rsrnet.metrics import PUBLISHED, MetricSums, Protocol, image_metrics
from rsrnet.model.network import RSRNet, RSRNetOutput
from rsrnet.nonfinite import DivergedError

MASKS = ("m_fnl", "m_rsr", "m_dec")
"""The three masks of Table 3, the final one first."""


@overload
def evaluate(
    model: RSRNet,
    loader: DataLoader,
    device: torch.device | str,
    *,
    precision: str = ...,
    protocol: Protocol = ...,
) -> dict[str, float]: ...


@overload
def evaluate(
    model: RSRNet,
    loader: DataLoader,
    device: torch.device | str,
    *,
    precision: str = ...,
    protocol: Protocol = ...,
    notice: Notice,
) -> dict[str, float] | None: ...


def evaluate(
    model: RSRNet,
    loader: DataLoader,
    device: torch.device | str,
    *,
    precision: str = "float32",
    protocol: Protocol = PUBLISHED,
    notice: Notice | None = None,
) -> dict[str, float] | None:
    """Mean AP, F1 and IoU over the images of every rank.

    Args:
        model: left in evaluation mode.
        loader: this rank's share of the images.
        device: where the model lives.
        precision: ``float32``, ``tf32`` or ``bfloat16``.
        protocol: how masks are compared.
        notice: what tells to stop before the end.

    Returns:
        None if a notice ended it; else
        ``val/ap``, ``val/f1``, ``val/iou`` of M_fnl, and the same of the other masks as ``val/m_rsr/ap``, ...
    """
    model.eval()
    device = torch.device(device)
    sums = {name: MetricSums() for name in MASKS}
    for target, output in _predictions(model, loader, device, precision):
        if not torch.isfinite(output.m_fnl).all():
            raise DivergedError(
                "the network's masks are no longer numbers: lower fit.lr, or train in float32"
            )
        for name in MASKS:
            sums[name].add(image_metrics(getattr(output, name), target, protocol))
        if notice and notice.asked():
            break
    if notice and any_rank(notice.asked(), device):
        return None
    result: dict[str, float] = {}
    for name in MASKS:
        prefix = "val/" if name == "m_fnl" else f"val/{name}/"
        sums[name].all_reduce()
        result |= {prefix + key: value for key, value in sums[name].mean().items()}
    return result


@torch.no_grad()
def _predictions(
    model: RSRNet, loader: DataLoader, device: torch.device, precision: str
) -> Iterator[tuple[Tensor, RSRNetOutput]]:
    """True masks and the model's output for every batch of a loader, on the device."""
    for batch in loader:
        images = batch["image"].to(device, non_blocking=True)
        target = batch["mask"].to(device, non_blocking=True)
        with autocast(device, precision):
            output = model(images, every_mask=False)
        yield target, output


@contextmanager
def products(precision: str) -> Iterator[None]:
    """Context: whether a GPU multiplies float32 numbers in full, or rounds them to TF32 first, as the recipe says.

    PyTorch by itself rounds those of convolutions.
    """
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    rounded = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = rounded
    torch.set_float32_matmul_precision("high" if rounded else "highest")
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before[0]
        torch.set_float32_matmul_precision(before[1])


@contextmanager
def autocast(device: torch.device, precision: str) -> Iterator[None]:
    """The arithmetic of a forward pass: :func:`products`, and autocast to bfloat16 where the recipe asks for it."""
    with products(precision), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        yield
