"""A network as files that need no rsrnet: ONNX and a program of torch.export, each checked against the network.

The exported network takes every batch and size: images are padded to the next multiple of 16 inside, as always.
Preprocessing stays outside; a README and a JSON file beside the programs say what it is.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from rsrnet_platform.errors import UserError
from rsrnet_platform.export_documents import HEADING, README, description, readme
from rsrnet_platform.modelcard import WEIGHTS_LICENSE

if TYPE_CHECKING:
    from torch import Tensor
    from torch.export import ExportedProgram

    from rsrnet.checkpoint import ModelCard
    from rsrnet.model.network import RSRNet

FILES = {"onnx": "rsrnet.onnx", "torch-export": "rsrnet.pt2"}
"""The formats, and the file of each."""

TOLERANCE = 1e-4
"""Largest difference of a mask from the network's own that an exported file may show."""

SMALLEST = 32
"""Least height and width in pixels: the smallest size that a network is trained on."""

_NEEDED = ("onnx", "onnxruntime", "onnxscript")
_ATTEMPTS = 3
_TRACED = (3, 3, 48, 80)


class ExportError(UserError):
    """Raised when a network cannot be exported, or computes something else once it is."""


@dataclass(frozen=True)
class Exported:
    """A file that was written."""

    path: Path

    difference: float
    """Largest difference from the network's own masks on the random inputs."""


def export(source: Path, out: Path, formats: Sequence[str] = tuple(FILES)) -> list[Exported]:
    """Write a network in other formats, with a README and ``preprocessing.json``; all files, or none.

    The input of the exported programs is ``images``, float32 (B, 3, H, W) in [0, 1], their output ``m_fnl``, float32
    (B, 1, H, W), for any B and any H and W from 32 on. They make all K iterations: no early exit.

    Args:
        source: a checkpoint folder.
        out: folder for the files, made if missing; files of their names are replaced.
        formats: some of ``onnx`` and ``torch-export``.

    Returns:
        What was written, in the order of the formats.

    Raises:
        ExportError: if a format is unknown, a package is missing, the folder cannot be written, or a file does not
            give the network's masks.
        CheckpointError: if ``source`` is no checkpoint.
    """
    check(out, formats)
    from rsrnet.checkpoint import load_model, read_card

    card = read_card(source)
    network = load_model(source)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as partial:
            exported = _write(network, card, Path(partial), formats)
            if (terms := source.parent / WEIGHTS_LICENSE).is_file():  # of a registered model
                shutil.copyfile(terms, Path(partial) / WEIGHTS_LICENSE)
            out.mkdir(exist_ok=True)
            for path in Path(partial).iterdir():
                os.replace(path, out / path.name)
    except OSError as error:
        raise ExportError(f"{out}: cannot be written ({error.strerror or error})") from error
    return [Exported(out / each.path.name, each.difference) for each in exported]


def check(out: Path, formats: Sequence[str]) -> None:
    """Refuse what cannot succeed, before anything is computed; arguments as in :func:`export`.

    Raises:
        ExportError: saying why.
    """
    if unknown := [name for name in formats if name not in FILES] or (not formats and ["nothing"]):
        raise ExportError(f"format {', '.join(unknown)}: choose from {', '.join(FILES)}")
    if out.exists() and not out.is_dir():
        raise ExportError(f"{out}: not a folder; name one for the exported files")
    if _is_of_others(out / README):
        raise ExportError(f"{out}: it has a {README} that is not of an export; name another folder")
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if "onnx" in formats and missing:
        raise ExportError(f'ONNX needs {", ".join(missing)}: pip install "rsrnet[export]"')


def _is_of_others(readme: Path) -> bool:
    return readme.is_file() and not readme.read_bytes().startswith(HEADING.encode())


def _write(network: RSRNet, card: ModelCard, folder: Path, formats: Sequence[str]) -> list[Exported]:
    """Write every file into a folder, and check each program as it was written."""
    with _quiet():
        program = _program(network)
        exported = []
        for name in dict.fromkeys(formats):
            path = folder / FILES[name]
            run = _save_onnx(program, path) if name == "onnx" else _save_program(program, path)
            exported.append(Exported(path, _check_masks(run, network, card.size, path.name)))
    found = {each.path.name: each.difference for each in exported}
    (folder / README).write_text(readme(card, found, SMALLEST), encoding="utf-8")
    described = json.dumps(description(card, SMALLEST), indent=2)
    (folder / "preprocessing.json").write_text(described + "\n", encoding="utf-8")
    return exported


def _program(network: RSRNet) -> ExportedProgram:
    """The network from images to M_fnl as a graph in which batch, height and width stay open."""
    import torch
    from torch import nn

    from rsrnet.model.network import MULTIPLE

    # The strides of channels-last maps would fix their sizes.
    network.lay_out(torch.contiguous_format)

    class ToFinalMask(nn.Module):
        """Pads and crops by index: by slices, as the network does, the graph would be tied to multiples of 16."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: Tensor) -> Tensor:
            height, width = images.shape[2:]
            # So written the sides inside are plainly multiples, which spares the graph most of its assertions.
            rows = torch.arange((height + MULTIPLE - 1) // MULTIPLE * MULTIPLE).clamp(max=height - 1)
            columns = torch.arange((width + MULTIPLE - 1) // MULTIPLE * MULTIPLE).clamp(max=width - 1)
            mask = self.network(images.index_select(2, rows).index_select(3, columns), every_mask=False).m_fnl
            return mask.index_select(2, torch.arange(height)).index_select(3, torch.arange(width))

    sides = {
        0: torch.export.Dim("batch", min=1),
        2: torch.export.Dim("height", min=SMALLEST),
        3: torch.export.Dim("width", min=SMALLEST),
    }
    program = torch.export.export(
        ToFinalMask().eval(),
        (torch.rand(_TRACED),),
        dynamic_shapes=(sides,),
        strict=False,
    )
    # Without the regions of autocast, which cannot be written to a file.
    return program.run_decompositions({})


def _save_onnx(program: ExportedProgram, path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime
    import torch

    converted = torch.onnx.export(
        program, dynamo=True, verbose=False, input_names=["images"], output_names=["m_fnl"]
    )
    if converted is None or (shape := converted.model.graph.inputs[0].shape) is None:
        raise RuntimeError("torch.onnx.export gave no program")
    batch, _, height, width = shape
    converted.rename_axes({str(batch): "batch", str(height): "height", str(width): "width"})
    converted.save(str(path), external_data=False)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["m_fnl"], {"images": images.numpy()})[0])


def _save_program(program: ExportedProgram, path: Path) -> Callable[[Tensor], Tensor]:
    import torch

    torch.export.save(program, path)
    return torch.export.load(path).module()


def _check_masks(run: Callable[[Tensor], Tensor], network: RSRNet, size: int, name: str) -> float:
    """Compare a written program with the network at two sizes and batches; the largest difference.

    Raises:
        ExportError: if it is above the tolerance.
    """
    shapes = [(1, 3, size, size), (2, 3, size + 37, size + 11)]
    difference = max(_difference(run, network, shape) for shape in shapes)
    if difference <= TOLERANCE:
        return difference
    raise ExportError(
        f"{name} gives masks that differ from the network's by up to {difference:.1e}, more than {TOLERANCE:.0e}: "
        "it was not written"
    )


def _difference(run: Callable[[Tensor], Tensor], network: RSRNet, shape: tuple[int, ...]) -> float:
    """The largest difference of a pixel on a random input of a shape.

    Eq. 1 asks whether a pixel of the mask is below 0.5, so rounding alone can, rarely, lead a correct program to
    another mask. A wrong program differs on every input: the best of some attempts counts.
    """
    import torch

    best = float("inf")
    for seed in range(_ATTEMPTS):
        images = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
        with torch.inference_mode():
            differences = (run(images) - network(images).m_fnl).abs()
        best = min(best, differences.max().nan_to_num(float("inf")).item())
        if best <= TOLERANCE:
            break
    return best


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of PyTorch's exporters about their own insides."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
