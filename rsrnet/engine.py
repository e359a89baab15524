"""Training and evaluation: plain loops over a model, a loader and an optimizer.

Nothing here knows where it runs. Under ``torch.distributed`` (torchrun, Ray Train, ...) every rank calls the same
functions with its own share of the data; otherwise one process does it all.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from rsrnet import checkpoint
from rsrnet.loss_config import LossConfig
from rsrnet.losses import RSRNetLoss
from rsrnet.metrics import PUBLISHED, MetricSums, Protocol, image_metrics
from rsrnet.model.encoder import load_resnet_weights, read_resnet_weights
from rsrnet.model.network import RSRNet, RSRNetOutput
from rsrnet.recipe import FitConfig

MASKS = ("m_fnl", "m_rsr", "m_dec")
"""The three masks of Table 3, the final one first."""

BEST = "val/iou"
"""The best epoch is the one with the highest value of this metric."""


class DivergedError(RuntimeError):
    """Raised when the loss is no longer a number."""


@dataclass(frozen=True)
class Progress:
    """How far a training is, told after every step."""

    epoch: int
    """The epoch in hand, from 1."""

    epochs: int
    step: int
    """Steps done in this epoch."""

    steps: int
    loss: Tensor
    """Mean loss of the epoch so far on this rank, a scalar (reading it waits for the device)."""

    images_per_second: float
    """Over all ranks, since this process began to train."""

    seconds_left: float
    """Until the last epoch ends, validation aside."""


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and PyTorch (section 4.2)."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def load_start(model: RSRNet, config: FitConfig) -> None:
    """Give a fresh model its start: pretrained weights for the encoder where the recipe asks for them.

    Raises:
        WeightsError: if those cannot be had or do not fit.
    """
    if config.encoder_weights != "none":
        weights = read_resnet_weights(config.encoder_weights, model.config.depth)
        load_resnet_weights(model.encoder, weights)


class Training:
    """A training in progress: the model with its optimizer, schedule and history.

    Args:
        model: trained in place.
        config: the recipe.
        loss: the loss's settings.
        size: side of the square input in pixels, kept in the checkpoints.
        device: where the model lives.

    Example:
        >>> training = Training(RSRNet(), FitConfig(epochs=2), size=224)
        >>> training.run(train_loader, val_loader, on_epoch=lambda training: training.save(folder))
    """

    def __init__(
        self,
        model: RSRNet,
        config: FitConfig,
        loss: LossConfig | None = None,
        *,
        size: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.model = model.to(self.device)
        self.config = config
        self.size = size
        self.criterion = RSRNetLoss(loss or LossConfig())
        self.optimizer = torch.optim.Adam(
            model.parameters(), lr=config.lr, betas=(0.9, 0.999), weight_decay=config.weight_decay
        )
        self.schedule = torch.optim.lr_scheduler.MultiStepLR(
            self.optimizer, list(config.milestones), gamma=config.lr_decay
        )
        self.history: list[dict[str, float]] = []

    @property
    def epoch(self) -> int:
        """Epochs completed."""
        return len(self.history)

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics of the last epoch."""
        return self.history[-1]

    @property
    def best_epoch(self) -> int:
        """The epoch, from 1, with the highest validation IoU (the first of equals)."""
        values = [metrics[BEST] for metrics in self.history]
        return values.index(max(values)) + 1

    def run(
        self,
        train: DataLoader,
        val: DataLoader,
        *,
        on_epoch: Callable[[Training], None],
        on_step: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        """Train up to the last epoch; validate and report after each.

        Args:
            train: batches of this rank; its batch sampler follows the epoch.
            val: this rank's share of the validation images.
            on_epoch: called on every rank after each epoch, when ``history`` has grown by it.
            on_step: called on every rank after each step.

        Raises:
            DivergedError: if the loss becomes NaN or infinite.
        """
        network = self._distributed()
        clock = _Clock(self.config.epochs - self.epoch, len(train))
        while self.epoch < self.config.epochs:
            lr = float(self.schedule.get_last_lr()[0])
            metrics = self._train_epoch(network, train, clock, on_step)
            self.schedule.step()
            share_buffers(self.model)
            scores = evaluate(self.model, val, self.device, precision=self.config.precision)
            self.history.append({**scores, "train/lr": lr, **metrics})
            on_epoch(self)

    def _distributed(self) -> nn.Module:
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return self.model
        devices = [self.device] if self.device.type == "cuda" else None
        # Not static_graph: DDP does not look into a dataclass for the outputs, and the first step would go unreduced.
        return DistributedDataParallel(self.model, device_ids=devices, gradient_as_bucket_view=True)

    def _train_epoch(
        self, network: nn.Module, loader: DataLoader, clock: _Clock, on_step: Callable[[Progress], None]
    ) -> dict[str, float]:
        """One pass over the training images; the mean loss terms and the pace."""
        network.train()
        loader.batch_sampler.set_epoch(self.epoch)  # type: ignore[union-attr]
        images = len(loader.dataset)  # type: ignore[arg-type]
        sums = torch.zeros(5, dtype=torch.float64, device=self.device)
        seen = 0
        clock.start_epoch()
        for step, batch in enumerate(loader):
            clock.got_batch()
            size = min(self.config.batch_size, images - step * self.config.batch_size)
            terms = self._step(network, batch, size)
            sums += terms * len(batch["image"])
            seen += len(batch["image"])
            clock.did_step(size)
            on_step(
                Progress(
                    self.epoch + 1,
                    self.config.epochs,
                    step + 1,
                    len(loader),
                    sums[0] / seen,
                    clock.images_per_second,
                    clock.seconds_left,
                )
            )
        total = _reduce(torch.cat([sums, sums.new_tensor([seen])]))
        loss, bce, ssim, iou, final = map(float, total[:5] / total[5])
        if not np.isfinite(loss):
            raise DivergedError(
                f"the loss of epoch {self.epoch + 1} is {loss}: lower fit.lr, or train in float32"
            )
        return {
            "train/loss": loss,
            "train/loss_bce": bce,
            "train/loss_ssim": ssim,
            "train/loss_iou": iou,
            "train/loss_final": final,
            **clock.end_epoch(),
        }

    def _step(self, network: nn.Module, batch: dict[str, Any], batch_size: int) -> Tensor:
        """One optimizer step on this rank's part of a global batch of ``batch_size`` images.

        Returns:
            Mean total, BCE, SSIM, IoU and final-mask loss of this rank's images, (5,).
        """
        images = batch["image"].to(self.device, non_blocking=True)
        target = batch["mask"].to(self.device, non_blocking=True)
        with autocast(self.device, self.config.precision):
            output = network(images)
        terms = self.criterion(output, target)
        # DDP averages over ranks; with uneven shares every image still has the weight 1 / batch_size.
        share = len(images) * _world_size() / batch_size
        self.optimizer.zero_grad(set_to_none=True)
        (terms.total * share).backward()
        self.optimizer.step()
        return torch.stack([terms.total.detach(), terms.bce, terms.ssim, terms.iou, terms.final]).double()

    def save_model(self, folder: Path) -> None:
        """Write a checkpoint folder that predicts, a third as large as :meth:`save`'s."""
        checkpoint.save(folder, self.model, self._card())

    def save(self, folder: Path) -> None:
        """Write a checkpoint folder that predicts, and from which :meth:`resume` goes on."""
        state = {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "history": self.history,
            "random": random_state(self.device),
        }
        checkpoint.save(folder, self.model, self._card(), state)

    def _card(self) -> checkpoint.ModelCard:
        return checkpoint.ModelCard(self.model.config, self.size, self.epoch, self.metrics)

    def resume(self, folder: Path) -> None:
        """Go on from a checkpoint folder, exactly where it was written.

        Raises:
            CheckpointError: if it is damaged or of another architecture.
        """
        checkpoint.load_weights(self.model, folder)
        state = checkpoint.load_training(folder)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.history = state["history"]
        set_random_state(state["random"], self.device)


def evaluate(
    model: RSRNet,
    loader: DataLoader,
    device: torch.device | str,
    *,
    precision: str = "float32",
    protocol: Protocol = PUBLISHED,
) -> dict[str, float]:
    """Mean AP, F1 and IoU over the images of every rank.

    Args:
        model: left in evaluation mode.
        loader: this rank's share of the images.
        device: where the model lives.
        precision: ``float32`` or ``bfloat16``.
        protocol: how masks are compared.

    Returns:
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
def autocast(device: torch.device, precision: str) -> Iterator[None]:
    """Autocast to bfloat16 where the recipe asks for it."""
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        yield


def random_state(device: torch.device) -> dict[str, Tensor]:
    """States of PyTorch's random generators: the processor's, and the device's."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Restore what :func:`random_state` returned, as far as the device is of the same kind."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def share_buffers(model: nn.Module) -> None:
    """Give every rank the mean of all ranks' batch statistics, which each gathers from its own images.

    Otherwise every rank would validate another model, and none of them would be the one that is saved.
    """
    if not dist.is_initialized():
        return
    for buffer in model.buffers():
        if buffer.is_floating_point():
            dist.all_reduce(buffer)
            buffer /= dist.get_world_size()


def _world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def _reduce(values: Tensor) -> Tensor:
    """Sum over all ranks."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


class _Clock:
    """Measures the pace of a training and the part of it spent waiting for data."""

    def __init__(self, epochs: int, steps: int) -> None:
        self.steps_left = epochs * steps
        self.steps_done = 0
        self.images = 0
        self.seconds = 0.0

    def start_epoch(self) -> None:
        self.mark = self.epoch_start = time.perf_counter()
        self.epoch_images = 0
        self.waited = 0.0

    def got_batch(self) -> None:
        self.waited += time.perf_counter() - self.mark

    def did_step(self, images: int) -> None:
        self.seconds += time.perf_counter() - self.mark
        self.mark = time.perf_counter()
        self.images += images
        self.epoch_images += images
        self.steps_done += 1
        self.steps_left -= 1

    def end_epoch(self) -> dict[str, float]:
        seconds = time.perf_counter() - self.epoch_start
        return {
            "time/epoch_seconds": seconds,
            "time/images_per_second": self.epoch_images / seconds,
            "time/waiting_for_data": self.waited / seconds,
        }

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds

    @property
    def seconds_left(self) -> float:
        return self.seconds / self.steps_done * self.steps_left
