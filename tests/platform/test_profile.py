"""`rsrnet profile` from the job file to its table, and what a training says of its pace and its loader."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from rsrnet_platform import cli, reading_limit, train
from rsrnet_platform.terminal import memory


def call(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    return int(left.value.code or 0)


@pytest.fixture(scope="session")
def slow_to_read(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset of squares as photographs of five megapixels: decoding one takes longer than a step on it."""
    root = tmp_path_factory.mktemp("slow") / "squares"
    shutil.copytree(squares, root)
    for folder in ("composite_images", "masks"):
        for path in (root / "Sample" / folder).iterdir():
            with Image.open(path) as image:
                image.resize((2700, 1800), Image.Resampling.BILINEAR).save(path)
    return root


def test_a_profile_leaves_a_trace_and_nothing_else(train_file, tmp_path, tmp_home, capsys) -> None:
    assert call(["profile", str(train_file), "--steps", "3"]) == 0
    shown = capsys.readouterr()
    for part in ("waiting for the loader", "copy", "forward", "loss", "backward", "optimizer", "images/s"):
        assert part in shown.out
    assert "other workers" not in shown.out
    trace = tmp_home / "rsrnet/profiles/squares/trace.json.gz"
    assert str(trace) in shown.err
    assert json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    left = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {train_file, trace}


def test_a_profile_for_programs(train_file, tmp_path, capsys) -> None:
    trace = tmp_path / "here" / "trace.json.gz"
    assert call(["profile", str(train_file), "--steps", "2", "--json", "--trace", str(trace)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["steps"] == 2
    assert found["images"] == 8
    assert sum(found["phases"].values()) + found["rest"] == pytest.approx(found["seconds"])
    assert trace.exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("fit.lrr=1", "fit.lrr = 1: no such key"),
        ("data.train=missing.txt", "there is no list"),
        ("fit.encoder_weights={tmp}/none.pth", "no such file"),
        ("tracking.uri=http://127.0.0.1:9", "no MLflow server answers"),
    ],
)
def test_what_a_training_is_refused_for_a_profile_is(override, message, train_file, tmp_path, capsys) -> None:
    trace = tmp_path / "trace.json.gz"
    override = override.format(tmp=tmp_path)
    assert call(["profile", str(train_file), "--set", override, "--trace", str(trace)]) == 2
    shown = capsys.readouterr().err
    assert message in " ".join(shown.split())
    assert "Traceback" not in shown
    assert not trace.exists()


def test_only_trainings_have_steps_to_profile(repository, capsys) -> None:
    assert call(["profile", str(repository / "jobs/tune.yaml")]) == 2
    assert "what can be profiled is kind: train" in capsys.readouterr().err


def test_a_trace_that_cannot_be_written_is_refused_first(train_file, tmp_path, capsys) -> None:
    assert call(["profile", str(train_file), "--trace", str(tmp_path)]) == 2
    assert f"--trace {tmp_path}: is a folder" in capsys.readouterr().err
    assert call(["profile", str(train_file), "--trace", f"{train_file}/trace.json"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_an_image_that_cannot_be_read_ends_a_profile_by_name(train_file, squares, tmp_path, capsys) -> None:
    shutil.copytree(squares, data := tmp_path / "data")
    (data / "Sample/composite_images/strain-003_1_1.jpg").write_bytes(b"\xff\xd8 truncated")
    arguments = ["profile", str(train_file), "--set", f"data.root={data}", "--trace", str(tmp_path / "t.gz")]
    assert call(arguments) == 2
    assert "strain-003_1_1.jpg" in capsys.readouterr().err
    assert call([*arguments, "--set", "data.on_bad_image=skip", "--steps", "2"]) == 0


def test_a_profile_says_when_reading_is_the_limit(
    train_file, slow_to_read, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(reading_limit, "WAITING", 0.5)  # three short steps: a busy machine must not decide
    shown = {}
    for root in (None, slow_to_read):
        override = [] if root is None else ["--set", f"data.root={root}"]
        trace = ["--trace", str(tmp_path / "trace.json.gz")]
        assert call(["profile", str(train_file), "--steps", "3", *trace, *override]) == 0
        shown[root] = " ".join(capsys.readouterr().err.split())
    assert "Reading is the limit" not in shown[None]
    assert "Reading is the limit, not the network" in shown[slow_to_read]
    assert f"rsrnet data pack {slow_to_read} PACK" in shown[slow_to_read]
    assert "data.loader_processes above 0" in shown[slow_to_read]


def events(job) -> list[dict]:
    file = Path(job.storage, job.name, "attempt-1", "progress.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_training_says_once_when_reading_is_the_limit(make_job, slow_to_read, monkeypatch) -> None:
    monkeypatch.setattr(reading_limit, "STEPS", 3)
    monkeypatch.setattr(reading_limit, "SECONDS", 0.1)
    monkeypatch.setattr(reading_limit, "WAITING", 0.5)
    for name, more, times in (("fast", {}, 0), ("slow", {"data__root": slow_to_read}, 1)):
        job = make_job(name=name, fit__epochs=3, tracking__model="null", **more)
        train.run(job, fresh=False)
        told = [event["text"] for event in events(job) if "Reading is the limit" in event["text"]]
        assert len(told) == times, name


def test_progress_tells_pace_time_left_and_memory(make_job) -> None:
    job = make_job(tracking__model="null")
    train.run(job, fresh=False)
    first = next(event for event in events(job) if not event["milestone"])
    assert "images/s" in first["text"]
    assert " left  " in first["text"]
    assert first["text"].endswith("iB of memory")


def test_a_pack_is_not_told_to_be_packed(squares, tmp_path, make_job) -> None:
    from rsrnet.data.pack.layout import PackConfig
    from rsrnet.data.pack.write import pack

    pack(squares, str(tmp_path / "pack"), PackConfig(side=32), [], processes=1)
    hint = reading_limit.hint(make_job(data__root=tmp_path / "pack").data, 0.5)
    assert hint is not None
    assert "50% of the time" in hint
    assert "rsrnet data pack" not in hint
    assert reading_limit.hint(make_job().data, 0.1) is None


def test_memory_reads_as_people_say_it() -> None:
    assert [memory(2**20 * 640), memory(3 * 2**30), memory(2**33, 2**37)] == [
        "640 MiB",
        "3.0 GiB",
        "8.0 of 128.0 GiB",
    ]


@pytest.mark.slow
@pytest.mark.ray
def test_a_profile_on_ray_tells_what_the_workers_wait_for(
    ray_cluster, train_file, tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster.address)
    arguments = ["profile", str(train_file), "--set", "cluster.workers=2", "--steps", "3", "--json"]
    assert call([*arguments, "--trace", str(tmp_path / "trace.json.gz")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ranks"] == 2
    assert found["phases"]["communication"] > 0
    assert not (tmp_path / "runs").exists()
    damaged = ["--set", "data.train=missing.txt"]
    assert call([*arguments, *damaged]) == 2
    assert "there is no list" in capsys.readouterr().err
