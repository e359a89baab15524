"""Exported networks: they compute what the network computes, for any batch and size, or are not written."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor
from typer.testing import CliRunner

from rsrnet import checkpoint
from rsrnet.detection import Detection
from rsrnet.localizer import Localizer
from rsrnet.model.config import ABLATIONS, RSRNetConfig, ablation
from rsrnet.model.network import RSRNet
from rsrnet_platform.export import TOLERANCE, Exported, ExportError, check, export
from rsrnet_platform.models import export_command

SMALL = RSRNetConfig(depth=18, width=4, iterations=2)
SIZE = 40  # no multiple of 16, so the network pads
SHAPES = [(1, 3, SIZE, SIZE), (4, 3, 32, 100), (2, 3, 65, 48)]

Save = Callable[..., Path]


@pytest.fixture(scope="module")
def save(tmp_path_factory: pytest.TempPathFactory) -> Save:
    """Write the checkpoint of a network with drawn weights."""

    def write(config: RSRNetConfig, factor: float = 1.0) -> Path:
        torch.manual_seed(0)
        network = RSRNet(config)
        with torch.no_grad():
            network.decoder.mask.weight.mul_(factor)
        folder = tmp_path_factory.mktemp("checkpoint")
        card = checkpoint.ModelCard(config, size=SIZE, epoch=1)
        checkpoint.save(folder, network, replace(card, detection=Detection(0.6, 0.9, 0.8, 0.1, 20, 20)))
        return folder

    return write


@pytest.fixture(scope="module")
def source(save: Save) -> Path:
    return save(SMALL)


@pytest.fixture(scope="module")
def out(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the full network in every format."""
    folder = tmp_path_factory.mktemp("exports") / "of" / "it"
    export(source, folder)
    return folder


def masks_of(source: Path, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return checkpoint.load_model(source)(images).m_fnl


def opened(path: Path) -> Callable[[Tensor], Tensor]:
    """What an exported file computes."""
    if path.suffix == ".pt2":
        return torch.export.load(path).module()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


@pytest.mark.parametrize("name", ["rsrnet.onnx", "rsrnet.pt2"])
def test_any_batch_and_size_gets_the_masks_of_the_network(name: str, source: Path, out: Path) -> None:
    run = opened(out / name)
    for shape in SHAPES:
        images = torch.rand(shape)
        found = run(images)
        assert (found.dtype, found.shape) == (torch.float32, (shape[0], 1, *shape[2:]))
        assert (found - masks_of(source, images)).abs().max() <= TOLERANCE


def test_what_is_written_is_valid_and_complete(out: Path) -> None:
    assert {path.name for path in out.iterdir()} == {
        "rsrnet.onnx",
        "rsrnet.pt2",
        "README.md",
        "preprocessing.json",
    }
    assert list(out.parent.iterdir()) == [out]
    network = onnx.load(out / "rsrnet.onnx")
    onnx.checker.check_model(network, full_check=True)
    (images,), (mask,) = network.graph.input, network.graph.output
    sides = [
        [side.dim_param or side.dim_value for side in each.type.tensor_type.shape.dim]
        for each in (images, mask)
    ]
    assert (images.name, mask.name) == ("images", "m_fnl")
    assert sides == [["batch", 3, "height", "width"], ["batch", 1, "height", "width"]]


def test_the_documents_lead_a_stranger_from_an_image_to_its_mask(
    source: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    (code,) = [
        part.partition("```")[0]
        for part in (out / "README.md").read_text().split("```python\n")[1:]
        if "onnxruntime" in part
    ]
    cv2.imwrite(str(tmp_path / "composite.png"), image[..., ::-1])
    monkeypatch.chdir(tmp_path)
    names: dict[str, NDArray[np.float32]] = {}
    exec(
        code.replace("rsrnet.onnx", str(out / "rsrnet.onnx")).replace("composite.jpg", "composite.png"), names
    )
    expected = Localizer(source, device="cpu")(image)
    assert names["mask"].shape == expected.shape
    assert np.abs(names["mask"] - expected).max() <= TOLERANCE
    told = json.loads((out / "preprocessing.json").read_text())
    assert told["input"]["resize"]["height"] == told["input"]["resize"]["width"] == SIZE
    assert told["detection"]["threshold"] == 0.6
    assert told["iterations"] == 2


def test_a_network_without_reasoning_is_exported_and_its_licence_note_copied(
    save: Save, tmp_path: Path
) -> None:
    checkpoint_folder = save(ablation("unet", SMALL))
    source = tmp_path / "model" / "artifacts"
    source.parent.mkdir()
    checkpoint_folder.rename(source)
    (source.parent / "LICENSE-WEIGHTS.md").write_text("terms")
    out = tmp_path / "out"
    (exported,) = export(source, out, ["torch-export"])
    assert exported == Exported(out / "rsrnet.pt2", exported.difference)
    assert exported.difference <= TOLERANCE
    assert (out / "LICENSE-WEIGHTS.md").read_text() == "terms"
    images = torch.rand(SHAPES[1])
    assert (opened(exported.path)(images) - masks_of(source, images)).abs().max() <= TOLERANCE
    assert "onnxruntime" not in (out / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("row", ABLATIONS)
def test_every_row_of_table_2_is_exported(row: str, save: Save, tmp_path: Path) -> None:
    source = save(ablation(row, replace(SMALL, hidden_init="zeros")))
    for exported in export(source, tmp_path / "out"):
        images = torch.rand(SHAPES[2])
        found = opened(exported.path)(images)
        assert (found - masks_of(source, images)).abs().max() <= TOLERANCE


def test_a_file_with_other_masks_is_refused_and_the_earlier_one_stays(save: Save, tmp_path: Path) -> None:
    source = save(ablation("unet", SMALL), float("nan"))
    out = tmp_path / "out"
    out.mkdir()
    (out / "rsrnet.pt2").write_text("earlier")
    with pytest.raises(
        ExportError, match=r"rsrnet.pt2 gives masks that differ from the network's by up to inf"
    ):
        export(source, out, ["torch-export"])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.read_text() for path in out.iterdir()] == ["earlier"]


@pytest.mark.parametrize(
    ("formats", "out", "told"),
    [
        (["onyx"], "out", "format onyx: choose from onnx, torch-export"),
        ([], "out", "choose from onnx, torch-export"),
        (["torch-export"], "file", "file: not a folder"),
        (["torch-export"], "file/out", "file/out: cannot be written"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_message(
    formats: list[str], out: str, told: str, source: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ExportError, match=told):
        export(source, tmp_path / out, formats)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_the_readme_of_another_project_is_not_overwritten(source: Path, out: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# Mine")
    with pytest.raises(ExportError, match="that is not of an export"):
        export(source, tmp_path, ["torch-export"])
    assert [path.read_text() for path in tmp_path.iterdir()] == ["# Mine"]
    check(out, ["torch-export"])  # an earlier export may be replaced


def test_without_the_packages_the_extra_is_named(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec

    def find_all_but_one(name: str) -> ModuleSpec | None:
        return None if name == "onnxscript" else find(name)

    monkeypatch.setattr("rsrnet_platform.export.find_spec", find_all_but_one)
    with pytest.raises(ExportError, match=r'ONNX needs onnxscript: pip install "rsrnet\[export\]"'):
        export(source, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_the_command_tells_what_it_wrote(save: Save, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(export_command.export)
    source, out = save(ablation("unet", SMALL)), tmp_path / "out"
    done = CliRunner().invoke(app, [str(source), str(out), "--format", "torch-export"])
    assert done.exit_code == 0, done.output
    told = re.fullmatch(r"(.+): differs from the network by at most (\S+)\n", done.stdout)
    assert told, done.stdout
    assert told[1] == str(out / "rsrnet.pt2")
    assert float(told[2]) < 1e-6
    assert (out / "rsrnet.pt2").is_file()
    refused = CliRunner().invoke(app, ["models:/nowhere@champion", str(out), "--format", "onyx"])
    assert isinstance(refused.exception, ExportError)
