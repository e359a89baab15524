"""Prediction jobs that are killed, started again, started twice, or that go wrong on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import torch
from filelock import FileLock
from PIL import Image

from rsrnet import checkpoint
from rsrnet.model.config import RSRNetConfig
from rsrnet.model.network import RSRNet
from rsrnet_platform import cli, predict, spec
from rsrnet_platform.errors import UserError
from rsrnet_platform.prediction import stream
from rsrnet_platform.prediction.output import Output

COUNT, BATCH = 60, 2


def save_model(folder: Path, seed: int = 3) -> Path:
    torch.manual_seed(seed)
    config = RSRNetConfig(depth=18, width=4, iterations=2)
    checkpoint.save(folder, RSRNet(config), checkpoint.ModelCard(config, size=32))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return make_images(tmp_path / "images", COUNT)


def make_images(folder: Path, count: int) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        pixels = rng.integers(0, 256, (20 + number % 7, 30 + number % 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    return folder


def job(model: Path, images: Path, output: Path, **more: Any) -> spec.PredictJob:
    given = {"kind": "predict", "name": "p", "model": str(model), "input": str(images), "output": str(output)}
    made = spec.parse({**given, "threshold": 0.4, "batch_size": BATCH, "cluster": {"workers": 0}, **more})
    assert isinstance(made, spec.PredictJob)
    return made


def results(output: Path) -> dict[str, bytes]:
    """Every file that is not hidden and does not name the folder."""
    files = (path for path in output.rglob("*") if path.is_file())
    visible = (path for path in files if ".rsrnet" not in path.parts and path.name != "predict.yaml")
    return {str(path.relative_to(output)): path.read_bytes() for path in visible}


def times(output: Path) -> dict[str, int]:
    """When each mask was written."""
    return {path.name: path.stat().st_mtime_ns for path in (output / "masks").glob("*.png")}


def committed(output: Path) -> list[Path]:
    return sorted((output / ".rsrnet" / "parts").glob("*.json"))


def wait_for(what: Callable[[], Any], seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if got := what():
            return got
        time.sleep(0.002)
    raise AssertionError("it did not happen")


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.ray)])
def test_a_job_that_was_killed_goes_on(workers, model, images, tmp_path, request, monkeypatch) -> None:
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    if workers:
        environment["RAY_ADDRESS"] = request.getfixturevalue("ray_cluster").address
    predict.run(job(model, images, tmp_path / "undisturbed"), fresh=False)
    asked = job(model, images, tmp_path / "killed", cluster={"workers": workers})
    (tmp_path / "job.yaml").write_text(spec.to_yaml(asked))
    program = "import sys; from rsrnet_platform.cli import main; main(sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "run", str(tmp_path / "job.yaml")],
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: len(committed(tmp_path / "killed")) >= 3)
    finally:
        process.kill()
        process.wait()
    if workers:
        # Tasks that had begun may still write; no new ones begin.
        wait_for(lambda: settled(tmp_path / "killed"))
    done = committed(tmp_path / "killed")
    assert 3 <= len(done) < COUNT // BATCH
    assert not (tmp_path / "killed" / predict.TABLE).exists()
    before = times(tmp_path / "killed")
    kept = {f"{int(path.stem) * BATCH + offset:03d}.png" for path in done for offset in range(BATCH)}
    predict.run(job(model, images, tmp_path / "killed"), fresh=False)
    after = times(tmp_path / "killed")
    assert {name for name in after if before.get(name) == after[name]} == kept
    assert results(tmp_path / "killed") == results(tmp_path / "undisturbed")
    assert not list(tmp_path.rglob("*.partial"))


def settled(output: Path) -> bool:
    before = len(committed(output)), times(output)
    time.sleep(1.5)
    return before == (len(committed(output)), times(output))


def test_a_finished_job_does_nothing_and_then_only_what_is_new(model, images, tmp_path, capsys) -> None:
    output = tmp_path / "out"
    predict.run(job(model, images, output), fresh=False)
    first, before = results(output), times(output)
    predict.run(job(model, images, output), fresh=False)
    assert f"All {COUNT} images are done already" in capsys.readouterr().err
    assert (results(output), times(output)) == (first, before)
    (images / "010b.png").write_bytes((images / "020.png").read_bytes())  # shifts every batch behind it
    (images / "030.png").write_bytes((images / "021.png").read_bytes())
    (images / "040.png").unlink()
    (output / "masks" / "050.png").unlink()
    predict.run(job(model, images, output), fresh=False)
    after = times(output)
    assert {name for name in after if before.get(name) != after[name]} == {"010b.png", "030.png", "050.png"}
    rows = pq.read_table(output / predict.TABLE).to_pylist()
    assert [Path(row["path"]) for row in rows] == sorted(images.iterdir())
    by_name = {Path(row["path"]).stem: row for row in rows}
    assert by_name["030"]["sha256"] == by_name["021"]["sha256"]


@pytest.mark.parametrize("change", ["new image", "image gone"])
def test_a_job_killed_before_its_second_table_writes_it_at_the_next_start(
    change, model, tmp_path, monkeypatch
) -> None:
    """All images are done then, and a table is there, but an old one."""
    images = make_images(tmp_path / "images", 4)
    predict.run(job(model, images, tmp_path / "out"), fresh=False)
    if change == "new image":
        (images / "001b.png").write_bytes((images / "002.png").read_bytes())
    else:
        (images / "001.png").unlink()

    def killed(self: Output) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Output, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            predict.run(job(model, images, tmp_path / "out"), fresh=False)
    predict.run(job(model, images, tmp_path / "out"), fresh=False)
    rows = pq.read_table(tmp_path / "out" / predict.TABLE).to_pylist()
    assert [Path(row["path"]) for row in rows] == sorted(images.iterdir())


def test_a_result_that_gets_another_name_is_made_again(model, tmp_path) -> None:
    images = make_images(tmp_path / "images", 2)
    predict.run(job(model, images, tmp_path / "out"), fresh=False)
    Image.open(images / "000.png").rotate(90).save(images / "000.bmp")
    predict.run(job(model, images, tmp_path / "out"), fresh=False)
    rows = pq.read_table(tmp_path / "out" / predict.TABLE).to_pylist()
    assert [row["mask"] for row in rows] == ["masks/000.bmp.png", "masks/000.png.png", "masks/001.png"]
    for row in rows:
        assert Image.open(tmp_path / "out" / row["mask"]).size == (row["width"], row["height"])


def test_only_a_readable_image_is_done(model, tmp_path) -> None:
    images = make_images(tmp_path / "images", 5)
    good = (images / "002.png").read_bytes()
    (images / "002.png").write_bytes(good[:50])
    stamp = (images / "002.png").stat()
    predict.run(job(model, images, tmp_path / "out"), fresh=False)
    before = times(tmp_path / "out")
    assert len(before) == 4
    (images / "002.png").write_bytes(good)
    os.utime(images / "002.png", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    predict.run(job(model, images, tmp_path / "out"), fresh=False)
    after = times(tmp_path / "out")
    assert {name for name in after if before.get(name) != after[name]} == {"002.png"}
    assert set(pq.read_table(tmp_path / "out" / predict.TABLE)["status"].to_pylist()) == {"ok"}


def test_other_settings_and_another_model_are_refused(model, tmp_path) -> None:
    images = make_images(tmp_path / "images", 3)
    predict.run(job(model, images, tmp_path / "out"), fresh=False)
    first = results(tmp_path / "out")
    with pytest.raises(UserError) as caught:
        predict.run(job(model, images, tmp_path / "out", flip=True, threshold=0.6), fresh=False)
    assert "threshold: 0.4, now 0.6" in str(caught.value)
    assert "flip: False, now True" in str(caught.value)
    assert "--fresh" in str(caught.value)
    other = save_model(tmp_path / "other", seed=4)
    with pytest.raises(UserError, match=r"model: .*model.*, now .*other(.|\n)*model_sha256: "):
        predict.run(job(other, images, tmp_path / "out"), fresh=False)
    assert results(tmp_path / "out") == first
    # Where and how fast it computes may differ.
    predict.run(job(model, images, tmp_path / "out", name="q", batch_size=7), fresh=False)
    predict.run(job(other, images, tmp_path / "out", flip=True), fresh=True)
    assert results(tmp_path / "out") != first


def test_an_output_belongs_to_one_job_at_a_time(model, images, tmp_path) -> None:
    (tmp_path / "out" / ".rsrnet").mkdir(parents=True)
    with (
        FileLock(tmp_path / "out" / ".rsrnet" / "lock"),
        pytest.raises(UserError, match="another job is writing there"),
    ):
        predict.run(job(model, images, tmp_path / "out"), fresh=False)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.ray)])
def test_a_job_in_which_most_images_are_bad_ends_and_goes_on(
    workers, model, tmp_path, request, capsys
) -> None:
    if workers:
        request.getfixturevalue("ray_cluster")
    images = make_images(tmp_path / "images", 60)
    good = {path: path.read_bytes() for path in images.iterdir()}
    for path in sorted(images.iterdir())[10:50]:
        path.write_bytes(b"no image")
    asked = job(model, images, tmp_path / "out", cluster={"workers": workers})
    with pytest.raises(
        UserError, match=r"1\d of 2\d images could not be read.*max_error_fraction = 0.5"
    ) as e:
        predict.run(asked, fresh=False)
    assert "010.png: cannot be decoded" in str(e.value)
    assert not (tmp_path / "out" / predict.TABLE).exists()
    before = times(tmp_path / "out")
    assert len(before) >= 10
    for path, data in good.items():
        if path.stem >= "010":
            path.write_bytes(data)
    predict.run(asked, fresh=False)
    after = times(tmp_path / "out")
    assert len(after) == 60
    assert all(after[name] == before[name] for name in before if name < "010")


def test_few_images_are_judged_at_the_end(model, tmp_path) -> None:
    images = make_images(tmp_path / "images", 4)
    for name in ("001.png", "002.png"):
        (images / name).write_bytes(b"")
    predict.run(job(model, images, tmp_path / "half"), fresh=False)
    with pytest.raises(UserError, match="2 of 4 images could not be read"):
        predict.run(job(model, images, tmp_path / "out", max_error_fraction=0.4), fresh=False)
    assert results(tmp_path / "out") == results(tmp_path / "half")
    # What was read before counts: the next start sees the two bad ones alone.
    predict.run(job(model, images, tmp_path / "half"), fresh=False)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.ray)])
def test_an_output_that_cannot_be_written_ends_the_job(workers, model, tmp_path, request, capsys) -> None:
    if workers:
        request.getfixturevalue("ray_cluster")
    images = make_images(tmp_path / "images", 8)
    predict.run(job(model, images, tmp_path / "out"), fresh=False)
    (tmp_path / "out" / "masks" / "006.png").unlink()
    (tmp_path / "out" / "masks" / "006.png" / "in the way").mkdir(parents=True)
    (tmp_path / "job.yaml").write_text(
        spec.to_yaml(job(model, images, tmp_path / "out", cluster={"workers": workers}))
    )
    with pytest.raises(SystemExit) as left:
        cli.main(["run", str(tmp_path / "job.yaml")])
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert f"Error: output = {tmp_path / 'out'}: cannot be written" in said
    assert "Traceback" not in said
    (tmp_path / "out" / "masks" / "006.png" / "in the way").rmdir()
    (tmp_path / "out" / "masks" / "006.png").rmdir()
    predict.run(job(model, images, tmp_path / "out", cluster={"workers": 0}), fresh=False)
    assert len(times(tmp_path / "out")) == 8


@pytest.fixture
def workers_of_this_session(ray_cluster) -> Iterator[Callable[[], list[psutil.Process]]]:
    def find() -> list[psutil.Process]:
        found = []
        for process in psutil.Process().children(recursive=True):
            try:
                if "MapWorker(Map(Network))" in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.Error:
                pass
        return found

    return find


@pytest.mark.ray
@pytest.mark.parametrize("max_failures", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_a_worker_that_is_killed_is_replaced_so_often(
    max_failures, workers_of_this_session, model, images, tmp_path
) -> None:
    for number in range(3 * COUNT):  # so that the worker is found while it works
        (images / f"more-{number:03d}.png").hardlink_to(images / f"{number % COUNT:03d}.png")
    predict.run(job(model, images, tmp_path / "undisturbed"), fresh=False)
    cluster = {"workers": 1, "max_failures": max_failures}
    failed: list[BaseException] = []

    def run() -> None:
        try:
            predict.run(job(model, images, tmp_path / "out", cluster=cluster), fresh=False)
        except BaseException as error:
            failed.append(error)

    of_earlier_tests = set(workers_of_this_session())
    thread = threading.Thread(target=run)
    thread.start()
    wait_for(lambda: committed(tmp_path / "out"))
    (worker, *_) = wait_for(
        lambda: [each for each in workers_of_this_session() if each not in of_earlier_tests]
    )
    os.kill(worker.pid, signal.SIGKILL)
    thread.join(120)
    assert not thread.is_alive()
    if not max_failures:
        assert isinstance(failed[0], UserError)
        assert "A worker died more than 0 times" in str(failed[0])
        import ray

        ray.shutdown()  # as the end of the program would: what Ray Data holds of the failed prediction comes free
        predict.run(job(model, images, tmp_path / "out"), fresh=False)
    else:
        assert not failed
    assert results(tmp_path / "out") == results(tmp_path / "undisturbed")


@pytest.mark.ray
def test_any_number_of_workers_and_of_waves_gives_the_same_bytes(
    ray_cluster, model, images, tmp_path, monkeypatch
) -> None:
    predict.run(job(model, images, tmp_path / "none", overlays=True), fresh=False)
    monkeypatch.setattr(stream, "WAVE", 20)
    predict.run(job(model, images, tmp_path / "two", overlays=True, cluster={"workers": 2}), fresh=False)
    assert len(results(tmp_path / "two")) == 2 * COUNT + 1
    assert results(tmp_path / "two") == results(tmp_path / "none")
