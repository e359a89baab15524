"""From Pillow's pixel modes to 8 bits a channel.

- 1 bit, greyscale, palette, RGB, YCbCr, CIELAB: as Pillow converts them.
- CMYK: (255 - C)(255 - K) / 255 and so on. A JPEG holds inverted values if Adobe's marker is in it, else not.
- 16 bits: the high byte, so that white stays white. 12 bits (TIFF): the same, from their highest bit.
- Floating point: 0 is black and 1 white; other values are refused, because nobody can tell what white is.
- 32-bit and signed integers: refused, for the same reason.
- Transparency, by channel, palette entry or a transparent colour: an image lies on white, as on a page; a mask on
  black, so that what is transparent is background.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from rsrnet.data.errors import DecodeError

COLOURED = 32
"""A mask whose channels differ by more than this many grey levels somewhere is a coloured picture."""

_BITS_PER_SAMPLE = 258
_PHOTOMETRIC = 262
_WHITE_IS_ZERO = 0
"""Tags and a value of TIFF."""

_GREY = ("1", "L", "LA", "La")
_KEY_SCALE = {"L;2": 85, "L;4": 17}
"""Pillow widens grey levels of 2 and 4 bits to 8, but not the level that is declared transparent."""


def prepare(image: Image.Image) -> None:
    """Correct, in an image that is open but not loaded yet, what is known only before loading.

    Raises:
        DecodeError: if its transparent colour cannot be told from others in 8 bits.
    """
    key = image.info.get("transparency")
    tiles = getattr(image, "tile", ())
    if image.format != "PNG" or image.mode not in ("L", "RGB") or key is None or not tiles:
        return
    stored = str(tiles[0][3])
    if stored == "RGB;16B":
        raise DecodeError(
            "a colour of 16 bits a channel is declared transparent; save it with an alpha channel"
        )
    if image.mode == "L":
        image.info["transparency"] = key * _KEY_SCALE.get(stored, 1)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a loaded image of any mode to RGB.

    Raises:
        DecodeError: if its values have no defined white.
    """
    return _in_mode(_opaque(image, "white"), "RGB")


def to_grey(image: Image.Image) -> Image.Image:
    """Convert a loaded mask of any mode to grey levels, L.

    Raises:
        DecodeError: if its values have no defined white, or it is coloured.
    """
    opaque = _opaque(image, "black")
    return _in_mode(opaque, "L") if opaque.mode in _GREY else _grey_of(_in_mode(opaque, "RGB"))


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    """The image itself where it has the mode: a copy of a large photograph takes as long as decoding it."""
    return image if image.mode == mode else image.convert(mode)


def _grey_of(mask: Image.Image) -> Image.Image:
    red, green, blue = mask.split()
    if not (_differ(red, green) or _differ(green, blue)):
        return red
    pairs = ((red, green), (green, blue), (blue, red))
    most = int(np.max([ImageChops.difference(*pair).getextrema() for pair in pairs]))
    if most > COLOURED:
        raise DecodeError(f"a coloured picture, no mask: its channels differ by up to {most} levels")
    return mask.convert("L")


def _differ(one: Image.Image, other: Image.Image) -> bool:
    return ImageChops.difference(one, other).getbbox() is not None


def _opaque(image: Image.Image, ground: str) -> Image.Image:
    """The image with 8 bits a channel and without transparency: laid on a ground of this colour."""
    if image.mode.startswith("I;16"):
        image = _from_16_bits(image)
    elif image.mode == "F":
        image = _from_floats(image)
    elif image.mode == "I":
        raise DecodeError("signed or 32-bit integers have no defined white; save it with 8 or 16 bits")
    elif image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        # Pillow takes every such JPEG for one of Adobe's.
        image = ImageChops.invert(image)
    if not image.has_transparency_data:
        return image
    image = image.convert("LA" if image.mode in _GREY else "RGBA")
    page = Image.new(image.mode[:-1], image.size, ground)
    page.paste(image, mask=image.getchannel("A"))
    return page


def _from_16_bits(image: Image.Image) -> Image.Image:
    """L, or LA if a level is declared transparent, of a greyscale image of up to 16 bits."""
    values = np.asarray(image).astype(np.uint16)
    tags = _tags(image)
    bits = int(tags.get(_BITS_PER_SAMPLE, (16,))[0])
    grey = (values >> (bits - 8)).astype(np.uint8)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        grey = 255 - grey
    if "transparency" not in image.info:
        return Image.fromarray(grey)
    opaque = (values != image.info["transparency"]).astype(np.uint8) * np.uint8(255)
    return Image.merge("LA", (Image.fromarray(grey), Image.fromarray(opaque)))


def _from_floats(image: Image.Image) -> Image.Image:
    values: NDArray[np.float32] = np.asarray(image)
    if not ((values >= 0) & (values <= 1)).all():
        raise DecodeError("its floating-point values are not all from 0 (black) to 1 (white)")
    if _tags(image).get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        values = 1 - values
    return Image.fromarray(np.rint(values * 255).astype(np.uint8))


def _tags(image: Image.Image) -> Mapping[int, Any]:
    """The tags of a TIFF; of other images none."""
    return getattr(image, "tag_v2", {})
