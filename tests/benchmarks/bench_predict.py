"""Prediction jobs beside the test loop of public code in this field; one actor and two; memory for more images.

That loop takes one image at a time from a DataLoader with one process (OpenCV decode, bilinear resize), runs the
network, enlarges the mask to the image's size and saves it as PNG with Pillow, one after the other. Both use the same
network with random weights, one thread, the same JPEG files: crops of photographs that ship with scikit-image and
scikit-learn, from 320 × 240 to 4000 × 3000 pixels. The job also hashes every file, scores every image and finds the
regions.

    python tests/benchmarks/bench_predict.py
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import psutil
import torch
import torch.nn.functional as F
from PIL import Image
from skimage import data as photographs
from sklearn.datasets import load_sample_images
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

ACTORS = {"process": 0, "1 actor": 1, "2 actors": 2}
"""Ways to run the job: in one process without Ray, which a machine with two processors does by default; or on Ray."""

BATCH = 8
"""Images of a batch of the job."""


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
    what: str, folder: Path, images: Path, model: Path, masks: str, *, memory: bool
) -> dict[str, float]:
    """Run one of both in a process of its own; its images a second, its seconds, and if asked its peak memory.

    Memory is the sum of the proportional set sizes of the process and all that it started: shared pages, such as those
    of the object store, count once. Looking takes processor time, so times are taken without.
    """
    output = folder / "output"
    shutil.rmtree(output, ignore_errors=True)
    start = time.perf_counter()
    process = psutil.Popen(
        [sys.executable, __file__, "--only", what, *map(str, (model, images, output, masks))]
    )
    peak = 0
    while memory and process.poll() is None:
        peak = max(peak, sum(map(own_memory, [process, *process.children(recursive=True)])))
        time.sleep(1)
    assert process.wait() == 0
    seconds = time.perf_counter() - start
    times = sorted(path.stat().st_mtime for path in output.rglob("*.png"))
    assert len(times) == len(list(images.iterdir()))
    # From the end of the first batch on: what a process needs to start does not depend on the images.
    rest = times[BATCH - 1 :]
    return {"rate": (len(rest) - 1) / (rest[-1] - rest[0]), "seconds": seconds, "bytes": peak}


def own_memory(process: psutil.Process) -> int:
    try:
        return process.memory_full_info().pss
    except psutil.Error:
        return 0


def compare(
    folder: Path, images: Path, name: str, masks: str, rounds: int, whats: list[str], *, memory: bool = False
) -> None:
    model = folder / name
    make_model(model, name)
    runs: dict[str, list[dict[str, float]]] = {what: [] for what in whats}
    # Rounds alternate, so that other work on the machine slows all of them.
    for _ in range(rounds):
        for what in whats:
            runs[what].append(measured(what, folder, images, model, masks, memory=memory))
    best = {what: max(each["rate"] for each in found) for what, found in runs.items()}
    count = len(list(images.iterdir()))
    print(f"{name} network, {masks} masks, {count} images, {rounds} rounds:", flush=True)
    for what, found in runs.items():
        rates = ", ".join(f"{each['rate']:.2f}" for each in found)
        seconds = min(each["seconds"] for each in found)
        peak = f", {mean(each['bytes'] for each in found) / 2**20:7.0f} MiB" if memory else ""
        ratio = best[what] / best[whats[0]]
        line = f"  {what:<10}{best[what]:8.2f} images/s ({rates}) {ratio:6.2f} x {whats[0]}, {seconds:6.1f} s in all"
        print(line + peak, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--paper-count", type=int, default=64, help="images for the network of the paper")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--parts", default="binary,soft,paper,memory", help="what to measure")
    parser.add_argument("--only", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        what, *places, masks = args.only
        model, images, output = map(Path, places)
        if what == "loop":
            test_loop(model, images, output, masks)
        else:
            predict_job(model, images, output, masks, actors=ACTORS[what])
        return
    parts = args.parts.split(",")
    whats = ["loop", *ACTORS]
    with TemporaryDirectory() as name:
        folder = Path(name)
        make_photographs(folder / "images", args.count)
        for masks in ("binary", "soft"):
            if masks in parts:
                compare(folder, folder / "images", "small", masks, args.rounds, whats)
        if "paper" in parts:
            make_photographs(folder / "few", args.paper_count)
            compare(folder, folder / "few", "paper", "binary", args.rounds, whats)
        if "memory" in parts:
            make_links(folder / "many", folder / "images", 10)
            for images in ("images", "many"):
                compare(folder, folder / images, "small", "binary", 1, [*ACTORS][:2], memory=True)


if __name__ == "__main__":
    print(json.dumps({"cores": os.cpu_count(), "torch": torch.__version__})) if len(sys.argv) < 2 else None
    main()
