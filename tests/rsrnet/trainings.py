"""Trainings of a tiny network on the dataset of squares, in this process or on ranks of their own."""

from __future__ import annotations

import gc
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from rsrnet import engine
from rsrnet.data.iharmony4 import IHarmony4
from rsrnet.data.lists import read_list
from rsrnet.data.loader import loader
from rsrnet.data.sampler import ShardedBatches, evaluation_batches
from rsrnet.data.transforms import EvalTransform, TrainTransform
from rsrnet.model.config import RSRNetConfig
from rsrnet.model.network import RSRNet
from rsrnet.randomness import seed_everything
from rsrnet.recipe import FitConfig

SIZE = 32


def loaders(root: Path, recipe: FitConfig, rank: int = 0, world_size: int = 1):
    train, val = read_list(root, "le50_train.txt"), read_list(root, "le50_val.txt")
    batches = ShardedBatches(len(train), recipe.batch_size, rank, world_size, recipe.seed)
    return (
        loader(IHarmony4(root, train, TrainTransform(SIZE), recipe.seed), batches, 0),
        loader(
            IHarmony4(root, val, EvalTransform(SIZE)), evaluation_batches(len(val), 2, rank, world_size), 0
        ),
    )


def start(tiny: RSRNetConfig, recipe: FitConfig) -> engine.Training:
    seed_everything(recipe.seed)
    return engine.Training(RSRNet(tiny), recipe, size=SIZE)


def losses(training: engine.Training) -> list[float]:
    return [metrics["train/loss"] for metrics in training.history]


def run(training: engine.Training, root: Path, on_epoch=lambda training: None) -> engine.Training:
    training.run(*loaders(root, training.config), on_epoch=on_epoch)
    return training


def spawn(target, world_size: int, *arguments) -> None:
    """Run a function on every rank of a process group of its own."""
    with TemporaryDirectory() as folder:
        mp.start_processes(
            _on_rank,
            (target, world_size, f"file://{folder}/store", arguments),
            nprocs=world_size,
            start_method="spawn",
        )


def _on_rank(rank: int, target, world_size: int, store: str, arguments) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
    target(rank, world_size, *arguments)
    # Gloo's threads end with the last reference to the group, which a DDP in a reference cycle holds; a process
    # that leaves while they run, or while its peer still talks to it, is aborted now and then.
    gc.collect()
    dist.barrier()
    dist.destroy_process_group()


def train_on_rank(
    rank: int, world_size: int, root: Path, config, recipe, out: Path, frozen_statistics: bool
) -> None:
    training = start(config, recipe)
    if frozen_statistics:
        training.model.train = lambda mode=True: torch.nn.Module.train(training.model, False)  # type: ignore[method-assign]
    training.run(
        *loaders(root, recipe, rank, world_size),
        on_epoch=lambda training: training.save(out) if rank == 0 else None,
    )
