"""`rsrnet data pack`, and a pack as the dataset of jobs and of Ray Data."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rsrnet.data.lists import read_list
from rsrnet.data.pack.layout import PackConfig
from rsrnet.data.pack.write import pack
from rsrnet_platform import cli, spec

MakeJob = Callable[..., spec.TrainJob]


def rsrnet(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    return int(left.value.code or 0)


def test_command_packs_and_says_what(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pack"
    command = ("data", "pack", str(squares), str(out), "--side", "32", "--list", "le50_test.txt")
    assert rsrnet(*command, "--processes", "1") == 0
    assert "5 of le50_test.txt; 1 shards" in capsys.readouterr().out
    assert len(read_list(out, "le50_test.txt")) == 5
    assert rsrnet(*command) == 0
    assert "1 of them there already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{root}", "{out}", "--side", "3"), "side = 3: a whole number from 32 to 4096"),
        (("{root}", "{out}", "--format", "gif"), "format = 'gif': jpeg or png"),
        (("{root}/nowhere", "{out}"), "there is no dataset folder"),
        (("{root}", "{root}"), "holds other things, such as"),
        (("{root}", "{out}", "--list", "x.txt"), "there is no list"),
    ],
)
def test_what_cannot_be_packed_is_refused_in_one_message(
    squares: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    given = [argument.format(root=squares, out=tmp_path / "pack") for argument in arguments]
    assert rsrnet("data", "pack", *given) == 2
    printed = " ".join("".join(capsys.readouterr()).split())
    assert message in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "pack").exists()


def test_killed_packing_goes_on(squares: Path, tmp_path: Path) -> None:
    out = tmp_path / "pack"
    command = [
        sys.executable,
        "-m",
        "rsrnet_platform",
        "data",
        "pack",
        str(squares),
        str(out),
        "--side",
        "32",
    ]
    packing = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (out / "packing.json").exists() and packing.poll() is None:
        time.sleep(0.005)
    packing.send_signal(signal.SIGKILL)
    packing.wait()
    pack(squares, str(out), processes=1, config=PackConfig(32))
    pack(squares, str(tmp_path / "whole"), processes=1, config=PackConfig(32))
    files = [
        {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}
        for root in (out, tmp_path / "whole")
    ]
    assert files[0] == files[1]


def test_training_on_a_pack_is_finished(squares: Path, tmp_path: Path, make_job: MakeJob) -> None:
    from rsrnet_platform.train import run

    pack(squares, str(tmp_path / "pack"), processes=1)
    run(make_job(data__root=str(tmp_path / "pack"), tracking__model="null", fit__epochs="1"), fresh=False)
    (card,) = (tmp_path / "runs").rglob("state.json")
    state = json.loads(card.read_text())
    assert state["status"] == "finished"
    assert (state["data"]["train"], state["data"]["val"]) == (12, 5)


def test_training_on_a_pack_holds_out_validation(
    squares_of_six_photographs: Path, tmp_path: Path, make_job: MakeJob
) -> None:
    from rsrnet_platform.train import run

    pack(squares_of_six_photographs, str(tmp_path / "pack"), processes=1)
    overrides = {"data__val": "null", "tracking__model": "null", "fit__epochs": "1"}
    run(make_job(data__root=(tmp_path / "pack").as_uri(), **overrides), fresh=False)
    (card,) = (tmp_path / "runs").rglob("state.json")
    assert json.loads(card.read_text())["data"]["val"] == 2


def test_uri_of_a_pack_stays_what_it_is(make_job: MakeJob) -> None:
    assert make_job(data__root="s3://bucket/pack").data.root == "s3://bucket/pack"


def test_unfinished_pack_is_refused_before_anything_starts(
    tmp_path: Path, make_job: MakeJob, train_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack/packing.json").write_text("{}")
    assert rsrnet("run", str(train_file), "--set", f"data.root={tmp_path / 'pack'}") == 2
    assert "packing was not finished" in " ".join("".join(capsys.readouterr()).split())


@pytest.mark.ray
def test_ray_data_reads_a_list_of_a_pack(squares: Path, tmp_path: Path, ray_cluster: Any) -> None:
    import ray

    pack(squares, str(tmp_path / "pack"), processes=1)
    rows = ray.data.read_parquet(str(tmp_path / "pack/le50_train")).take_all()
    assert {row["name"] for row in rows} == {item.name for item in read_list(squares, "le50_train.txt")}
    assert Image.open(io.BytesIO(rows[0]["image"])).size == (rows[0]["width"], rows[0]["height"])
    # The whole pack, beside whose shards other files lie.
    assert ray.data.read_parquet(os.fspath(tmp_path / "pack")).count() == 22
