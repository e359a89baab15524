"""`kind: predict`: masks, overlays and a table for a folder of images, with a registered model.

Written into the output folder::

    masks/NAME.png          255 where the image is inharmonious, at the image's own size
    overlays/NAME.png       the region tinted and outlined on the image
    predictions.parquet     one row an image; an image that cannot be read has its error there
    predict.yaml            the job

Every file appears whole or not at all.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.progress import Progress

from rsrnet_platform import cluster, spec
from rsrnet_platform.errors import UserError
from rsrnet_platform.lookup import pin, resolve
from rsrnet_platform.store import resolve_uri
from rsrnet_platform.terminal import console

if TYPE_CHECKING:
    from rsrnet.localizer import Localizer

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

TABLE = "predictions.parquet"
JOB = "predict.yaml"


@dataclass(frozen=True)
class Prediction:
    """One image to localize: where it is, and what its results are called."""

    path: str
    """The image."""

    name: str
    """Relative path of its results, without the suffix."""


class Predictor:
    """Localizes batches of images and writes their results; each worker has one.

    Args:
        job: the job.
        model: URI of the model, or its folder.
        tracking_uri: the store that the URI is looked up in.
        device: what to compute on.
    """

    def __init__(self, job: spec.PredictJob, model: str, tracking_uri: str, device: str) -> None:
        import torch

        from rsrnet.localizer import Localizer

        torch.set_num_threads(job.cluster.cpus_per_worker)
        self.job = job
        self.model = model
        self.localizer: Localizer = Localizer(
            resolve(model, tracking_uri), device=device, batch_size=job.batch_size
        )

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Localize a batch of Ray Data's: columns ``path`` and ``name`` in, columns of the table out."""
        rows = self.predict([Prediction(*each) for each in zip(batch["path"], batch["name"], strict=True)])
        return {key: [row[key] for row in rows] for key in rows[0]}

    def predict(self, images: Sequence[Prediction]) -> list[dict[str, Any]]:
        """Localize images and write their results; a row of the table for each, in their order."""
        from rsrnet.localizer import ImageError, read_image

        pixels: dict[int, np.ndarray] = {}
        rows: list[dict[str, Any]] = [{} for _ in images]
        for index, image in enumerate(images):
            try:
                pixels[index] = read_image(image.path)
            except ImageError as error:
                rows[index] = self._row(image, status="error", error=str(error))
        masks = self.localizer(list(pixels.values()))
        for (index, picture), mask in zip(pixels.items(), masks, strict=True):
            rows[index] = self._write(images[index], picture, mask)
        return rows

    def _write(self, image: Prediction, pixels: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
        from PIL import Image

        from rsrnet.visualize import overlay

        region = mask >= self.job.threshold
        output = Path(self.job.output)
        mask_path = f"masks/{image.name}.png"
        _save(Image.fromarray(region.astype(np.uint8) * 255), output / mask_path)
        overlay_path = None
        if self.job.overlays:
            overlay_path = f"overlays/{image.name}.png"
            _save(overlay(pixels, np.where(region, mask, 0)), output / overlay_path)
        return self._row(
            image,
            width=pixels.shape[1],
            height=pixels.shape[0],
            area_fraction=float(region.mean()),
            confidence=float(mask[region].mean()) if region.any() else 0.0,
            mask=mask_path,
            overlay=overlay_path,
        )

    def _row(self, image: Prediction, **values: Any) -> dict[str, Any]:
        """A row of the table; what is not given is null."""
        row = dict.fromkeys(("width", "height", "area_fraction", "confidence", "mask", "overlay", "error"))
        return {"path": image.path, "model": self.model, "status": "ok", **row, **values}


def run(job: spec.PredictJob, *, fresh: bool) -> None:
    """Predict.

    Args:
        job: a checked job.
        fresh: remove what an earlier job left at the output first.

    Raises:
        UserError: if the model or the images cannot be found, or the output cannot be written.
    """
    tracking_uri = resolve_uri(job.tracking)
    model = pin(job.model, tracking_uri)
    resolve(model, tracking_uri)
    images = find_images(Path(job.input), Path(job.output))
    with cluster.connect(job.cluster) as place:
        _require_room_to_read(place)
        output = _output_folder(job, fresh)
        console.print(f"Predicting {len(images)} images with {model}: {place}.")
        with Progress(console=console) as bar:
            task = bar.add_task("Images", total=len(images))
            rows = []
            for row in _rows(job, model, tracking_uri, images, place):
                rows.append(row)
                bar.advance(task)
    _write_table(rows, output / TABLE)
    _summarise(rows, output)


def _require_room_to_read(place: cluster.Cluster) -> None:
    """Refuse to give every processor to the model: Ray Data would wait without a word for one to read on.

    Raises:
        UserError: naming the number of workers that fits.
    """
    if place.address is None:
        return
    room = (sum(node.cpus for node in place.nodes) - 1) // place.cpus_per_worker
    if place.workers > room:
        remedy = (
            f"set cluster.workers to {room}" if room else "set cluster.workers to 0, which needs no cluster"
        )
        raise UserError(
            f"cluster.workers = {place.workers}: one CPU must stay free for reading images; {remedy}."
        )


def find_images(source: Path, output: Path) -> list[Prediction]:
    """The images to localize.

    Args:
        source: a folder, searched at any depth; an image; or a list file with a path a line, relative to the list.
        output: what lies in this folder is left out: an earlier job's pictures.

    Raises:
        UserError: if there is no such folder, list or image, it cannot be read, or there is no image in it.
    """
    try:
        if source.is_dir():
            paths = [path for path in _images_in(source) if not path.is_relative_to(output)]
            names = [path.relative_to(source) for path in paths]
        elif source.suffix.lower() in IMAGE_SUFFIXES and source.is_file():
            paths, names = [source], [Path(source.name)]
        elif source.is_file():
            paths = [source.parent / line for line in _lines(source)]
            names = [Path(os.path.relpath(path, source.parent)) for path in paths]
        else:
            raise UserError(f"input = {source}: there is no such folder, image or list of images")
    except OSError as error:
        raise UserError(f"input = {source}: {error.filename} cannot be read ({error.strerror})") from error
    if not paths:
        raise UserError(
            f"input = {source}: no image in it; images end in {', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    unique = dict(zip(_result_names(names), paths, strict=True))
    return [Prediction(str(path), name) for name, path in unique.items()]


def _images_in(folder: Path) -> list[Path]:
    """The images in a folder, at any depth, by name.

    Raises:
        OSError: if a folder cannot be listed: the images in it would be missing without a word.
    """

    def refuse(error: OSError) -> None:
        raise error

    inside = (Path(place, name) for place, _, names in os.walk(folder, onerror=refuse) for name in names)
    return sorted(path for path in inside if path.suffix.lower() in IMAGE_SUFFIXES)


def _lines(source: Path) -> list[str]:
    try:
        lines = [line.strip() for line in source.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise UserError(f"input = {source}: neither a folder nor an image nor a list of images") from error
    return [line for line in lines if line]


def _result_names(names: Sequence[Path]) -> list[str]:
    """What the results of images are called: no two alike, and none outside the output folder."""
    inside = [Path(*("up" if part == ".." else part for part in name.parts)) for name in names]
    stems = Counter(name.with_suffix("") for name in set(inside))
    # a.jpg and a.png keep their endings.
    return [str(name.with_suffix("") if stems[name.with_suffix("")] == 1 else name) for name in inside]


def _output_folder(job: spec.PredictJob, fresh: bool) -> Path:
    """Make the output folder; what it holds must be an earlier job's.

    Raises:
        UserError: if it cannot be written, or holds folders of the same names that no job wrote.
    """
    output = Path(job.output)
    marker = output / JOB
    parts = [output / "masks", output / "overlays"]
    try:
        foreign = [part for part in parts if part.exists() and not marker.exists()]
        if foreign:
            raise UserError(
                f"output = {output}: {foreign[0]} is there, and not of a prediction; choose another folder."
            )
        output.mkdir(parents=True, exist_ok=True)
        marker.write_text(spec.to_yaml(job))
        (output / TABLE).unlink(missing_ok=True)
        if fresh:
            for part in parts:
                shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise UserError(f"output = {output}: cannot be written ({error.strerror or error})") from error
    return output


def _rows(
    job: spec.PredictJob, model: str, tracking_uri: str, images: list[Prediction], place: cluster.Cluster
) -> Iterator[dict[str, Any]]:
    """Rows of the table as they come, in any order."""
    device = "cuda" if place.use_gpu else "cpu"
    if place.address is None:
        predictor = Predictor(job, model, tracking_uri, device)
        for start in range(0, len(images), job.batch_size):
            yield from predictor.predict(images[start : start + job.batch_size])
        return
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    blocks = min(len(images), 4 * place.workers)
    data = ray.data.from_items([vars(image) for image in images], override_num_blocks=blocks)
    results = data.map_batches(
        Predictor,
        fn_constructor_args=(job, model, tracking_uri, device),
        batch_size=job.batch_size,
        compute=ray.data.ActorPoolStrategy(size=place.workers),
        num_cpus=place.cpus_per_worker,
        num_gpus=1 if place.use_gpu else 0,
    )
    yield from results.iter_rows()


def _write_table(rows: Iterable[dict[str, Any]], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = ("path", "model", "status", "mask", "overlay", "error")
    schema = pa.schema(
        [
            *((name, pa.string()) for name in text),
            *((name, pa.int32()) for name in ("width", "height")),
            *((name, pa.float64()) for name in ("area_fraction", "confidence")),
        ]
    )
    table = pa.Table.from_pylist(sorted(rows, key=lambda row: row["path"]), schema=schema)
    partial = path.with_suffix(".partial")
    pq.write_table(table, partial)
    os.replace(partial, path)


def _save(picture: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    picture.save(partial, format="PNG")
    os.replace(partial, path)


def _summarise(rows: list[dict[str, Any]], output: Path) -> None:
    bad = [row for row in rows if row["status"] != "ok"]
    console.print(f"{len(rows) - len(bad)} masks in {output / 'masks'}; the table is {output / TABLE}.")
    for row in bad[:10]:
        console.print(f"  {row['error']}")
    if bad:
        console.print(f"{len(bad)} images could not be read: their rows of the table say why.")
