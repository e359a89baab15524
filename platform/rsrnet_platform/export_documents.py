"""What lies beside an exported network: how its input is made and its output is read, for people and for programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from textwrap import dedent
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rsrnet.checkpoint import ModelCard

README = "README.md"

HEADING = "# RSRNet, exported"
"""Begins the file, and tells it from another project's."""

_LOADING = {
    "rsrnet.onnx": """\
        import cv2  # opencv-python
        import numpy as np
        import onnxruntime

        session = onnxruntime.InferenceSession("rsrnet.onnx")
        image = cv2.cvtColor(cv2.imread("composite.jpg"), cv2.COLOR_BGR2RGB)
        height, width = image.shape[:2]
        square = cv2.resize(image.astype(np.float32), ({size}, {size}), interpolation=cv2.INTER_LINEAR) / 255
        (mask,) = session.run(["m_fnl"], {{"images": square.transpose(2, 0, 1)[None]}})
        mask = cv2.resize(mask[0, 0], (width, height), interpolation=cv2.INTER_LINEAR)
        """,
    "rsrnet.pt2": """\
        import torch

        network = torch.export.load("rsrnet.pt2").module()  # on the CPU
        masks = network(images)  # float32 (B, 3, H, W) to (B, 1, H, W)
        """,
}
"""Code that runs each file."""


def description(card: ModelCard, smallest: int) -> dict[str, Any]:
    """The content of ``preprocessing.json``.

    Args:
        card: of the checkpoint.
        smallest: least height and width of an input, in pixels.
    """
    return {
        "input": {
            "name": "images",
            "type": "float32",
            "shape": ["batch", 3, "height", "width"],
            "smallest_side": smallest,
            "colour": "RGB",
            "range": [0, 1],
            "resize": {
                "height": card.size,
                "width": card.size,
                "interpolation": "bilinear",
                "half_pixel_centres": True,
                "antialias": False,
            },
        },
        "output": {
            "name": "m_fnl",
            "type": "float32",
            "shape": ["batch", 1, "height", "width"],
            "range": [0, 1],
            "meaning": "1 = inharmonious",
        },
        "iterations": 0 if card.model.reasoning == "none" else card.model.iterations,
        "detection": card.detection and asdict(card.detection),
    }


def readme(card: ModelCard, differences: Mapping[str, float], smallest: int) -> str:
    """The content of :data:`README`.

    Args:
        card: of the checkpoint.
        differences: of each file from the network, as found on random inputs.
        smallest: least height and width of an input, in pixels.
    """
    size = card.size
    files = "\n".join(f"| `{name}` | {difference:.1e} |" for name, difference in differences.items())
    code = "\n".join(_fenced(_LOADING[name].format(size=size)) for name in differences)
    return f"""{HEADING}

| file | largest difference from PyTorch's masks, on random inputs of two sizes |
| --- | --- |
{files}

Input `images`: RGB in [0, 1], float32 (B, 3, H, W); any batch, any height and width from {smallest} on. Output `m_fnl`:
float32 (B, 1, H, W) in [0, 1], 1 = inharmonious. All iterations are made; there is no early exit.

The network was trained on images of {size} x {size} pixels: resize each to that, bilinearly, with half-pixel centres
and without antialiasing, losing its aspect ratio, and the mask back to the image's size. `preprocessing.json` says the
same to programs{_threshold(card)}.

{code}
The terms of the weights are those of the model; `LICENSE-WEIGHTS.md` is a registered model's note on them.
"""


def _fenced(code: str) -> str:
    return f"```python\n{dedent(code)}```\n"


def _threshold(card: ModelCard) -> str:
    if card.detection is None:
        return ""
    return (
        "; its `detection.threshold` is for the score of an image, the mean of the highest hundredth of its mask "
        "before that is resized back"
    )
