"""The three stages of a batch: its images are read, the network sees them, their results are written.

Each is a function of what the stage before returned. They run one after the other in one process, or each in
processes of its own, and give the same either way.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from rsrnet_platform.errors import UserError
from rsrnet_platform.prediction import ledger
from rsrnet_platform.prediction.contents import content
from rsrnet_platform.prediction.listing import Item
from rsrnet_platform.prediction.regions import find_regions
from rsrnet_platform.prediction.table import STAMP, Row

if TYPE_CHECKING:
    from PIL import Image

    from rsrnet.localizer import Localizer

COMPRESSION = 1
"""Level of zlib for pictures: 4 times as fast for soft masks as Pillow's 6, and half as large again."""


@dataclass(frozen=True)
class Model:
    """What the table says of the model, and what its inputs are like."""

    uri: str
    """A version, not an alias."""

    sha256: str
    """Of its weights."""

    size: int
    """Side S of the network's input."""

    score_threshold: float | None
    """Score from which an image counts as inharmonious; None: the model has none."""


@dataclass(frozen=True)
class Settings:
    """What the stages need to know of a job."""

    model: Model
    output: str
    threshold: float
    min_region: float
    window: int | None
    masks: Literal["binary", "soft"]
    overlays: bool


@dataclass(frozen=True)
class Batch:
    """Images that go through the stages together."""

    number: int
    images: tuple[Item, ...]


@dataclass(frozen=True)
class Sight:
    """What is known of one image when it was read."""

    item: Item
    sha256: str | None = None
    width: int | None = None
    height: int | None = None
    views: int = 0
    """How many inputs of the network it became; 0: it could not be read."""
    error: str | None = None
    """Why it could not be read."""
    content: bytes | None = None
    """Its file, where an overlay will be drawn on it: smaller than its pixels."""


@dataclass(frozen=True)
class Inputs:
    """A batch that was read."""

    number: int
    sights: tuple[Sight, ...]
    views: NDArray[np.float32]
    """Inputs of the network, (V, 3, S, S); those of each image follow those of the one before."""


@dataclass(frozen=True)
class Masks:
    """A batch that the network saw."""

    number: int
    sights: tuple[Sight, ...]
    masks: NDArray[np.float32]
    """One for each input, (V, 1, S, S)."""


@dataclass(frozen=True)
class Done:
    """A batch whose results are written."""

    images: int
    errors: tuple[tuple[str, str], ...]
    """Path of each image that could not be read, and the reason."""


def read(batch: Batch, settings: Settings) -> Inputs:
    """Read, decode and resize; what cannot be read has its error in its place."""
    from rsrnet.views import Views

    views = Views(settings.model.size, settings.window)
    sights, inputs = [], [np.empty((0, 3, views.size, views.size), np.float32)]
    for item in batch.images:
        sight, parts = _read_one(item, views, settings.overlays)
        sights.append(sight)
        if parts is not None:
            inputs.append(parts)
    return Inputs(batch.number, tuple(sights), np.concatenate(inputs))


def _read_one(item: Item, views: Any, keep: bool) -> tuple[Sight, NDArray[np.float32] | None]:
    from rsrnet.data.decode import read_rgb
    from rsrnet.data.errors import DecodeError

    digest = None
    try:
        data = content(item)
        digest = hashlib.sha256(data).hexdigest()
        pixels = np.asarray(read_rgb(data).pixels)
    except DecodeError as error:
        reason = str(error) if str(error) == "no such file" else f"cannot be decoded ({error})"
        return Sight(item, digest, error=reason), None
    parts = views.split(pixels).numpy()
    height, width = pixels.shape[:2]
    return Sight(item, digest, width, height, len(parts), content=data if keep else None), parts


def localize(inputs: Inputs, localizer: Localizer) -> Masks:
    """Have the network see a batch."""
    import torch

    # Of a batch that nobody could read, the network would see nothing.
    views = torch.from_numpy(inputs.views)
    masks = localizer.masks(views).numpy() if len(views) else inputs.views[:, :1]
    return Masks(inputs.number, inputs.sights, masks)


def write(seen: Masks, settings: Settings) -> Done:
    """Join masks, find regions, write pictures, and commit the rows.

    Raises:
        UserError: if the output cannot be written.
    """
    from rsrnet.data.errors import DataError
    from rsrnet.data.storage import open_storage

    output = open_storage(settings.output)
    rows, first = [], 0
    try:
        for sight in seen.sights:
            rows.append(_row(sight, seen.masks[first : first + sight.views], settings, output))
            first += sight.views
        ledger.commit(output, seen.number, rows)
    except DataError as error:
        raise UserError(
            f"output = {settings.output}: cannot be written ({error}). What was done stays: make room, or mend the "
            "access, and start the job again."
        ) from error
    return Done(len(rows), tuple((each.item.path, each.error) for each in seen.sights if each.error))


def _row(sight: Sight, masks: NDArray[np.float32], settings: Settings, output: Any) -> Row:
    """The row of an image, whose pictures are written; null where it could not be read."""
    name, version = name_and_version(settings.model.uri)
    row = {
        "path": sight.item.path,
        "sha256": sight.sha256,
        "width": sight.width,
        "height": sight.height,
        "model": settings.model.uri,
        "model_name": name,
        "model_version": version,
        "model_sha256": settings.model.sha256,
        "score_threshold": settings.model.score_threshold,
        "status": "error" if sight.error else "ok",
        "error": f"{sight.item.path}: {sight.error}" if sight.error else None,
        STAMP: sight.item.stamp,
    }
    return row if sight.error else row | _results(sight, masks, settings, output)


def _results(sight: Sight, masks: NDArray[np.float32], settings: Settings, output: Any) -> Row:
    import torch
    from PIL import Image

    from rsrnet.detection import score
    from rsrnet.views import Views

    if sight.height is None or sight.width is None:
        raise RuntimeError("an image without a size has no results")
    inputs = torch.from_numpy(masks.copy())
    mask = Views(settings.model.size, settings.window).join(inputs, sight.height, sight.width)
    inside, regions = find_regions(mask, settings.threshold, settings.min_region)
    area = sum(region.area for region in regions)
    name = sight.item.name
    grey = (mask * 255 + 0.5 if settings.masks == "soft" else inside * np.uint8(255)).astype(np.uint8)
    mask_place = ledger.picture_of(ledger.MASKS, name)
    _save(Image.fromarray(grey), mask_place, output)
    overlay_place = ledger.picture_of(ledger.OVERLAYS, name) if settings.overlays else None
    if overlay_place:
        _save(_overlay(sight, mask, inside), overlay_place, output)
    sure, least = float(score(inputs[:1])), settings.model.score_threshold
    return {
        "score": sure,
        "inharmonious": None if least is None else sure >= least,
        "area_fraction": area / inside.size,
        "confidence": sum(region.area * region.confidence for region in regions) / area if area else 0.0,
        "regions": len(regions),
        "boxes": [vars(region) for region in regions],
        "mask": mask_place,
        "overlay": overlay_place,
    }


def _overlay(sight: Sight, mask: NDArray[np.float32], inside: NDArray[np.bool_]) -> Image.Image:
    from rsrnet.data.decode import read_rgb
    from rsrnet.visualize import overlay

    if sight.content is None:
        raise RuntimeError("the file was not kept for the overlay")
    return overlay(np.asarray(read_rgb(sight.content).pixels), np.where(inside, mask, 0))


def _save(picture: Image.Image, name: str, output: Any) -> None:
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=COMPRESSION)
    file.seek(0)
    output.write(name, file)


def name_and_version(uri: str) -> tuple[str | None, int | None]:
    """Name and version of a registered model; none of a checkpoint or a run."""
    import re

    parts = re.fullmatch(r"models:/([^/@]+)/(\d+)", uri)
    return (parts[1], int(parts[2])) if parts else (None, None)
