"""Build a dataset of composites from photographs, in the layout in which iHarmony4 is published."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
from PIL import Image as PillowImage
from threadpoolctl import threadpool_limits

from rsrnet.synthesis.compose import View, compose_view
from rsrnet.synthesis.photos import (
    SPLITS,
    Photograph,
    PhotographError,
    Split,
    built_in_photographs,
    folder_photographs,
    problem_of,
    raise_problems,
)
from rsrnet.synthesis.plan import Job, SampleConfig, plan_views, split_photographs
from rsrnet.synthesis.transfers import Image

SUB_DATASET = "Sample"
"""The sub-dataset that generated composites form; their names begin with its first letter, in lower case."""

Progress: TypeAlias = Callable[[int, int], None]
"""Called as ``progress(done, total)``, in composites, now and then."""

_VERSION = 1
"""Raised whenever the same seed begins to give other bytes, so that an older folder is not reused."""

_JPEG_QUALITY = 95
_MOST_PROCESSES = 16
_CHUNK = 4

_T = TypeVar("_T")
_R = TypeVar("_R")


class SampleError(ValueError):
    """Raised when the folder for a sample holds something else."""


@dataclass(frozen=True)
class SampleReport:
    """What a sample holds."""

    root: Path
    """The dataset folder."""

    composites: dict[Split, int]
    """Composites of each split."""

    photographs: dict[Split, tuple[str, ...]]
    """The photographs of each split, as they are named in the names of their composites."""

    reused: bool
    """Whether the folder held this very sample already."""


class _Map(Protocol):
    """``map`` in order, here or in worker processes."""

    def __call__(self, work: Callable[[_T], _R], items: Iterable[_T], /) -> Iterator[_R]: ...


def build_sample(
    out: Path,
    config: SampleConfig,
    *,
    images: Path | None = None,
    masks: Path | None = None,
    progress: Progress | None = None,
    processes: int | None = None,
) -> SampleReport:
    """Build a dataset folder of composites, split by photograph.

    The photographs are those inside scikit-image and scikit-learn, or a user's own. The folder appears when
    it is complete; ``sample.json`` in it records the configuration and the photographs of each split.

    Args:
        out: the folder to make. If it holds this very sample already, it is left as it is.
        config: what to build.
        images: a folder of the user's own photographs, at least three; none: the built-in ones.
        masks: a folder with a mask for each of them; none: regions are drawn at random.
        progress: told how many composites are done, and of how many.
        processes: worker processes; default: as many as there are processors. More than one are spawned, so
            a script that calls this must guard its main part with ``if __name__ == "__main__"``.

    Returns:
        What the folder holds, and whether it did so before.

    Raises:
        PhotographError: if photographs or masks cannot be used or are too few, by name.
        CompositionError: if a photograph gives no acceptable composite.
        SampleError: if ``out`` holds something else.
    """
    photographs = _photographs(config, images, masks)
    manifest = _manifest(config, photographs)
    reused = _holds(out, manifest)
    if not reused:
        out.parent.mkdir(parents=True, exist_ok=True)
        with (
            TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch,
            _mapping(processes) as map_,
        ):
            if images is not None:
                _check(photographs, map_)
            root = Path(scratch) / "sample"
            _write(root, plan_views(config, photographs), map_, progress)
            (root / "sample.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
            root.rename(out)
    return SampleReport(
        root=out,
        composites={split: getattr(config, split) for split in SPLITS},
        photographs={split: tuple(photo.slug for photo in photographs[split]) for split in SPLITS},
        reused=reused,
    )


def _photographs(
    config: SampleConfig, images: Path | None, masks: Path | None
) -> dict[Split, tuple[Photograph, ...]]:
    if images is not None:
        return split_photographs(folder_photographs(images, masks), config)
    if masks is not None:
        raise PhotographError(f"masks were given ({masks}) without their images: give the images' folder too")
    return built_in_photographs()


def _manifest(config: SampleConfig, photographs: dict[Split, tuple[Photograph, ...]]) -> dict[str, Any]:
    """What ``sample.json`` holds: everything on which the bytes of the sample depend, and a digest of it."""
    entries = [
        {
            "photograph": photo.slug,
            "split": split,
            "file": photo.path.name,
            "sha256": _digest(photo.path),
            "mask_sha256": _digest(photo.mask) if photo.mask else None,
            "credit": photo.credit,
        }
        for split in SPLITS
        for photo in photographs[split]
    ]
    content = {"version": _VERSION, "config": asdict(config), "photographs": entries}
    fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return {"fingerprint": fingerprint, **content}


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _holds(out: Path, manifest: dict[str, Any]) -> bool:
    """Whether the folder holds this sample; an error if it holds something else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    with contextlib.suppress(OSError, ValueError):
        if json.loads((out / "sample.json").read_text(encoding="utf-8")) == manifest:
            return True
    raise SampleError(
        f"{out} exists and is not the sample asked for (other settings or photographs, or no sample at all): "
        "give another folder, or remove this one"
    )


@contextlib.contextmanager
def _mapping(processes: int | None) -> Iterator[_Map]:
    """``map`` over worker processes, or in this one if it is the only one; one linear-algebra thread each."""
    count = processes if processes is not None else min(os.cpu_count() or 1, _MOST_PROCESSES)
    if count <= 1:
        with threadpool_limits(1):
            yield map
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context, initializer=_use_one_thread) as executor:
        yield functools.partial(executor.map, chunksize=_CHUNK)


def _use_one_thread() -> None:
    """Keep the linear algebra of this process, loaded when this module was, to a single thread."""
    threadpool_limits(1)


def _check(photographs: dict[Split, tuple[Photograph, ...]], map_: _Map) -> None:
    found = map_(problem_of, [photo for split in SPLITS for photo in photographs[split]])
    raise_problems([problem for problem in found if problem], "correct these files or take them out")


def _write(root: Path, plan: dict[Split, list[Job]], map_: _Map, progress: Progress | None) -> None:
    """Compose all views into the folder, and list the composites of each split."""
    folder = root / SUB_DATASET
    for name in ("composite_images", "masks", "real_images"):
        (folder / name).mkdir(parents=True)
    jobs = [job for split in SPLITS for job in plan[split]]
    total, done = sum(job.composites for job in jobs), 0
    names_of_views = map_(functools.partial(_compose_and_save, folder), jobs)
    for split in SPLITS:
        listed: list[str] = []
        for _, names in zip(plan[split], names_of_views, strict=False):
            listed += names
            done += len(names)
            if progress:
                progress(done, total)
        lines = "".join(f"{SUB_DATASET}/composite_images/{name}\n" for name in listed)
        (root / f"le50_{split}.txt").write_text(lines, encoding="utf-8")


def _compose_and_save(folder: Path, job: Job) -> list[str]:
    """Compose one view, write its files and give the names of its composites."""
    rng = np.random.default_rng(job.seed)
    view = compose_view(job.photograph, job.references, job.composites, job.size, rng)
    return _save(view, folder, f"{SUB_DATASET[0].lower()}{job.photograph.slug}-{job.view:03d}")


def _save(view: View, folder: Path, stem: str) -> list[str]:
    _save_jpeg(view.real, folder / "real_images" / f"{stem}.jpg")
    for number, mask in view.masks.items():
        PillowImage.fromarray(mask.astype(np.uint8) * 255).save(folder / "masks" / f"{stem}_{number}.png")
    names = [f"{stem}_{composite.mask_number}_{composite.transfer}.jpg" for composite in view.composites]
    for name, composite in zip(names, view.composites, strict=True):
        _save_jpeg(composite.image, folder / "composite_images" / name)
    return names


def _save_jpeg(image: Image, path: Path) -> None:
    PillowImage.fromarray(image).save(path, quality=_JPEG_QUALITY)
