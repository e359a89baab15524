"""Reading to train from a folder and from a pack, beside the pipeline of public code in this field; memory; opening.

That pipeline decodes with OpenCV, converts BGR to RGB, resizes image and mask bilinearly, flips, makes tensors and
normalises. Ours also crops, draws crops again that lose the foreground, and of a pack looks at the checksum; the
network normalises. One process, one thread. The images are photographs that ship with scikit-learn, enlarged, with
grain; their masks are PNG of three channels, as in iHarmony4.

    python tests/benchmarks/bench_readers.py
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import psutil
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from table import Row, compare, interleaved, markdown_rows
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


def speed_rows(folder: Path, width: int, height: int, count: int, rounds: int) -> list[Row]:
    """Folder and pack against the OpenCV pipeline, on so many photographs of one size."""
    root, packed = folder / f"{width}", folder / f"{width}-pack"
    make_photographs(root, width, height, count)
    pack(root, str(packed), processes=1)
    composites = read_list(root, LIST)
    readers: dict[str, Callable[[int], object]] = {
        "OpenCV": lambda index: opencv_pipeline(root, composites[index]),
        "folder": IHarmony4(root, composites, TrainTransform(SIZE)).__getitem__,
        "pack": IHarmony4(packed, read_list(packed, LIST), TrainTransform(SIZE)).__getitem__,
    }
    seconds = interleaved(
        {name: lambda read=read: [read(index) for index in range(count)] for name, read in readers.items()},
        rounds,
    )
    plain = seconds.pop("OpenCV")
    against = f"the OpenCV pipeline of public code, {count / median(plain):.3g} samples/s"
    conditions = f"{count} photographs of {width} × {height}, 1 process, 1 thread"
    return [
        compare(f"reading to train from a {name}", against, plain, times, conditions=conditions)
        for name, times in seconds.items()
    ]


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


def print_growth(root: str, samples: int) -> None:
    """Print the bytes that a reader takes for a number of samples; run in a process of its own."""
    torch.set_num_threads(1)
    IHarmony4(root, read_list(root, LIST)[:1], TrainTransform(SIZE))[0]  # loads what is loaded late
    before = own_memory()
    dataset = IHarmony4(root, read_list(root, LIST), TrainTransform(SIZE))
    batches = ShardedBatches(len(dataset), 32, 0, 1, 0, dataset.blocks)
    for index in _first(batches, samples):
        dataset[index]
    print(own_memory() - before)


def growth(root: Path, samples: int) -> int:
    """What :func:`print_growth` prints, beyond the memory of the imports."""
    command = [sys.executable, __file__, "--measure", str(root), "--samples", str(samples)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _first(batches: ShardedBatches, samples: int) -> Iterator[tuple[int, int]]:
    indices = (index for batch in batches for index in batch)
    return (index for index, _ in zip(indices, range(samples), strict=False))


def size_rows(folder: Path, rows: int, samples: int, rounds: int, processes: int) -> list[Row]:
    """A list of so many rows: opening it, and its memory beside that of a tenth of the rows."""
    sizes = (rows // 10, rows)
    places: dict[tuple[str, int], Path] = {}
    for size in sizes:
        root, packed = folder / f"rows-{size}", folder / f"rows-{size}-pack"
        make_rows(root, size)
        pack(root, str(packed), PackConfig(), processes=processes)
        places |= {("folder", size): root, ("pack", size): packed}
    return [opening_row(places["folder", rows], places["pack", rows], rows, rounds)] + [
        # Three times, as the allocator's holes differ by some hundred kilobytes from run to run.
        memory_row(name, {size: places[name, size] for size in sizes}, samples, rounds=3)
        for name in ("folder", "pack")
    ]


def opening_row(root: Path, packed: Path, rows: int, rounds: int) -> Row:
    openings = {
        "pack": lambda: Pack(str(packed)).read_list(LIST, ()),
        "folder": lambda: read_list(root, LIST),
    }
    assert all(len(opening()) == rows for opening in openings.values())
    seconds = interleaved(openings, rounds)
    return compare(
        "opening a pack",
        f"reading the list of the folder, {1e3 * median(seconds['folder']):.3g} ms",
        seconds["folder"],
        seconds["pack"],
        conditions=f"{rows:,} rows",
    )


def memory_row(name: str, places: dict[int, Path], samples: int, rounds: int) -> Row:
    (few, small), (many, large) = places.items()
    grown = [(growth(small, samples), growth(large, samples)) for _ in range(rounds)]
    of_few, of_many = zip(*grown, strict=True)
    return compare(
        f"own memory of the reader of a {name}, {many:,} rows",
        f"{few:,} rows: {median(of_few) / 2**20:.3g} MiB",
        of_few,
        of_many,
        conditions=f"after {samples:,} samples, without the imports",
        at_most=True,
    )


def measure(
    rounds: int = 5,
    samples: int = 3000,
    processes: int = 2,
    rows: int = ROWS,
    counts: tuple[int, int] = (60, 8),
) -> list[Row]:
    """Reading small and large photographs, then what a long list costs.

    Args:
        rounds: of everything that is timed.
        samples: read before memory is measured.
        processes: to make the packs.
        rows: of the long list.
        counts: small and large photographs.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    small, large = counts
    with TemporaryDirectory() as name:
        folder = Path(name)
        return [
            *speed_rows(folder, 640, 480, small, rounds),
            *speed_rows(folder, 4000, 3000, large, rounds),
            *size_rows(folder, rows, samples, rounds, processes),
        ]


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
        print_growth(args.measure, args.samples)
        return
    print(markdown_rows(measure(args.rounds, args.samples, args.processes)))


if __name__ == "__main__":
    main()
