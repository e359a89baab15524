"""The engine's loop with nothing around it: no Ray, no MLflow, no checkpoint.

One process alone, or one for each worker under torchrun:

    python tests/benchmarks/plain_training.py SETTINGS.json OUT.json
    torchrun --nproc-per-node 2 tests/benchmarks/plain_training.py SETTINGS.json OUT.json

``SETTINGS.json`` holds ``root``, ``size``, ``threads``, and the keywords of RSRNetConfig (``model``) and FitConfig
(``fit``). ``OUT.json`` gets the time of the first step, the metrics of each epoch, and the seconds of an agreement.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from rsrnet import engine
from rsrnet.agreement import Agreement
from rsrnet.data.config import DataConfig
from rsrnet.data.iharmony4 import IHarmony4
from rsrnet.data.lists import read_train_val
from rsrnet.data.loader import loader
from rsrnet.data.sampler import ShardedBatches, evaluation_batches
from rsrnet.data.transforms import EvalTransform, TrainTransform
from rsrnet.model.config import RSRNetConfig
from rsrnet.model.network import RSRNet
from rsrnet.randomness import seed_everything
from rsrnet.recipe import FitConfig

AGREEMENTS = 200


def main(settings: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(settings["threads"])
    rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if ranks > 1:
        dist.init_process_group("gloo")
    fit, size = FitConfig(**settings["fit"]), settings["size"]
    seed_everything(fit.seed)
    training = engine.Training(RSRNet(RSRNetConfig(**settings["model"])), fit, size=size)
    data = DataConfig(root=settings["root"], val="le50_val.txt", size=size)
    split = read_train_val(data, fit.seed)
    train = IHarmony4(data.root, split.train, TrainTransform(size), fit.seed)
    val = IHarmony4(data.root, split.val, EvalTransform(size))
    first: list[float] = []
    training.run(
        loader(train, ShardedBatches(len(train), fit.batch_size, rank, ranks, fit.seed), 0),
        loader(val, evaluation_batches(len(val), fit.batch_size // ranks, rank, ranks), 0),
        on_epoch=lambda training: None,
        on_step=lambda progress: first.append(time.time()) if not first else None,
    )
    found = {"first_step": first[0], "history": training.history, "agreement": agreement_seconds()}
    if ranks > 1:
        dist.barrier()
        dist.destroy_process_group()
    return found


def agreement_seconds() -> float:
    """Mean seconds of an agreement of all ranks that have nothing else to do."""
    agreement, loss = Agreement(torch.device("cpu")), torch.zeros(())
    start = time.perf_counter()
    for _ in range(AGREEMENTS):
        agreement.ask(loss, False)
        agreement.answer()
    return (time.perf_counter() - start) / AGREEMENTS


if __name__ == "__main__":
    found = main(json.loads(Path(sys.argv[1]).read_text()))
    if int(os.environ.get("RANK", 0)) == 0:
        Path(sys.argv[2]).write_text(json.dumps(found))
