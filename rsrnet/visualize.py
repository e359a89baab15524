"""Pictures of masks: overlays, grids and strips, for reports, the tracking server and the README."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

REGION_COLOUR = (255, 0, 190)
TRUTH_COLOUR = (0, 235, 120)
TINT = 0.3
GRID_PANEL = 192
STRIP_PANEL = 112
GAP = 6

Panel = NDArray[np.generic] | Image.Image
"""An image (H, W, 3) uint8, a mask (H, W) in [0, 1], or a finished picture."""


def overlay(
    image: NDArray[np.uint8], mask: NDArray[np.floating], truth: NDArray[np.floating] | None = None
) -> Image.Image:
    """Tint and outline the marked region in magenta; outline the true one in green.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) in [0, 1]; the tint is as strong as the mask, the outline follows 0.5.
        truth: (H, W) in [0, 1], outlined only.

    Returns:
        An RGB picture of the image's size.

    Raises:
        ValueError: if a mask and the image differ in size.
    """
    _require_image(image)
    for name, given in (("mask", mask), ("truth", truth)):
        if given is not None and given.shape != image.shape[:2]:
            sizes = f"{given.shape}, the image {image.shape[:2]}"
            raise ValueError(f"the {name} is {sizes}: resize one to the size of the other")
    strength = TINT * np.clip(mask, 0, 1)[..., None]
    pixels = image * (1 - strength) + np.array(REGION_COLOUR) * strength
    picture = Image.fromarray(pixels.round().astype(np.uint8))
    if truth is not None:
        _outline(picture, truth, TRUTH_COLOUR)
    _outline(picture, mask, REGION_COLOUR)
    return picture


def comparison(
    rows: Sequence[Sequence[Panel]],
    titles: Sequence[str],
    panel_width: int = GRID_PANEL,
    labels: Sequence[str] = (),
) -> Image.Image:
    """Set panels in a grid under column titles, such as input, truth, M_rsr, M_dec and M_fnl.

    Args:
        rows: the panels of each row, one for each title; a row is as high as its first panel asks for.
        titles: the column titles.
        panel_width: width of a column, in pixels.
        labels: one for each row, written into a corner of its first panel; or none.

    Returns:
        An RGB picture on white.

    Raises:
        ValueError: if there is no row, a row has more or fewer panels than there are titles, or there are
            labels, but not one for each row.
    """
    if not rows:
        raise ValueError("there is no row to draw: give at least one")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(titles):
            raise ValueError(f"row {number} has {len(row)} panels for {len(titles)} titles")
    if labels and len(labels) != len(rows):
        raise ValueError(f"there are {len(labels)} labels for {len(rows)} rows")
    pictures = [[_picture(panel) for panel in row] for row in rows]
    heights = [max(1, round(panel_width * row[0].height / row[0].width)) for row in pictures]
    font = ImageFont.load_default(size=max(11, panel_width / 12))
    top = GAP + round(1.5 * font.getbbox("Mg")[3])
    width = GAP + len(titles) * (panel_width + GAP)
    sheet = Image.new("RGB", (width, top + sum(height + GAP for height in heights)), "white")
    draw = ImageDraw.Draw(sheet)
    lefts = [GAP + column * (panel_width + GAP) for column in range(len(titles))]
    for left, title in zip(lefts, titles, strict=True):
        draw.text((left + panel_width / 2, top / 2), title, fill="black", font=font, anchor="mm")
    for row, height, label in zip(pictures, heights, labels or [""] * len(rows), strict=True):
        for left, picture in zip(lefts, row, strict=True):
            sheet.paste(picture.resize((panel_width, height), Image.Resampling.LANCZOS), (left, top))
        if label:
            corner = (lefts[0] + GAP / 2, top + GAP / 2)
            draw.text(corner, label, fill="white", font=font, stroke_width=2, stroke_fill="black")
        top += height + GAP
    return sheet


def iteration_strip(image: NDArray[np.uint8], masks: Sequence[NDArray[np.floating]]) -> Image.Image:
    """Show how the mask of an image changes: the image and its masks in one row, numbered from 1.

    Args:
        image: (H, W, 3) uint8.
        masks: the K masks, each (H, W) in [0, 1], first iteration first.

    Returns:
        An RGB picture on white.
    """
    numbers = [str(k) for k in range(1, len(masks) + 1)]
    return comparison([[image, *masks]], ["input", *numbers], panel_width=STRIP_PANEL)


def _picture(panel: Panel) -> Image.Image:
    """Panel as an RGB picture; masks become grey, 1 = white."""
    if isinstance(panel, Image.Image):
        return panel.convert("RGB")
    if panel.ndim == 2:
        grey = (np.clip(panel.astype(np.float64), 0, 1) * 255).round().astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    _require_image(panel)
    return Image.fromarray(panel)


def _require_image(array: NDArray[np.generic]) -> None:
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise ValueError(f"an image must be (H, W, 3) uint8; this one is {array.shape} {array.dtype}")


def _outline(picture: Image.Image, mask: NDArray[np.floating], colour: tuple[int, int, int]) -> None:
    """Draw the border of a region onto the picture: coloured inside, black outside to show on any ground."""
    region = Image.fromarray((mask > 0.5).astype(np.uint8) * 255)
    thickness = max(1, round(min(picture.size) / 120))
    inside = region.filter(ImageFilter.MinFilter(2 * thickness + 1))
    outside = region.filter(ImageFilter.MaxFilter(2 * ((thickness + 1) // 2) + 1))
    picture.paste((0, 0, 0), mask=_difference(outside, region))
    picture.paste(colour, mask=_difference(region, inside))


def _difference(larger: Image.Image, smaller: Image.Image) -> Image.Image:
    """Pixels of one black and white picture that the other lacks."""
    return Image.fromarray(np.asarray(larger) & ~np.asarray(smaller))
