"""Checkpoint folders that are missing, damaged, foreign or malicious."""

from __future__ import annotations

import json

import pytest
import torch

from rsrnet import checkpoint
from rsrnet.model.config import RSRNetConfig
from rsrnet.model.network import RSRNet


@pytest.fixture
def folder(tmp_path, tiny):
    card = checkpoint.ModelCard(tiny, size=32, epoch=4, metrics={"val/iou": 0.5})
    checkpoint.save(tmp_path / "c", RSRNet(tiny), card, {"epoch": 4})
    return tmp_path / "c"


def test_what_is_saved_is_read(folder, tiny) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "training.pt",
    ]
    assert checkpoint.read_card(folder) == checkpoint.ModelCard(tiny, 32, 4, {"val/iou": 0.5})
    assert checkpoint.load_training(folder) == {"epoch": 4}
    assert not checkpoint.load_model(folder).training


def test_missing_folder_is_named(tmp_path) -> None:
    with pytest.raises(checkpoint.CheckpointError, match=r"nowhere: not a checkpoint folder"):
        checkpoint.load_model(tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["", "{", "{}", '{"format": 1, "model": {"depth": 50}, "size": 32}'])
def test_damaged_config_is_named(folder, text) -> None:
    (folder / checkpoint.CONFIG).write_text(text)
    with pytest.raises(checkpoint.CheckpointError, match=r"config\.json: damaged"):
        checkpoint.read_card(folder)


def test_newer_format_is_refused(folder) -> None:
    values = json.loads((folder / checkpoint.CONFIG).read_text())
    (folder / checkpoint.CONFIG).write_text(json.dumps({**values, "format": 99}))
    with pytest.raises(checkpoint.CheckpointError, match="newer release"):
        checkpoint.read_card(folder)


def test_truncated_weights_are_named(folder) -> None:
    weights = (folder / checkpoint.WEIGHTS).read_bytes()
    (folder / checkpoint.WEIGHTS).write_bytes(weights[: len(weights) // 2])
    with pytest.raises(checkpoint.CheckpointError, match=r"model\.safetensors"):
        checkpoint.load_model(folder)


def test_weights_of_another_architecture_are_refused(folder) -> None:
    with pytest.raises(checkpoint.CheckpointError, match=r"model\.safetensors"):
        checkpoint.load_weights(RSRNet(RSRNetConfig(depth=18, width=8)), folder)


def test_code_in_a_training_state_is_not_executed(folder, tmp_path) -> None:
    class Malicious:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    torch.save({"optimizer": Malicious()}, folder / checkpoint.TRAINING)
    with pytest.raises(checkpoint.CheckpointError, match=r"training\.pt"):
        checkpoint.load_training(folder)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", [checkpoint.WEIGHTS, checkpoint.TRAINING, checkpoint.CONFIG])
@pytest.mark.parametrize("damage", ["truncated", "bit flipped"])
def test_damaged_files_are_refused_by_their_checksum(folder, name, damage) -> None:
    checkpoint.verify(folder)
    data = bytearray((folder / name).read_bytes())
    if damage == "truncated":
        del data[-1]
    elif name == checkpoint.CONFIG:
        at = data.index(b"0.5")
        data[at] ^= 1
    else:
        data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(checkpoint.CheckpointError, match=rf"{name}: damaged"):
        checkpoint.verify(folder)


def test_a_folder_without_checksums_is_of_an_earlier_release_and_is_read(folder, tiny) -> None:
    values = json.loads((folder / checkpoint.CONFIG).read_text())
    del values["sha256"]
    (folder / checkpoint.CONFIG).write_text(json.dumps(values))
    checkpoint.verify(folder)
    assert checkpoint.read_card(folder).epoch == 4
    assert checkpoint.load_training(folder) == {"epoch": 4}


def test_a_card_that_is_replaced_keeps_the_checksums(folder, tiny) -> None:
    checkpoint.write_card(folder, checkpoint.ModelCard(tiny, 32, 9, {}))
    checkpoint.verify(folder)
    assert checkpoint.read_card(folder).epoch == 9
    (folder / checkpoint.WEIGHTS).write_bytes((folder / checkpoint.WEIGHTS).read_bytes()[:-1])
    with pytest.raises(checkpoint.CheckpointError, match="SHA-256"):
        checkpoint.load_model(folder)
