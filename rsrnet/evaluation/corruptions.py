"""Six ways in which photographs differ from those of a training, each at five strengths.

The whole picture changes, the true mask does not: a region that does not fit goes on not fitting. Each corruption
goes one way, from mild to severe, so that a score can be read against it:

==================  ===========================  =============================================
corruption          strengths 1 to 5             what it imitates
==================  ===========================  =============================================
``gamma``           exponents 1.25 to 3          another tone curve; the middle tones darken
``white_balance``   5500 K to 3000 K             daylight's balance under warmer and warmer light
``exposure``        0.5 to 2.5 stops             overexposure; the highlights clip
``saturation``      factors 0.8 to 0             an editor's slider, down to grey
``jpeg``            qualities 80 to 5            compression, colour at half the resolution (4:2:0)
``resize``          sides divided by 1.5 to 8    a small original, enlarged again
==================  ===========================  =============================================

The first four change every pixel by itself. The last two depend on the size of what they are given: they say the same
of all images only if these are of one size, such as the network's input.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

DAYLIGHT = 6504.0
"""Colour temperature of the white that sRGB stands on, in kelvin."""


@dataclass(frozen=True)
class Corruption:
    """A way to change an image, and how far each strength goes."""

    name: str
    title: str
    """The name for people."""

    unit: str
    """Of the levels."""

    levels: tuple[float, float, float, float, float]
    """What strengths 1 to 5 mean."""

    change: Callable[[Image.Image, float], Image.Image]
    """Makes the changed RGB image of an RGB image and a level."""

    @property
    def heading(self) -> str:
        """Title and unit, such as ``gamma (exponent)``."""
        return f"{self.title} ({self.unit})"

    def __call__(self, image: NDArray[np.uint8], strength: int) -> NDArray[np.uint8]:
        """Change an image.

        Args:
            image: RGB, (H, W, 3) uint8.
            strength: from 0, which changes nothing, to 5.

        Returns:
            RGB, (H, W, 3) uint8; the same for the same image, always.

        Raises:
            ValueError: if there is no such strength.
        """
        if strength not in STRENGTHS:
            raise ValueError(f"strength {strength}: a whole number from 0 to {STRENGTHS[-1]}")
        if strength == 0:
            return image
        return np.array(self.change(Image.fromarray(image), self.levels[strength - 1]))


STRENGTHS = tuple(range(6))
"""0 is the image itself."""


def gamma(image: Image.Image, exponent: float) -> Image.Image:
    """Raise the values, as shares of white, to a power."""
    return _with_values(image, [_VALUES**exponent] * 3)


def exposure(image: Image.Image, stops: float) -> Image.Image:
    """Multiply the light by two to the power of ``stops``, and clip at white."""
    return _in_light(image, [2**stops] * 3)


def white_balance(image: Image.Image, kelvin: float) -> Image.Image:
    """Show a scene that a black body of a temperature lights as a camera balanced for daylight records it.

    Each channel of the linear light is multiplied by the ratio of the two lamps; the luminance of grey stays.
    """
    gains = black_body(kelvin) / black_body(DAYLIGHT)
    return _in_light(image, list(gains / (gains @ LUMINANCE)))


def saturation(image: Image.Image, factor: float) -> Image.Image:
    """Bring every colour nearer to its grey: 1 is the image, 0 is without colour."""
    return ImageEnhance.Color(image).enhance(factor)


def jpeg(image: Image.Image, quality: float) -> Image.Image:
    """Compress and decode, with the colour channels at half the resolution."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=int(quality), subsampling="4:2:0")
    return Image.open(file).convert("RGB")


def resize(image: Image.Image, factor: float) -> Image.Image:
    """Divide both sides by a factor, averaging areas, and enlarge bilinearly to the old size."""
    small = tuple(max(1, round(side / factor)) for side in image.size)
    return image.resize((small[0], small[1]), Image.Resampling.BOX).resize(
        image.size, Image.Resampling.BILINEAR
    )


CORRUPTIONS = {
    each.name: each
    for each in (
        Corruption("gamma", "gamma", "exponent", (1.25, 1.5, 2, 2.5, 3), gamma),
        Corruption("white_balance", "white balance", "K", (5500, 4750, 4100, 3500, 3000), white_balance),
        Corruption("exposure", "exposure", "stops", (0.5, 1, 1.5, 2, 2.5), exposure),
        Corruption("saturation", "saturation", "factor", (0.8, 0.6, 0.4, 0.2, 0), saturation),
        Corruption("jpeg", "JPEG", "quality", (80, 50, 30, 15, 5), jpeg),
        Corruption("resize", "resizing", "divisor", (1.5, 2, 3, 5, 8), resize),
    )
}
"""All of them by name."""

LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
"""Share of linear red, green and blue in the luminance (ITU-R BT.709)."""

_RGB_FROM_XYZ = np.array(
    [[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]],
)


_VALUES = np.arange(256) / 255
"""What a channel can hold, as shares of white."""


def black_body(kelvin: float) -> NDArray[np.float64]:
    """Linear RGB of a glowing black body, of luminance 1, (3,).

    From the rational approximation of the Planckian locus in CIE 1960 u, v by Krystek (1985), for 1000 to 15000 K.
    """
    t = kelvin
    u = (0.860117757 + 1.54118254e-4 * t + 1.28641212e-7 * t**2) / (
        1 + 8.42420235e-4 * t + 7.08145163e-7 * t**2
    )
    v = (0.317398726 + 4.22806245e-5 * t + 4.20481691e-8 * t**2) / (
        1 - 2.89741816e-5 * t + 1.61456053e-7 * t**2
    )
    x, y = 3 * u / (2 * u - 8 * v + 4), 2 * v / (2 * u - 8 * v + 4)
    return _RGB_FROM_XYZ @ np.array([x / y, 1, (1 - x - y) / y])


def _in_light(image: Image.Image, gains: list[float]) -> Image.Image:
    """Multiply the linear light of each channel, clipped at white; sRGB in and out."""
    light = _decode(_VALUES)
    return _with_values(image, [_encode(gain * light) for gain in gains])


def _with_values(image: Image.Image, curves: list[NDArray[np.float64]]) -> Image.Image:
    """Give each channel new values: what each of ``_VALUES`` becomes, as shares of white, clipped."""
    table = np.clip(np.concatenate(curves) * 255, 0, 255).round().astype(int)
    return image.point(table.tolist())


def _decode(value: NDArray[np.float64]) -> NDArray[np.float64]:
    """Linear light of sRGB values (IEC 61966-2-1)."""
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def _encode(light: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values in sRGB of linear light."""
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
