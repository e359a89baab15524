"""Prediction jobs beside the test loop of public code in this field; one actor and two; memory for more images.

That loop takes one image at a time from a DataLoader with one process (OpenCV decode, bilinear resize), runs the
network, enlarges the mask to the image's size and saves it as PNG with Pillow, one after the other. Both use the same
network with random weights, one thread, the same JPEG files: crops of photographs that ship with scikit-image and
scikit-learn, from 320 × 240 to 4000 × 3000 pixels. The job also hashes every file, scores every image and finds the
regions.

    python tests/benchmarks/bench_predict.py
    python tests/benchmarks/bench_predict.py --parts soft,actor-memory      # what the table leaves out
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import psutil
import torch
import torch.nn.functional as F
from PIL import Image
from skimage import data as photographs
from sklearn.datasets import load_sample_images
from table import Row, compare, markdown_rows, summary
from torch.utils.data import DataLoader, Dataset

from rsrnet import checkpoint
from rsrnet.model.config import RSRNetConfig
from rsrnet.model.network import RSRNet

SIZES = [
    (640, 480), (320, 240), (480, 640), (1024, 768), (640, 427),
    (1600, 1200), (600, 800), (2400, 1600), (1280, 720), (4000, 3000),
]  # fmt: skip
"""Width and height; every tenth image has 12 megapixels."""

NETWORKS = {
    "small": (RSRNetConfig(depth=18, width=8, iterations=4), 128),
    "paper": (RSRNetConfig(), 224),
}
"""As in jobs/quickstart.yaml, but for the size; and as in jobs/train.yaml."""

NAMES = {"small": "a small network", "paper": "the paper's network"}

ACTORS = {"one process": 0, "one actor": 1, "two actors": 2}
"""Ways to run the job: in one process without Ray, which a machine with two processors does by default; or on Ray."""

BATCH = 8
"""Images of a batch of the job."""

START = 2 * BATCH
"""Images that do not count, so that starting does not: two actors' first batches, if both are there from the beginning.
One that comes later makes its start count."""

PARTS = ("binary", "paper", "memory")
"""What the table has. There are ``soft``, as ``binary`` but with soft masks, and ``actor-memory`` besides."""


class Photographs(Dataset):
    """Images as public code reads them to test."""

    def __init__(self, folder: Path, size: int) -> None:
        self.paths = sorted(folder.iterdir())
        self.size = size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int, int, str]:
        image = cv2.cvtColor(cv2.imread(str(self.paths[index])), cv2.COLOR_BGR2RGB)
        height, width = image.shape[:2]
        image = cv2.resize(image, (self.size, self.size), interpolation=cv2.INTER_LINEAR)
        return torch.from_numpy(image).permute(2, 0, 1).float() / 255, height, width, self.paths[index].stem


def test_loop(model: Path, images: Path, output: Path, masks: str) -> None:
    """What public code does to test a network and to save its masks."""
    network = checkpoint.load_model(model)
    output.mkdir(parents=True)
    loader = DataLoader(Photographs(images, checkpoint.read_card(model).size), batch_size=1, num_workers=1)
    with torch.inference_mode():
        for image, height, width, (name,) in loader:
            mask = network(image).m_fnl
            mask = F.interpolate(mask, (int(height), int(width)), mode="bilinear", align_corners=False)
            pixels = mask[0, 0].numpy()
            grey = pixels * 255 if masks == "soft" else (pixels >= 0.5) * 255
            Image.fromarray(grey.astype(np.uint8)).save(output / f"{name}.png")


def predict_job(model: Path, images: Path, output: Path, masks: str, actors: int) -> None:
    """A prediction job: in this process, or on a cluster that has a CPU for each actor and one more."""
    from rsrnet_platform import cluster, predict, spec

    cluster.settle_environment()
    import ray

    if actors:
        ray.init(address="local", num_cpus=actors + 1, logging_level="ERROR", log_to_driver=False)
    given = {"kind": "predict", "name": "bench", "model": str(model), "input": str(images)}
    more = {"output": str(output), "masks": masks, "batch_size": BATCH, "cluster": {"workers": actors}}
    job = spec.parse({**given, **more})
    assert isinstance(job, spec.PredictJob)
    predict.run(job, fresh=False)
    ray.shutdown()


def make_photographs(folder: Path, count: int) -> None:
    """JPEG files of mixed sizes, each another crop."""
    folder.mkdir()
    names = ("astronaut", "chelsea", "coffee", "rocket")
    sources = [*(getattr(photographs, name)() for name in names), *load_sample_images().images]
    rng = np.random.default_rng(0)
    for number in range(count):
        source = Image.fromarray(sources[number % len(sources)])
        width, height = SIZES[number % len(SIZES)]
        scale = rng.uniform(0.6, 1.0) * min(source.width / width, source.height / height)
        box = [round(scale * width), round(scale * height)]
        left, top = (
            int(rng.integers(0, have - need + 1)) for have, need in zip(source.size, box, strict=True)
        )
        crop = source.crop((left, top, left + box[0], top + box[1]))
        crop.resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{number:05d}.jpg", quality=90)


def make_links(folder: Path, images: Path, times: int) -> None:
    """The same images under so many times as many names."""
    folder.mkdir()
    for path in sorted(images.iterdir()):
        for number in range(times):
            os.link(path, folder / f"{path.stem}-{number}.jpg")


def make_model(folder: Path, name: str) -> None:
    torch.manual_seed(0)
    config, size = NETWORKS[name]
    checkpoint.save(folder, RSRNet(config), checkpoint.ModelCard(config, size=size))


def measured(
    what: str, folder: Path, images: Path, network: str, masks: str, *, memory: bool = False
) -> float:
    """Run one of both in a process of its own; its images a second, or if asked its peak memory in bytes.

    Memory is the sum of the proportional set sizes of the process and all that it started: shared pages, such as those
    of the object store, count once. Looking takes processor time, so times are taken without.
    """
    output = folder / "output"
    shutil.rmtree(output, ignore_errors=True)
    places = map(str, (folder / network, images, output))
    process = psutil.Popen([sys.executable, __file__, "--only", what, *places, masks])
    peak = 0
    while memory and process.poll() is None:
        peak = max(peak, sum(map(own_memory, [process, *process.children(recursive=True)])))
        time.sleep(1)
    assert process.wait() == 0
    times = sorted(path.stat().st_mtime for path in output.rglob("*.png"))
    assert len(times) == len(list(images.iterdir()))
    if memory:
        return peak
    assert len(times) > START
    return (len(times) - START) / (times[-1] - times[START - 1])


def own_memory(process: psutil.Process) -> int:
    try:
        return process.memory_full_info().pss
    except psutil.Error:
        return 0


def rates(folder: Path, images: Path, network: str, masks: str, rounds: int) -> dict[str, list[float]]:
    """Images a second of the loop and of each way to run the job, in each round; rounds alternate."""
    found: dict[str, list[float]] = {what: [] for what in ("loop", *ACTORS)}
    for _ in range(rounds):
        for what, values in found.items():
            values.append(measured(what, folder, images, network, masks))
    return found


def rate_rows(folder: Path, images: Path, network: str, masks: str, rounds: int) -> list[Row]:
    """Every way to run the job against the loop; and two actors against one where the network takes the time."""
    found = rates(folder, images, network, masks, rounds)
    what = f"predicting with {NAMES[network]}, {masks} masks, images/s"
    width, size = NETWORKS[network][0].width, NETWORKS[network][1]
    conditions = f"width {width}, {size} px, {len(list(images.iterdir()))} files, one thread each"

    def row(ours: str, theirs: str, name: str) -> Row:
        against = f"{name}, {median(found[theirs]):.3g} images/s"
        ratios = [mine / other for mine, other in zip(found[ours], found[theirs], strict=True)]
        return summary(f"{what}: {ours}", against, ratios, conditions=conditions)

    rows = [row(way, "loop", "the test loop of public code") for way in ACTORS]
    return rows if network == "small" else [*rows, row("two actors", "one actor", "one actor")]


def memory_row(folder: Path, way: str) -> Row:
    """Ten times as many images against so many; once, as it takes long and hardly varies."""
    few, many = folder / "images", folder / "many"
    if not many.exists():
        make_links(many, few, 10)
    count = len(list(few.iterdir()))
    of_few, of_many = (
        measured(way, folder, images, "small", "binary", memory=True) for images in (few, many)
    )
    return compare(
        f"peak memory of predicting, {way}: {10 * count:,} images",
        f"{count:,} images, {of_few / 2**20:,.0f} MiB",
        [of_few],
        [of_many],
        conditions="a small network, all processes together",
        at_most=True,
    )


def measure(
    count: int = 300, paper_count: int = 48, rounds: int = 2, parts: Sequence[str] = PARTS
) -> list[Row]:
    """The parts asked for.

    Args:
        count: images for the small network.
        paper_count: images for the paper's.
        rounds: of what is timed.
        parts: of ``PARTS`` and what it leaves out.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        images, fewer = folder / "images", folder / "fewer"
        make_photographs(images, count)
        make_photographs(fewer, paper_count)
        for network in NETWORKS:
            make_model(folder / network, network)
        known: dict[str, Callable[[], list[Row]]] = {
            "binary": lambda: rate_rows(folder, images, "small", "binary", rounds),
            "soft": lambda: rate_rows(folder, images, "small", "soft", rounds),
            "paper": lambda: rate_rows(folder, fewer, "paper", "binary", rounds),
            "memory": lambda: [memory_row(folder, "one process")],
            "actor-memory": lambda: [memory_row(folder, "one actor")],
        }
        return [row for part in parts for row in known[part]()]


def run_only(what: str, model: Path, images: Path, output: Path, masks: str) -> None:
    """One of both, in the process that was started for it."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if what == "loop":
        test_loop(model, images, output, masks)
    else:
        predict_job(model, images, output, masks, actors=ACTORS[what])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--paper-count", type=int, default=48, help="images for the network of the paper")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--parts", default=",".join(PARTS), help="what to measure; also soft, actor-memory")
    parser.add_argument("--only", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        what, *places, masks = args.only
        run_only(what, *map(Path, places), masks)
        return
    print(markdown_rows(measure(args.count, args.paper_count, args.rounds, args.parts.split(","))))


if __name__ == "__main__":
    main()
