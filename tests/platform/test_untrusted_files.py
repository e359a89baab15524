"""Files that somebody else may have written run nothing: a pickle that would touch a file, wherever one could lie."""

from __future__ import annotations

import ast
import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import rsrnet
from rsrnet import checkpoint
from rsrnet.checkpoint import CheckpointError
from rsrnet.data.errors import DataError
from rsrnet.data.pack.layout import INDEX, MANIFEST
from rsrnet.data.pack.write import pack
from rsrnet.data.source import open_source
from rsrnet.model.config import RSRNetConfig
from rsrnet.model.encoder import WeightsError, read_resnet_weights
from rsrnet.model.network import RSRNet
from rsrnet_platform import spec, strict_yaml
from rsrnet_platform.errors import JobError
from rsrnet_platform.lookup import resolve

NETWORK = RSRNetConfig(depth=18, width=4, iterations=1)

OWN_PICKLES = {"platform/rsrnet_platform/prediction/stream.py"}
"""Between stages of one job: Ray carries it from one of its processes to the next, and nobody else."""


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (str(self.sprung), "w")


@pytest.fixture
def trap(tmp_path: Path) -> Trap:
    return Trap(tmp_path / "sprung")


@pytest.fixture(autouse=True)
def _nothing_ran(tmp_path: Path) -> Any:
    yield
    assert not (tmp_path / "sprung").exists(), "the pickle was executed"


def test_the_trap_works(trap: Trap) -> None:
    pickle.loads(pickle.dumps(trap)).close()
    assert trap.sprung.exists()
    trap.sprung.unlink()


def _checkpoint(folder: Path, training: dict[str, Any] | None = None) -> Path:
    checkpoint.save(folder, RSRNet(NETWORK), checkpoint.ModelCard(NETWORK, size=32, epoch=1), training)
    return folder


def _with_right_digests(folder: Path) -> Path:
    """As somebody would who can write the folder: the digests are those of what is there."""
    file = folder / checkpoint.CONFIG
    values = json.loads(file.read_text())
    for name in (checkpoint.WEIGHTS, checkpoint.TRAINING):
        if (folder / name).exists():
            values["sha256"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    del values["sha256"]["config.json"]
    values["sha256"]["config.json"] = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    file.write_text(json.dumps(values, indent=2))
    return folder


def test_state_of_an_optimizer_is_not_executed(tmp_path: Path, trap: Trap) -> None:
    # Written by PyTorch itself, with the digests that belong to it.
    folder = _checkpoint(tmp_path / "model", {"optimizer": trap, "epoch": torch.ones(2)})
    checkpoint.verify(folder)
    with pytest.raises(CheckpointError, match=r"training\.pt: .* not read, .*\. Use another checkpoint"):
        checkpoint.load_training(folder)


@pytest.mark.parametrize("protocol", [0, 2, pickle.HIGHEST_PROTOCOL])
def test_bare_pickle_in_place_of_the_state_is_not_executed(tmp_path: Path, trap: Trap, protocol: int) -> None:
    folder = _checkpoint(tmp_path / "model", {"epoch": 1})
    (folder / checkpoint.TRAINING).write_bytes(pickle.dumps(trap, protocol))
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.load_training(folder)
    with pytest.raises(CheckpointError, match=r"training\.pt: .*Use another checkpoint"):
        checkpoint.load_training(_with_right_digests(folder))


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_pickle_in_place_of_weights_is_not_executed(
    tmp_path: Path, trap: Trap, save: Callable[[Any, Path], Any]
) -> None:
    folder = _checkpoint(tmp_path / "model")
    save({"weight": trap}, folder / checkpoint.WEIGHTS)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: .*cannot be loaded"):
        rsrnet.Localizer(_with_right_digests(folder))


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_encoder_weights_are_not_executed(
    tmp_path: Path, trap: Trap, save: Callable[[Any, Path], Any]
) -> None:
    file = tmp_path / "resnet.pth"
    save({"layer1.0.conv1.weight": torch.ones(1), "more": trap}, file)
    with pytest.raises(WeightsError, match=rf"{file}.*was not read.*torch\.save\(model\.state_dict\(\)"):
        read_resnet_weights(str(file), 18)


def test_pickles_beside_a_model_are_not_looked_at(tmp_path: Path, trap: Trap) -> None:
    """The folder of a model as MLflow packages it; only weights and configuration are read from it."""
    _checkpoint(tmp_path / "package" / "artifacts")
    for name in ("python_model.pkl", "model.pt", "artifacts/training.pt", "code/rsrnet/__init__.py"):
        file = tmp_path / "package" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(pickle.dumps(trap))
    rsrnet.Localizer(resolve(str(tmp_path / "package")))


def test_index_of_a_pack_is_not_executed(tmp_path: Path, trap: Trap, squares: Path) -> None:
    pack(squares, str(tmp_path / "pack"), lists=["le50_test.txt"], processes=1)
    index = tmp_path / "pack" / INDEX
    with index.open("wb") as file:
        np.save(file, np.array([trap], dtype=object), allow_pickle=True)
    manifest = tmp_path / "pack" / MANIFEST
    values = json.loads(manifest.read_text()) | {"index_bytes": index.stat().st_size}
    manifest.write_text(json.dumps(values))
    with pytest.raises(DataError, match=r"index\.npy is damaged; copy the pack again"):
        open_source(tmp_path / "pack")


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['true']",
        "!!python/object/new:open [SPRUNG, w]",
        "!!python/object/apply:builtins.open [SPRUNG, w]",
        "!!python/name:os.system",
        "!!python/module:os",
        "!!binary aGk=",
    ],
)
def test_job_file_makes_no_objects(tmp_path: Path, text: str) -> None:
    text = text.replace("SPRUNG", str(tmp_path / "sprung"))
    with pytest.raises(yaml.YAMLError):
        strict_yaml.read(text)
    file = tmp_path / "job.yaml"
    file.write_text(f"kind: train\nname: {text}\n")
    with pytest.raises(JobError, match=rf"{file}: .*\n.*line 2, column 7: could not determine a constructor"):
        spec.load(file)
    file.write_text("kind: train\nname: x\n")
    with pytest.raises(JobError, match=r"--set name=.*could not determine a constructor"):
        spec.load(file, [f"name={text}"])


def _calls(file: Path) -> list[tuple[str, ast.Call]]:
    return [
        (ast.unparse(node.func), node)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]


def _wrong(name: str, call: ast.Call) -> bool:
    given = {each.arg: ast.unparse(each.value) for each in call.keywords}
    module, _, last = name.rpartition(".")
    return (
        (name == "torch.load" and given.get("weights_only") != "True")
        or (module.endswith("pickle") and last in ("load", "loads", "Unpickler"))
        or (module in ("joblib", "dill", "shelve", "marshal"))
        or (module in ("np", "numpy") and given.get("allow_pickle", "False") != "False")
        or (module == "yaml" and "load" in last and given.get("Loader") != "_Loader")
        or (last in ("extractall", "unpack_archive"))
        or (name in ("eval", "exec", "os.system", "torch.hub.load"))
        or (given.get("shell") == "True")
    )


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("torch.load(p)", True),
        ("torch.load(p, weights_only=False)", True),
        ("torch.load(p, map_location='cpu', weights_only=True)", False),
        ("pickle.load(f)", True),
        ("cloudpickle.loads(f)", True),
        ("np.load(f, allow_pickle=True)", True),
        ("np.load(f)", False),
        ("yaml.load(t, Loader=yaml.Loader)", True),
        ("yaml.full_load(t)", True),
        ("archive.extractall(f)", True),
        ("subprocess.run(c, shell=True)", True),
        ("model.eval()", False),
    ],
)
def test_rule_for_what_the_code_may_call(code: str, wrong: bool) -> None:
    call = ast.parse(code, mode="eval").body
    assert isinstance(call, ast.Call)
    assert _wrong(ast.unparse(call.func), call) is wrong


def test_nothing_in_the_code_reads_what_could_run_a_program(repository: Path) -> None:
    files = [file for folder in ("rsrnet", "platform") for file in (repository / folder).rglob("*.py")]
    assert files
    found = {
        str(file.relative_to(repository))
        for file in files
        for name, call in _calls(file)
        if _wrong(name, call)
    }
    assert found == OWN_PICKLES
