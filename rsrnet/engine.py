"""Training: a plain loop over a model, loaders and an optimizer.

Nothing here knows where it runs. Under ``torch.distributed`` (torchrun, Ray Train, ...) every rank calls the same
functions with its own share of the data; otherwise one process does it all.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from rsrnet import checkpoint
from rsrnet.agreement import Agreement, NoNotice, Notice, any_rank
from rsrnet.clock import Clock, Steady
from rsrnet.compilation import compile_parts, compiled, eager, require_compiler
from rsrnet.loss_config import LossConfig
from rsrnet.losses import RSRNetLoss
from rsrnet.model.encoder import load_resnet_weights, read_resnet_weights
from rsrnet.model.network import RSRNet
from rsrnet.nonfinite import MOST_IN_A_ROW, BadBatch, DivergedError, gather
from rsrnet.phases import BACKWARD, COPY, FORWARD, LOSS, OPTIMIZER, Phases
from rsrnet.randomness import random_state, set_random_state
from rsrnet.ranks import from_rank_zero, share_buffers, sum_over_ranks, world_size
from rsrnet.recipe import FitConfig
from rsrnet.validation import autocast, evaluate, products

BEST = "val/iou"
"""The best epoch is the one with the highest value of this metric."""


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
    """Over all ranks, since this process began to train, its first step aside."""

    seconds_left: float
    """Until the last epoch ends, validation aside."""

    steady: Steady
    """How this rank spent its time so far, the first step of each epoch aside."""


def load_start(model: RSRNet, config: FitConfig) -> None:
    """Give a fresh model its start: pretrained weights for the encoder where the recipe asks for them.

    Raises:
        WeightsError: if those cannot be had or do not fit.
    """
    if config.encoder_weights != "none":
        weights = read_resnet_weights(config.encoder_weights, model.config.depth)
        load_resnet_weights(model.encoder, weights)


@dataclass
class Partial:
    """An epoch in hand: what a training that is interrupted in it needs to go on behind its last step."""

    step: int = 0
    """Steps done."""

    sums: Tensor = field(default_factory=lambda: torch.zeros(6, dtype=torch.float64))
    """This rank's sums of the five loss terms over its images, and the number of these images."""

    skipped: int = 0
    """Steps left out because the loss was not finite."""

    shared: bool = False
    """Whether the ranks have shared their batch statistics, as they do behind the last step."""


@dataclass(frozen=True)
class _Callbacks:
    """What a training calls on its way; see :meth:`Training.run`."""

    on_epoch: Callable[[Training], None]
    on_step: Callable[[Progress], None]
    keep: Callable[[BadBatch], str | None] | None
    notice: Notice
    phases: Phases


class Training:
    """A training in progress: the model with its optimizer, schedule and history.

    Args:
        model: trained in place.
        config: the recipe.
        loss: the loss's settings.
        size: side of the square input in pixels, kept in the checkpoints.
        device: where the model lives.

    Raises:
        CompilerError: if the recipe asks for torch.compile, and it does not work here.

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
        self.model.checkpoint_iterations = config.checkpoint_iterations
        if config.compile:
            require_compiler(self.device)
            compile_parts(self.model)
        self.config = config
        self.size = size
        self.criterion = RSRNetLoss(loss or LossConfig())
        self.optimizer = torch.optim.Adam(
            model.parameters(),
            lr=config.lr,
            betas=(0.9, 0.999),
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.schedule = torch.optim.lr_scheduler.MultiStepLR(
            self.optimizer, list(config.milestones), gamma=config.lr_decay
        )
        self.history: list[dict[str, float]] = []
        self.partial = Partial()
        self._skipped_in_a_row = 0

    @property
    def epoch(self) -> int:
        """Epochs completed."""
        return len(self.history)

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics of the last epoch that was completed; none before."""
        return self.history[-1] if self.history else {}

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
        keep: Callable[[BadBatch], str | None] | None = None,
        notice: Notice | None = None,
        phases: Phases | None = None,
    ) -> bool:
        """Train up to the last epoch; validate and report after each.

        Args:
            train: batches of this rank; its batch sampler follows the epoch, and can begin in the middle of one.
            val: this rank's share of the validation images.
            on_epoch: called on every rank after each epoch, when ``history`` has grown by it.
            on_step: called on every rank after each step.
            keep: called on rank 0 with the batch whose loss ended the training; says where it was saved, if it was.
            notice: what tells the training to stop before its end.
            phases: looks at the parts of each step.

        Returns:
            Whether the last epoch is done. If not, a notice ended the training: :meth:`save` what there is, and a
            training that resumes it goes on behind the last step, to the same numbers.

        Raises:
            DivergedError: if the loss becomes NaN or infinite. The step that it would have led to is not taken.
        """
        callbacks = _Callbacks(on_epoch, on_step, keep, notice or NoNotice(), phases or Phases())
        with eager() if self.config.compile else nullcontext():
            return self._run(train, val, callbacks)

    def _run(self, train: DataLoader, val: DataLoader, callbacks: _Callbacks) -> bool:
        network = self._distributed(callbacks.phases)
        clock = Clock((self.config.epochs - self.epoch) * len(train) - self.partial.step)
        while self.epoch < self.config.epochs:
            clock.start_epoch()
            if not self._train_steps(network, train, clock, callbacks):
                return False
            metrics = self._epoch_metrics() | clock.end_epoch()
            if not self.partial.shared:
                share_buffers(self.model)
                self.partial.shared = True
            precision = self.config.precision
            scores = evaluate(self.model, val, self.device, precision=precision, notice=callbacks.notice)
            if scores is None:
                return False
            lr = float(self.schedule.get_last_lr()[0])
            self.schedule.step()
            self.history.append({**scores, "train/lr": lr, **metrics})
            self.partial = Partial()
            callbacks.on_epoch(self)
        return True

    def _is_idle(self) -> bool:
        """Whether the device has done all that it was given."""
        return self.device.type != "cuda" or torch.cuda.current_stream(self.device).query()

    def _distributed(self, phases: Phases) -> nn.Module:
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return self.model
        devices = [self.device] if self.device.type == "cuda" else None
        # Not static_graph: DDP does not look into a dataclass for the outputs, and the first step would go unreduced.
        network = DistributedDataParallel(self.model, device_ids=devices, gradient_as_bucket_view=True)
        phases.watch(network)
        return network

    def _train_steps(
        self, network: nn.Module, loader: DataLoader, clock: Clock, callbacks: _Callbacks
    ) -> bool:
        """Train what is left of the epoch; whether it was trained to its end."""
        network.train()
        notice, phases = callbacks.notice, callbacks.phases
        done = self.partial
        loader.batch_sampler.set_epoch(self.epoch, done.step)  # type: ignore[union-attr]
        images = len(loader.dataset)  # type: ignore[arg-type]
        sums = done.sums = done.sums.to(self.device)
        agreement = Agreement(self.device)
        for batch in phases.batches(loader):
            clock.got_batch(idle=self._is_idle())
            size = min(self.config.batch_size, images - done.step * self.config.batch_size)
            look = notice.asked() or notice.due()
            # Compiled for one size of batches: the last of an epoch would be compiled for itself alone.
            full = size == min(self.config.batch_size, images)
            with compiled() if self.config.compile and full else nullcontext():
                terms, look = self._step(network, batch, size, agreement, look, phases)
            done.step += 1
            if isinstance(terms, Bad):
                self._skip_or_stop(batch, loader.dataset, terms.loss, callbacks.keep)
            else:
                self._skipped_in_a_row = 0
                count = len(batch["image"])
                # Of the device's own making: a number from here would wait for all that the device has to do.
                sums += torch.cat([terms, torch.ones_like(terms[:1])]) * count
            clock.did_step(size)
            callbacks.on_step(
                Progress(
                    self.epoch + 1,
                    self.config.epochs,
                    done.step,
                    len(loader),
                    sums[0] / sums[5],
                    clock.images_per_second,
                    clock.seconds_left,
                    clock.steady,
                )
            )
            # Behind the last step the ranks' batch statistics are shared first; the validation looks again.
            if look and done.step < len(loader) and any_rank(notice.look() or notice.asked(), self.device):
                return False
        return True

    def _step(
        self,
        network: nn.Module,
        batch: dict[str, Any],
        batch_size: int,
        agreement: Agreement,
        look: bool,
        phases: Phases,
    ) -> tuple[Tensor | Bad, bool]:
        """One optimizer step on this rank's part of a global batch of ``batch_size`` images, if all losses are finite.

        Returns:
            Mean total, BCE, SSIM, IoU and final-mask loss of this rank's images, (5,), or that the step was not taken
            on any rank; and whether any rank wants to look whether to stop.
        """
        with phases.part(COPY):
            images = batch["image"].to(self.device, non_blocking=True)
            target = batch["mask"].to(self.device, non_blocking=True)
        buffers = self._copy_of_buffers()
        # Before the forward pass, at whose end memory is at its peak.
        self.optimizer.zero_grad(set_to_none=True)
        with phases.part(FORWARD), autocast(self.device, self.config.precision):
            output = network(images)
        with phases.part(LOSS):
            terms = self.criterion(output, target)
        agreement.ask(terms.total, look)
        # DDP averages over ranks; with uneven shares every image still has the weight 1 / batch_size.
        share = len(images) * world_size() / batch_size
        with phases.part(BACKWARD), products(self.config.precision):
            (terms.total * share).backward()
        bad, look = agreement.answer()
        if bad:
            self._restore(buffers)
            return Bad(float(terms.total.detach())), look
        with phases.part(OPTIMIZER):
            self.optimizer.step()
        return torch.stack(
            [terms.total.detach(), terms.bce, terms.ssim, terms.iou, terms.final]
        ).double(), look

    def _copy_of_buffers(self) -> list[Tensor]:
        """The batch statistics, which the forward pass of a bad batch spoils; none where a bad batch ends it all."""
        if self.config.on_nonfinite == "stop":
            return []
        return [buffer.clone() for buffer in self.model.buffers()]

    def _restore(self, buffers: list[Tensor]) -> None:
        for buffer, value in zip(self.model.buffers(), buffers, strict=False):
            buffer.copy_(value)

    def _skip_or_stop(
        self, batch: dict[str, Any], dataset: Any, loss: float, keep: Callable[[BadBatch], str | None] | None
    ) -> None:
        """Count a step that was not taken, or end the training.

        Raises:
            DivergedError: naming the batch, and where it was saved.
        """
        self.partial.skipped += 1
        self._skipped_in_a_row += 1
        if self.config.on_nonfinite == "skip" and self._skipped_in_a_row < MOST_IN_A_ROW:
            return
        bad = gather(self.epoch + 1, self.partial.step, loss, batch, dataset)
        # No rank ends before the batch is saved: whoever runs them may end the others with the first.
        file = from_rank_zero(lambda: keep(bad)) if keep else None
        where = f", and was saved as {file}" if file else ""
        if self.config.on_nonfinite == "skip":
            remedy = f"It was the {MOST_IN_A_ROW}th such step in a row: lower fit.lr, or train in float32."
        else:
            remedy = (
                "Look at these images, lower fit.lr, or train in float32; fit.on_nonfinite: skip leaves such "
                "steps out."
            )
        raise DivergedError(f"{bad}{where}.\n  {remedy}")

    def _epoch_metrics(self) -> dict[str, float]:
        """Mean loss terms of the epoch over all ranks, and the steps left out where they may be."""
        total = sum_over_ranks(self.partial.sums.clone())
        loss, bce, ssim, iou, final = map(float, total[:5] / total[5])
        if not np.isfinite(loss):
            raise DivergedError(f"no step of epoch {self.epoch + 1} had a finite loss: lower fit.lr")
        metrics = {
            "train/loss": loss,
            "train/loss_bce": bce,
            "train/loss_ssim": ssim,
            "train/loss_iou": iou,
            "train/loss_final": final,
        }
        if self.config.on_nonfinite == "skip":
            metrics["train/skipped_steps"] = float(self.partial.skipped)
        return metrics

    def save_model(self, folder: Path) -> None:
        """Write a checkpoint folder that predicts, a third as large as :meth:`save`'s."""
        checkpoint.save(folder, self.model, self._card())

    def save(self, folder: Path) -> None:
        """Write a checkpoint folder that predicts, and from which :meth:`resume` goes on: after an epoch."""
        self._save(folder, None)

    def sums_of_all_ranks(self) -> Tensor:
        """``partial.sums`` of every rank, (ranks, 6) on the CPU; all ranks call it."""
        own = self.partial.sums.to(self.device)
        if not dist.is_initialized():
            return own[None].cpu()
        every = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(every, own)
        return torch.stack(every).cpu()

    def save_partial(self, folder: Path, sums: Tensor) -> None:
        """Write a checkpoint folder in the middle of an epoch, with what :meth:`sums_of_all_ranks` returned."""
        self._save(folder, {**vars(self.partial), "sums": sums})

    def _save(self, folder: Path, partial: dict[str, Any] | None) -> None:
        state = {
            "partial": partial,
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
        for group in self.optimizer.param_groups:
            group["fused"] = True  # an older checkpoint says nothing of it
        self._lay_out_moments()
        self.schedule.load_state_dict(state["schedule"])
        self.history = state["history"]
        if partial := state.get("partial"):
            self.partial = Partial(**{**partial, "sums": self._share_of(partial["sums"])})
        if self.epoch or self.partial.step:
            # That the optimizer was stepped is in no state dict, and the schedule looks for it: behind the last step
            # of the first epoch it would warn of a wrong order.
            self.optimizer._opt_called = True  # type: ignore[attr-defined]
        set_random_state(state["random"], self.device)

    def _lay_out_moments(self) -> None:
        """Lay Adam's moments out in memory as their parameters: its fused step goes through both in memory's order."""
        for parameter, moments in self.optimizer.state.items():
            for name in ("exp_avg", "exp_avg_sq"):
                moments[name] = torch.empty_like(parameter).copy_(moments[name])

    @staticmethod
    def _share_of(sums: Tensor) -> Tensor:
        """This rank's part of all ranks' sums: its own, or everything on rank 0 where their number has changed."""
        rank = dist.get_rank() if dist.is_initialized() else 0
        if len(sums) == world_size():
            return sums[rank].clone()
        return sums.sum(0) if rank == 0 else torch.zeros_like(sums[0])


@dataclass(frozen=True)
class Bad:
    """A step that was not taken, because the loss of a rank was not finite."""

    loss: float
    """Of this rank."""
