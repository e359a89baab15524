"""One photograph in, a view of it with several recoloured foregrounds out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image as PillowImage
from skimage.color import hsv2rgb, rgb2hsv

from rsrnet.synthesis.photos import Photograph, read_image, read_mask
from rsrnet.synthesis.regions import draw_region
from rsrnet.synthesis.transfers import TRANSFERS, Image, Mask

COMPOSITES_PER_VIEW = 4
"""The most composites of one view: drawn regions with a transfer each, or the own mask with all four."""

_ATTEMPTS = 40
_REFERENCES_PER_MASK = 8

_CHANGE_BOUNDS = (20.0, 90.0)
"""Mean absolute change of the foreground in grey levels: below, nobody sees it; above, nobody believes it."""

_CONTRAST_BOUNDS = (0.4, 2.0)
"""Contrast of the foreground after over before: beyond, its texture is gone or has turned into noise."""

_SATURATION_FACTORS = (0.5, 1.3)
_LARGEST_LOG_GAMMA = 0.4

_LARGEST_CLIPPED_SHARE = 0.25
"""Share of the foreground's pixels that may be driven to black or to full saturation."""


class CompositionError(ValueError):
    """Raised when no recolouring of a photograph is both visible and plausible."""


@dataclass(frozen=True)
class Composite:
    """A view with one recoloured region."""

    mask_number: int
    transfer: int
    image: Image


@dataclass(frozen=True)
class View:
    """A view of a photograph, regions of it and composites of those."""

    real: Image
    masks: dict[int, Mask]
    composites: tuple[Composite, ...]


def compose_view(
    photograph: Photograph,
    references: Sequence[Photograph],
    count: int,
    size: int,
    rng: np.random.Generator,
) -> View:
    """Draw a view of a photograph, regions of it, and recolour them.

    The view is a random crop, flipped or not; of a photograph with a mask of its own it is the whole, and the
    region is that mask. Composites whose change nobody would see, or nobody would believe, are drawn again.

    Args:
        photograph: the photograph.
        references: other photographs to take colours from; none: another region of the same one.
        count: composites to make, at most ``COMPOSITES_PER_VIEW``.
        size: side of a crop, or longest side of a photograph with a mask, in pixels.
        rng: the source of randomness.

    Raises:
        CompositionError: if no acceptable composite is found.
    """
    # Its own mask would lend the photograph the colours that it has: a crop of it and a drawn region do not.
    lenders = references or (replace(photograph, mask=None),)
    for _ in range(_ATTEMPTS):
        real, own_mask = _draw_view(photograph, size, rng)
        masks: dict[int, Mask] = {}
        composites: list[Composite] = []
        per_mask = 1 if own_mask is None else len(TRANSFERS)
        while len(composites) < count:
            number, wanted = len(masks) + 1, min(per_mask, count - len(composites))
            masks[number] = draw_region(real, rng) if own_mask is None else own_mask
            made = _recoloured(real, masks[number], lenders, wanted, size, rng)
            if len(made) < wanted:
                break
            composites += [Composite(number, transfer, image) for transfer, image in made.items()]
        else:
            return View(real, masks, tuple(composites))
    raise CompositionError(
        f"{photograph.path.name}: none of the recolourings tried was both visible and plausible: "
        "take it out, or add photographs with other colours"
    )


def _recoloured(
    real: Image,
    mask: Mask,
    references: Sequence[Photograph],
    wanted: int,
    size: int,
    rng: np.random.Generator,
) -> dict[int, Image]:
    """Recolour one region with different transfers, each after a reference region of its own."""
    waiting = [int(number) for number in rng.permutation(list(TRANSFERS))]
    made: dict[int, Image] = {}
    for _ in range(_REFERENCES_PER_MASK):
        if len(made) == wanted:
            break
        number = waiting.pop(0)
        reference, reference_mask = _draw_reference(references, size, rng)
        image = TRANSFERS[number](real, mask, reference, reference_mask, rng)
        if is_plausible(real[mask], image[mask]):
            made[number] = image
        else:
            waiting.append(number)
    return made


def is_plausible(before: Image, after: Image) -> bool:
    """Whether a recolouring can be seen and could be a photograph's.

    Args:
        before: colours of the foreground before, uint8, (N, 3).
        after: and after, uint8, (N, 3).
    """
    change = np.abs(after.astype(float) - before).mean()
    clipped = _at_limit(after) & ~_at_limit(before)
    contrast = (after.std(0).mean() + 1) / (before.std(0).mean() + 1)
    return bool(
        _CHANGE_BOUNDS[0] <= change <= _CHANGE_BOUNDS[1]
        and _CONTRAST_BOUNDS[0] <= contrast <= _CONTRAST_BOUNDS[1]
        and clipped.mean() <= _LARGEST_CLIPPED_SHARE
    )


def _at_limit(colours: Image) -> Mask:
    return ((colours == 0) | (colours == 255)).any(-1)


def _draw_reference(
    references: Sequence[Photograph], size: int, rng: np.random.Generator
) -> tuple[Image, Mask]:
    # Colours have no need of detail: half the size is several times faster.
    image, mask = _draw_view(references[int(rng.integers(len(references)))], size // 2, rng)
    # In another light, because a split of one or two photographs has few colours to lend.
    image = _developed_anew(image, rng)
    return image, draw_region(image, rng) if mask is None else mask


def _draw_view(photograph: Photograph, size: int, rng: np.random.Generator) -> tuple[Image, Mask | None]:
    image = read_image(photograph.path)
    if photograph.mask is None:
        view, mask = _random_crop(image, size, rng), None
    else:
        view, mask = _fitted(image, read_mask(photograph.mask), size)
    if rng.random() < 0.5:
        view, mask = view[:, ::-1], None if mask is None else mask[:, ::-1]
    return np.ascontiguousarray(view), mask


def _random_crop(image: Image, size: int, rng: np.random.Generator) -> Image:
    """A square of random side and place, resized."""
    shortest = min(image.shape[:2])
    side = round(np.exp(rng.uniform(np.log(min(size, shortest)), np.log(shortest))))
    top, left = (int(rng.integers(0, length - side + 1)) for length in image.shape[:2])
    crop = PillowImage.fromarray(image[top : top + side, left : left + side])
    return np.asarray(crop.resize((size, size), PillowImage.Resampling.LANCZOS))


def _developed_anew(view: Image, rng: np.random.Generator) -> Image:
    """The whole view in another light: hue turned, saturation and brightness changed."""
    hsv = rgb2hsv(view)
    hsv[..., 0] = (hsv[..., 0] + rng.random()) % 1
    hsv[..., 1] = np.clip(hsv[..., 1] * rng.uniform(*_SATURATION_FACTORS), 0, 1)
    hsv[..., 2] **= np.exp(rng.uniform(-1, 1) * _LARGEST_LOG_GAMMA)
    return (hsv2rgb(hsv) * 255).round().astype(np.uint8)


def _fitted(image: Image, mask: Mask, size: int) -> tuple[Image, Mask]:
    """Image and mask at the same size, the longer side at most ``size``."""
    height, width = image.shape[:2]
    scale = min(1.0, size / max(height, width))
    new_size = max(round(width * scale), 1), max(round(height * scale), 1)
    view = PillowImage.fromarray(image).resize(new_size, PillowImage.Resampling.LANCZOS)
    grey = PillowImage.fromarray(mask.astype(np.uint8) * 255).resize(new_size, PillowImage.Resampling.BOX)
    return np.asarray(view), np.asarray(grey) >= 128
