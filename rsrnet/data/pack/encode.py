"""From a composite in a folder to a row of a pack."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rsrnet.data.decode import FOREGROUND
from rsrnet.data.errors import BadDataError
from rsrnet.data.folder import Folder
from rsrnet.data.inspection import BadImage
from rsrnet.data.naming import Composite
from rsrnet.data.pack.area import shrink
from rsrnet.data.pack.layout import PackConfig, checksum


@dataclass(frozen=True)
class Row:
    """A row of a shard, by its columns."""

    name: str
    subset: str
    real_id: str
    mask_id: str
    k: int
    width: int
    """Of the image before it was shrunk, in pixels."""

    height: int
    area_fraction: float
    """Share of the foreground in the image before it was shrunk."""

    sha256: bytes
    image: bytes
    mask: bytes


def encode_all(folder: Folder, config: PackConfig, composites: tuple[Composite, ...]) -> list[Row | BadImage]:
    """Encode composites; those that cannot be read are named instead."""
    encoded: list[Row | BadImage] = []
    for composite in composites:
        try:
            encoded.append(encode(folder, config, composite))
        except BadDataError as error:
            encoded.append(BadImage(composite, str(error)))
    return encoded


def encode(folder: Folder, config: PackConfig, composite: Composite) -> Row:
    """Read, shrink and encode a composite and its mask.

    The mask keeps grey levels, the share of each pixel that is foreground: a training crop is resized once more.

    Raises:
        BadDataError: if it cannot be read.
    """
    image, mask = folder.open_pair(composite)
    grey = np.asarray(mask)
    encoded_image = _encoded(shrink(np.asarray(image), config.side), config.format, config.quality)
    encoded_mask = _encoded(shrink(grey, config.side), "png", 0)
    return Row(
        name=composite.name,
        subset=composite.subset,
        real_id=composite.image_id,
        mask_id=composite.mask_id,
        k=composite.k,
        width=image.width,
        height=image.height,
        area_fraction=np.count_nonzero(grey >= FOREGROUND) / grey.size,
        sha256=checksum(encoded_image, encoded_mask),
        image=encoded_image,
        mask=encoded_mask,
    )


def _encoded(pixels: NDArray[np.uint8], kind: str, quality: int) -> bytes:
    file = io.BytesIO()
    if kind == "jpeg":
        Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling="4:4:4")
    else:
        Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
