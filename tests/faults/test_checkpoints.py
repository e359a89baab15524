"""Checkpoints that are damaged, and disks without room for them: the one before is used, and survives."""

from __future__ import annotations

import errno
import json
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from pyarrow.fs import LocalFileSystem

from rsrnet import checkpoint
from rsrnet_platform import host, restart, train, worker
from rsrnet_platform.errors import is_user_error
from rsrnet_platform.ray_host import RayHost
from rsrnet_platform.restart import INTERRUPTED, newest_intact
from rsrnet_platform.shelf import SNAPSHOT, Shelf
from tests.faults.processes import (
    finish,
    require_no_orphans,
    require_same_history,
    start,
    told,
    wait_for,
)
from tests.platform.conftest import the_run


def spoil(path: Path, damage: str) -> None:
    data = bytearray(path.read_bytes())
    if damage == "truncated":
        del data[len(data) // 2 :]
    else:
        data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", ["truncated", "bit flipped"])
def test_a_damaged_checkpoint_costs_an_epoch_not_the_run(
    make_job, history, monkeypatch, capsys, damage, record_property
) -> None:
    # So that the newest is not the only one.
    job, whole = (
        make_job(fit__epochs=4),
        make_job(name="whole", fit__epochs=4, tracking__experiment="whole", tracking__model="whole"),
    )
    done = worker.Observer.epoch_done

    def break_after_third(self, training):
        done(self, training)
        if training.epoch == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(worker.Observer, "epoch_done", break_after_third)
    monkeypatch.setattr(host.LocalHost, "best", lambda self: self.checkpoints()[0])
    with pytest.raises(KeyboardInterrupt):
        train.run(job, fresh=False)
    monkeypatch.undo()
    kept = sorted(Path(job.storage, job.name, "attempt-1").glob("checkpoint-*"))
    assert len(kept) == 2
    weights = kept[-1] / checkpoint.WEIGHTS
    spoil(weights, damage)
    capsys.readouterr()
    train.run(job, fresh=False)
    said = " ".join(capsys.readouterr().err.split())
    assert "model.safetensors: damaged" in said
    assert "Going on after epoch 1 of 4" in said
    train.run(whole, fresh=False)
    require_same_history(job, whole, 4)
    record_property("fault", f"newest checkpoint {damage}")
    record_property(
        "outcome", "refused by its SHA-256, the one before it used; 4 of 4 epochs, bitwise the same metrics"
    )


def test_damage_to_a_checkpoint_of_the_first_epoch_costs_its_steps(make_job, monkeypatch, capsys) -> None:
    job = make_job()
    with monkeypatch.context() as stopping:
        stopping.setattr(
            worker.Observer, "step_done", lambda self, progress: signal.raise_signal(signal.SIGTERM)
        )
        with pytest.raises(SystemExit):
            train.run(job, fresh=False)
    spoil(Path(job.storage, job.name, "attempt-1", INTERRUPTED, checkpoint.WEIGHTS), "truncated")
    capsys.readouterr()
    train.run(job, fresh=False)
    said = " ".join(capsys.readouterr().err.split())
    assert "model.safetensors: damaged" in said
    assert "There is none before it: the training begins anew." in said
    whole = make_job(name="whole", tracking__experiment="whole", tracking__model="whole")
    train.run(whole, fresh=False)
    require_same_history(job, whole, 3)


def test_damaged_checkpoints_only_are_refused(make_job, monkeypatch) -> None:
    job = make_job()
    monkeypatch.setattr(worker.Observer, "epoch_done", lambda self, training: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train.run(job, fresh=False)
    monkeypatch.undo()
    (only,) = Path(job.storage, job.name, "attempt-1").glob("checkpoint-*")
    (only / checkpoint.TRAINING).write_bytes(b"")
    with pytest.raises(checkpoint.CheckpointError, match=r"no checkpoint of the run is intact(.|\n)*--fresh"):
        train.run(job, fresh=False)


def newest_on_ray(attempt: Path) -> Path:
    """The checkpoint that Ray Train would go on from; not the newest folder, which may be half written."""
    if listed := listed_on_ray(attempt):
        return attempt / listed[-1]
    # It was killed while it wrote the list.
    return max(each for each in attempt.glob("checkpoint_*") if restart.damage(each) is None)


def listed_on_ray(attempt: Path) -> list[str]:
    """Ray Train's list of checkpoints, oldest first; empty if there is none, or while it is written."""
    try:
        listed = json.loads((attempt / SNAPSHOT).read_text())
    except (FileNotFoundError, ValueError):
        return []
    results = [*listed["checkpoint_results"], listed["latest_checkpoint_result"]]
    return sorted({each["checkpoint_dir_name"] for each in results if each})


def test_a_first_checkpoint_that_was_cut_off_costs_its_epoch(tmp_path: Path) -> None:
    """As a worker leaves it that dies while Ray Train copies it: nothing that was finished is lost."""
    (tmp_path / "checkpoint_1").mkdir()
    (tmp_path / "checkpoint_1" / checkpoint.WEIGHTS).write_bytes(b"half")
    shelf = Shelf(LocalFileSystem(), str(tmp_path))
    assert not shelf.finished_one()
    with newest_intact(shelf.checkpoints(), shelf.fetch, finished=False) as start:
        assert start.folder is None
    assert len(start.damaged) == 1
    (tmp_path / SNAPSHOT).write_text("{}")
    assert shelf.finished_one()
    shelf.put_unusable_snapshot_aside()
    assert shelf.finished_one()


def test_a_disk_that_fills_up_in_an_interruption_leaves_nothing_half_written(tmp_path: Path) -> None:
    class Full(Shelf):
        def put(self, name: str, folder: Path) -> None:
            (tmp_path / name).mkdir()
            raise OSError(errno.ENOSPC, "No space left on device")

    on_ray = object.__new__(RayHost)  # which only a worker of Ray Train's can make
    on_ray.shelf = Full(LocalFileSystem(), str(tmp_path))
    with pytest.raises(checkpoint.CheckpointError, match="No space left"):
        on_ray.interrupt(lambda folder: None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("damage", ["bit flipped", "its list truncated", "deleted", "the first, cut off"])
def test_damage_on_ray_costs_an_epoch_not_the_run(
    ray_cluster, train_file, make_job, undisturbed, record_property, damage
) -> None:
    settings = {"cluster.workers": 2, "fit.epochs": 8}
    job = make_job(cluster__workers=2, fit__epochs=8)
    attempt = Path(job.storage, job.name, "attempt-1")
    first = start(train_file, settings, RAY_ADDRESS=ray_cluster.address)
    wait_for(
        lambda: any("epoch 3/8 done" in text for text in told(job)) and len(listed_on_ray(attempt)) > 1, first
    )
    first.kill()
    finish(first)
    require_no_orphans()
    newest = newest_on_ray(attempt)
    if damage == "the first, cut off":
        (attempt / SNAPSHOT).unlink()
        first_one, *later = sorted(attempt.glob("checkpoint_*"))
        for each in later:
            shutil.rmtree(each)
        spoil(first_one / checkpoint.WEIGHTS, "truncated")
    elif damage == "deleted":
        shutil.rmtree(newest)
    elif damage == "its list truncated":
        spoil(attempt / SNAPSHOT, "truncated")
    else:
        spoil(newest / checkpoint.WEIGHTS, damage)
    second = start(train_file, settings, RAY_ADDRESS=ray_cluster.address)
    said = finish(second)
    assert second.returncode == 0, said
    if damage in ("bit flipped", "the first, cut off"):
        assert "model.safetensors: damaged" in said
    else:
        assert "Ray Train's list of checkpoints" in said
    begins_anew = damage == "the first, cut off"
    assert ("the training begins anew" if begins_anew else "Going on after epoch") in " ".join(said.split())
    require_same_history(job, undisturbed(cluster__workers=2, fit__epochs=8), 8)
    require_no_orphans()
    what = (
        "first checkpoint on Ray cut off while written"
        if begins_anew
        else f"newest checkpoint on Ray {damage}"
    )
    record_property("fault", what)
    record_property(
        "outcome",
        f"told; {'begins anew' if begins_anew else 'goes on from the newest intact checkpoint'}; 8 of 8 epochs, "
        "bitwise the same metrics",
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=[pytest.mark.ray, pytest.mark.slow])])
def test_a_full_disk_leaves_the_checkpoint_before(
    make_job, small_disk, undisturbed, request, record_property, workers
) -> None:
    if workers:
        request.getfixturevalue("ray_cluster")
    settings = {"cluster__workers": workers, "fit__epochs": 4}
    job = make_job(storage=small_disk, **settings)
    attempt = small_disk / job.name / "attempt-1"
    ballast = small_disk / "ballast"

    def fill_up() -> None:
        while not any("epoch 1/" in text and "done" in text for text in told(job)):
            time.sleep(0.01)
        with ballast.open("wb") as file, suppress(OSError):
            while True:
                file.write(bytes(2**16))

    filler = threading.Thread(target=fill_up)
    filler.start()
    with pytest.raises(Exception, match=rf"(?is){small_disk}.*no space left on (the )?device") as error:
        train.run(job, fresh=False)
    filler.join()
    assert is_user_error(error.value)
    assert the_run(job).info.status == "FAILED"
    kept = [each for each in attempt.glob("checkpoint?*") if each.is_dir()]
    for folder in kept:
        checkpoint.verify(folder)
    assert kept
    assert not list(attempt.rglob("*.partial"))
    ballast.unlink()
    train.run(job, fresh=False)
    require_same_history(job, undisturbed(**settings), 4)
    require_no_orphans()
    record_property(
        "fault", f"disk full while a checkpoint is written, {'on Ray' if workers else 'in one process'}"
    )
    record_property(
        "outcome",
        "one message with the folder and the remedy; nothing half written, the checkpoint before is intact; the job "
        "goes on from it: 4 of 4 epochs, bitwise the same metrics",
    )
