"""`make demo`: the whole product once, on the photographs that ship inside scikit-image and scikit-learn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from rsrnet.baselines import all_foreground, two_means
from rsrnet.data.iharmony4 import IHarmony4
from rsrnet.data.lists import read_list
from rsrnet.data.loader import loader
from rsrnet.data.sampler import evaluation_batches
from rsrnet.data.transforms import EvalTransform
from rsrnet.metrics import RAW, MetricSums, image_metrics
from rsrnet_platform import cluster, lookup, predict, spec, train
from rsrnet_platform.errors import UserError
from rsrnet_platform.pictures import pixels
from rsrnet_platform.store import ensure_experiment, open_client, resolve_uri
from rsrnet_platform.terminal import console

HOME = "~/rsrnet"
JOBS = Path(__file__).resolve().parents[2] / "jobs"

Localize = Callable[[Tensor], np.ndarray]
"""From an image, (3, S, S) in [0, 1], to its mask, (S, S)."""


def main() -> None:
    """Make the sample dataset, train, register, predict, compare; what is there already is used again.

    Raises:
        UserError: if the job files are not beside the code, or anything a job refuses.
    """
    training = cast(spec.TrainJob, _job("quickstart.yaml"))
    _make_sample(Path(training.data.root))
    output = Path(HOME).expanduser() / "demo"
    held_out = Path(training.data.root) / training.data.test
    model = f"models:/{training.tracking.model}@champion"
    changes = (f"model={model}", f"input={held_out}", f"output={output}", "overlays=true")
    prediction = cast(spec.PredictJob, _job("predict.yaml", *changes))
    with cluster.connect(training.cluster):
        train.run(training, fresh=False)
        predict.run(prediction, fresh=False)
    uri = resolve_uri(training.tracking)
    scores = compare(training, lookup.resolve(prediction.model, uri))
    Console(highlight=False).print(_table(scores, training.data.size))
    console.print(f"Pictures of the predicted regions: {output / 'overlays'}")
    _show_pages(uri, training.tracking.experiment)


def compare(job: spec.TrainJob, checkpoint: Path) -> dict[str, dict[str, float]]:
    """AP, F1 and IoU of a checkpoint and of the trivial baselines on the test images of a job.

    All are compared with the truth as they are (the raw protocol): the published one stretches every mask to
    [0, 1] first, which turns a constant mask into an empty one.

    Args:
        job: its data section says which images, at which size.
        checkpoint: the folder of the network.

    Returns:
        Means over the images, by method.
    """
    from rsrnet import checkpoint as checkpoints

    model = checkpoints.load_model(checkpoint)
    methods: dict[str, Localize] = {
        "RSRNet": lambda image: model(image[None]).m_fnl[0, 0].numpy(),
        "2-means of colours": lambda image: two_means(pixels(image[None])[0]),
        "all foreground": lambda image: all_foreground(pixels(image[None])[0]),
    }
    test = read_list(job.data.root, job.data.test, job.data.subsets)
    batches = evaluation_batches(len(test), 1, rank=0, world_size=1)
    images = loader(IHarmony4(job.data.root, test, EvalTransform(job.data.size)), batches, processes=0)
    sums = {name: MetricSums() for name in methods}
    with torch.inference_mode(), Progress(console=console, transient=True) as bar:
        for batch in bar.track(images, description="Comparing"):
            for name, localize in methods.items():
                mask = torch.from_numpy(localize(batch["image"][0]))[None, None]
                sums[name].add(image_metrics(mask, batch["mask"], RAW))
    return {name: total.mean() for name, total in sums.items()}


def _show_pages(uri: str, experiment: str) -> None:
    """How to look at the runs and models in a browser."""
    server = uri if uri.startswith("http") else "http://127.0.0.1:5000"
    if server != uri:
        console.print(f"MLflow: .venv/bin/mlflow ui --backend-store-uri {uri}")
    # Its first page is about language models.
    number = ensure_experiment(open_client(uri), uri, experiment)
    console.print(f"Runs, curves and pictures: {server}/#/experiments/{number}/runs")
    console.print(f"Models, and which is champion: {server}/#/models")


def _job(name: str, *overrides: str) -> spec.Job:
    if not (JOBS / name).is_file():
        raise UserError(
            f"{JOBS / name}: there is no such job file; run the demo in a checkout of the project"
        )
    return spec.load(JOBS / name, overrides)


def _make_sample(root: Path) -> None:
    from rsrnet.synthesis.sample import SampleConfig, build_sample

    config = SampleConfig()
    with Progress(console=console) as bar:
        task = bar.add_task("Sample dataset", total=config.train + config.val + config.test)
        report = build_sample(
            root, config, progress=lambda done, total: bar.update(task, completed=done, total=total)
        )
        bar.update(task, completed=bar.tasks[task].total)
    console.print(f"Sample dataset: {report.root}{' (already there)' if report.reused else ''}")


def _table(scores: dict[str, dict[str, float]], size: int) -> Table:
    table = Table(title=f"Held-out photographs, {size} x {size}")
    table.add_column("method")
    for column in ("AP", "F1", "IoU"):
        table.add_column(column, justify="right")
    for name, values in scores.items():
        table.add_row(name, *(f"{values[key]:.3f}" for key in ("ap", "f1", "iou")))
    return table
