"""Reading to train from a folder and from a pack, beside the pipeline of public code in this field; memory; opening.

That pipeline decodes with OpenCV, converts BGR to RGB, resizes image and mask bilinearly, flips, makes tensors and
normalises. Ours also crops, draws crops again that lose the foreground, and of a pack looks at the checksum; the
network normalises. One process, one thread. The images are photographs that ship with scikit-learn, enlarged, with
grain; their masks are PNG of three channels, as in iHarmony4.

    python tests/benchmarks/bench_readers.py
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import psutil
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor
from torchvision.transforms import functional

from rsrnet.data.iharmony4 import IHarmony4
from rsrnet.data.lists import read_list
from rsrnet.data.naming import Composite
from rsrnet.data.pack.layout import PackConfig
from rsrnet.data.pack.read import Pack
from rsrnet.data.pack.write import pack
from rsrnet.data.sampler import ShardedBatches
from rsrnet.data.transforms import TrainTransform

SIZE = 224
LIST = "le50_train.txt"
ROWS = 64_255
"""Composites of the published training list."""

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def opencv_pipeline(root: Path, composite: Composite) -> tuple[Tensor, Tensor]:
    """A training sample as public code reads it."""
    image = cv2.cvtColor(cv2.imread(str(root / composite.path)), cv2.COLOR_BGR2RGB)
    mask = cv2.imread(str(root / composite.mask_path))[:, :, 0].astype(np.float32) / 255
    image = cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
    mask = cv2.resize(mask, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
    if random.random() < 0.5:
        image, mask = cv2.flip(image, 1), cv2.flip(mask, 1)
    return functional.normalize(functional.to_tensor(image), MEAN, STD), functional.to_tensor(mask > 0.5)


def make_photographs(root: Path, width: int, height: int, count: int) -> None:
    """A dataset of composites of one size."""
    rng = np.random.default_rng(0)
    sources = load_sample_images().images
    names = []
    for number in range(count):
        composite = Composite.parse(f"HCOCO/composite_images/c{number}_1_1.jpg")
        names.append(composite.path)
        for folder in ("composite_images", "masks"):
            (root / "HCOCO" / folder).mkdir(parents=True, exist_ok=True)
        photograph = Image.fromarray(sources[number % 2]).resize((width, height), Image.Resampling.BICUBIC)
        grain = rng.integers(-4, 5, (height, width, 1))
        pixels = (np.asarray(photograph) + grain).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(root / composite.path, quality=90)
        mask = np.zeros((height, width, 3), np.uint8)
        centre = (int(rng.integers(width // 4, 3 * width // 4)), height // 2)
        cv2.ellipse(mask, centre, (width // 5, height // 4), 30, 0, 360, (255, 255, 255), -1)
        Image.fromarray(mask).save(root / composite.mask_path)
    (root / LIST).write_text("\n".join(names))


def compare_speed(folder: Path, width: int, height: int, count: int, rounds: int) -> None:
    root, packed = folder / f"{width}", folder / f"{width}-pack"
    make_photographs(root, width, height, count)
    start = time.perf_counter()
    pack(root, str(packed), processes=1)
    packing = (time.perf_counter() - start) / count
    composites = read_list(root, LIST)
    of_folder = IHarmony4(root, composites, TrainTransform(SIZE))
    of_pack = IHarmony4(packed, read_list(packed, LIST), TrainTransform(SIZE))
    readers: dict[str, Callable[[int], object]] = {
        "OpenCV pipeline": lambda index: opencv_pipeline(root, composites[index]),
        "folder": of_folder.__getitem__,
        "pack": of_pack.__getitem__,
    }
    # Rounds alternate between the readers, so that other work on the machine slows all of them.
    seconds: dict[str, list[float]] = {name: [] for name in readers}
    for turn in range(rounds + 1):
        for name, read in readers.items():
            start = time.perf_counter()
            for index in range(count):
                read(index)
            if turn:
                seconds[name].append((time.perf_counter() - start) / count)
    best = {name: min(times) for name, times in seconds.items()}
    print(
        f"{width} x {height}: {count} images, best of {rounds} rounds; packing took {packing * 1e3:.0f} ms an image"
    )
    for name, each in best.items():
        print(f"  {name:<16}{1 / each:8.1f} samples/s{best['OpenCV pipeline'] / each:8.2f} x OpenCV pipeline")


def make_rows(root: Path, rows: int) -> None:
    """A dataset of tiny images, all links to the same two files, under names of the published scheme."""
    first = Composite.parse("HCOCO/composite_images/c100000_500000_1.jpg")
    for path in (first.path, first.mask_path):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), "teal").save(root / first.path)
    Image.new("L", (8, 8)).save(root / first.mask_path)
    names = [first.path]
    for number in range(1, rows):
        composite = Composite.parse(f"HCOCO/composite_images/c{100_000 + number}_{500_000 + number}_1.jpg")
        (root / composite.path).symlink_to(root / first.path)
        (root / composite.mask_path).symlink_to(root / first.mask_path)
        names.append(composite.path)
    (root / LIST).write_text("\n".join(names))


def own_memory() -> int:
    """Bytes that only this process has and the system cannot drop: not those that are mapped from files."""
    return sum(region.private_dirty for region in psutil.Process().memory_maps())


def read_and_measure(root: str, samples: int) -> None:
    """What a reader takes for a number of samples, printed as JSON; run in a process of its own."""
    torch.set_num_threads(1)
    IHarmony4(root, read_list(root, LIST)[:1], TrainTransform(SIZE))[0]  # loads what is loaded late
    before, start = own_memory(), time.perf_counter()
    dataset = IHarmony4(root, read_list(root, LIST), TrainTransform(SIZE))
    batches = ShardedBatches(len(dataset), 32, 0, 1, 0, dataset.blocks)
    for index in _first(batches, samples):
        dataset[index]
    figures = {"bytes": own_memory() - before, "seconds": time.perf_counter() - start}
    print(json.dumps(figures))


def _first(batches: ShardedBatches, samples: int) -> Iterator[tuple[int, int]]:
    indices = (index for batch in batches for index in batch)
    return (index for index, _ in zip(indices, range(samples), strict=False))


def compare_size(folder: Path, samples: int, processes: int) -> None:
    sizes: Sequence[int] = (ROWS // 10, ROWS)
    grown: dict[tuple[str, int], float] = {}
    for rows in sizes:
        root, packed = folder / f"rows-{rows}", folder / f"rows-{rows}-pack"
        make_rows(root, rows)
        pack(root, str(packed), PackConfig(), processes=processes)
        for name, where in (("folder", root), ("pack", packed)):
            command = [sys.executable, __file__, "--measure", str(where), "--samples", str(samples)]
            runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(3)]
            # The allocator's holes differ by some hundred kilobytes from run to run.
            grown[name, rows] = median(json.loads(run.stdout)["bytes"] for run in runs)
    print(f"own memory after {samples} samples, beyond that of the imports")
    for name in ("folder", "pack"):
        small, large = (grown[name, rows] / 2**20 for rows in sizes)
        print(
            f"  {name:<8}{sizes[0]:>7,} rows {small:6.1f} MiB, {sizes[1]:>7,} rows {large:6.1f} MiB", end=""
        )
        print(f", {large - small:+.1f} MiB")
    whole = str(folder / f"rows-{ROWS}-pack")
    openings = {
        "pack": lambda: Pack(whole).read_list(LIST, ()),
        "folder": lambda: read_list(folder / f"rows-{ROWS}", LIST),
    }
    times: dict[str, list[float]] = {name: [] for name in openings}
    for _ in range(5):
        for name, opening in openings.items():
            start = time.perf_counter()
            assert len(opening()) == ROWS
            times[name].append(time.perf_counter() - start)
    pack_s, folder_s = median(times["pack"]), median(times["folder"])
    print(
        f"opening {ROWS:,} rows: pack {pack_s * 1e3:.2f} ms, list of the folder {folder_s * 1e3:.0f} ms, ",
        end="",
    )
    print(f"ratio {folder_s / pack_s:.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=3000, help="samples before memory is measured")
    parser.add_argument("--processes", type=int, default=2, help="to make the packs")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        read_and_measure(args.measure, args.samples)
        return
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with TemporaryDirectory() as folder:
        compare_speed(Path(folder), 640, 480, 60, args.rounds)
        compare_speed(Path(folder), 4000, 3000, 8, args.rounds)
        compare_size(Path(folder), args.samples, args.processes)


if __name__ == "__main__":
    main()
