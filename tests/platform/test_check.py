"""`rsrnet data check`: exit codes, the table, JSON, and a check that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from rsrnet.data.check.memory import MEMORY
from rsrnet_platform import cli


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as left:
        cli.main(["data", "check", *map(str, arguments)])
    return int(left.value.code or 0)


def composites(split: str, count: int) -> list[str]:
    return [f"s{split}-{index:03d}_1_1" for index in range(count)]


def write(root: Path, size: tuple[int, int] = (24, 16), train: int = 30) -> Path:
    """A dataset in the published layout, of which all images are one, under many names."""
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    mask = np.zeros(size[::-1], np.uint8)
    mask[: size[1] // 4] = 255
    for folder, picture, suffix in (
        ("composite_images", noise, "jpg"),
        ("masks", mask, "png"),
        ("real_images", noise, "jpg"),
    ):
        (root / "Sample" / folder).mkdir(parents=True)
        source = root / f"source.{suffix}"
        source.unlink(missing_ok=True)
        Image.fromarray(picture).save(source, quality=95)
        for split, count in (("train", train), ("test", 4)):
            for name in composites(split, count):
                stem = {"composite_images": name, "masks": name[:-2], "real_images": name[:-4]}[folder]
                os.link(source, root / "Sample" / folder / f"{stem}.{suffix}")
    for split, count in (("train", train), ("test", 4)):
        lines = [f"Sample/composite_images/{name}.jpg\n" for name in composites(split, count)]
        (root / f"le50_{split}.txt").write_text("".join(lines))
    return root


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write(tmp_path / "dataset")


def test_a_sound_dataset_ends_with_0(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(dataset, "--processes", 1) == 0
    shown = capsys.readouterr().out
    assert f"{dataset}: 102 files checked: 0 errors and 0 warnings." in shown
    assert [line.split("│")[1:4] for line in shown.splitlines() if "Sample" in line] == [
        [" le50_train.txt ", " Sample      ", "         30 "],
        [" le50_test.txt  ", " Sample      ", "          4 "],
    ]
    assert call(dataset) == 0
    assert "102 files checked (102 of them remembered from earlier checks)" in capsys.readouterr().out


def test_warnings_end_with_0_and_errors_with_1(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (dataset / "Sample/real_images/strain-003.jpg").unlink()
    assert call(dataset, "--processes", 1) == 0
    shown = capsys.readouterr().out
    assert "Warning (1): photographs (real_images) that are missing" in shown
    assert "Sample/real_images/strain-003.jpg: strain-003_1_1.jpg needs it" in shown
    (dataset / "Sample/masks/stest-001_1.png").unlink()
    assert call(dataset, "--processes", 1) == 1
    shown = capsys.readouterr().out
    assert "Error (1): masks that are missing\n  Sample/masks/stest-001_1.png" in shown
    assert "100 files checked (100 of them remembered from earlier checks): 1 error and 1 warning." in shown


def test_what_cannot_be_checked_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(tmp_path) == 2
    assert "holds no list; put le50_train.txt" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_20_of_a_kind_are_named_and_json_names_all(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in composites("train", 25):
        (dataset / f"Sample/composite_images/{name}.jpg").unlink()
    assert call(dataset, "--processes", 1) == 1
    shown = capsys.readouterr().out
    assert shown.count("needs it") == 20
    assert "  ... and 5 more; --json names all" in shown
    (row,) = [line.split() for line in shown.splitlines() if "le50_train" in line]
    assert row[-2] == "25"
    assert call(dataset, "--json", "--processes", 1) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    assert [found["file"] for found in report["findings"]] == [
        f"Sample/composite_images/{name}.jpg" for name in composites("train", 25)
    ]


def test_lists_are_written_only_when_asked_for(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "test"):
        (dataset / f"le50_{split}.txt").rename(dataset / f"IHD_{split}.txt")
    large = dataset / "Sample/masks/stest-002_1.png"
    large.unlink()
    Image.fromarray(np.repeat(np.uint8([255] * 9 + [0] * 7), 24).reshape(16, 24)).save(large)
    assert call(dataset, "--processes", 1) == 0
    shown = capsys.readouterr()
    assert "le50_test.txt (derived)" in shown.out
    assert (
        "le50_train.txt and le50_test.txt were derived, not written: --write-lists writes them." in shown.err
    )
    assert not list(dataset.glob("le50*"))
    assert call(dataset, "--write-lists", "--json") == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["derived"] is True
    assert shown.err.count("Written: ") == 2
    kept = (dataset / "le50_test.txt").read_text().split()
    assert kept == [
        f"Sample/composite_images/{name}.jpg" for name in composites("test", 4) if "002" not in name
    ]
    assert call(dataset, "--write-lists") == 2


def test_lists_that_cannot_be_written_are_refused_before_anything_is_decoded(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options, named in (((), "le50_train.txt, le50_test.txt"), (("--list", "mine.txt"), "mine.txt")):
        assert call(dataset, "--write-lists", *options) == 2
        shown = capsys.readouterr()
        assert f"nothing to write: {dataset} has {named}" in " ".join(shown.err.split())
        assert shown.out == ""
        assert not (dataset / MEMORY).exists()


def test_named_lists_are_checked(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (dataset / "mine.txt").write_text("strain-001_1_1.jpg\n")
    assert call(dataset, "--list", "mine.txt", "--list", "le50_test.txt", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["lists"], report["files"]["checked"]) == (["mine.txt", "le50_test.txt"], 15)


def program(root: Path, *options: str) -> list[str]:
    code = "from rsrnet_platform.cli import main; main()"
    return [sys.executable, "-c", code, "data", "check", str(root), *options]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_check_goes_on_where_it_was(tmp_path: Path, how: signal.Signals) -> None:
    root = write(tmp_path / "dataset", size=(1200, 1200), train=120)
    broken = root / "Sample/masks/strain-050_1.png"
    content = broken.read_bytes()
    broken.unlink()
    broken.write_bytes(content[:-50])
    memory = root / ".rsrnet-check.jsonl"
    check = subprocess.Popen(
        program(root, "--processes", "2"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        # A shell that runs the tests in the background ignores Ctrl-C, and its children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not memory.exists() or memory.read_bytes().count(b"\n") < 17:
        assert check.poll() is None, check.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    children = psutil.Process(check.pid).children(recursive=True)
    if how == signal.SIGINT:
        os.killpg(check.pid, how)  # as a terminal does
    else:
        check.send_signal(how)
    _, said = check.communicate(timeout=60)
    assert check.returncode != 0
    assert b"Traceback" not in said
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []

    remembered = memory.read_bytes().count(b"\n") - 1
    done = subprocess.run(program(root, "--json"), capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    assert report["files"]["checked"] == 372
    assert 16 <= remembered < 372
    # The line that was being written when the check was killed may be cut short.
    assert 372 - remembered <= report["files"]["decoded"] <= 372 - remembered + 1
    assert [(found["kind"], found["file"]) for found in report["findings"]] == [
        ("undecodable_mask", "Sample/masks/strain-050_1.png")
    ]
    assert done.returncode == 1
