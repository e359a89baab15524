"""Prediction jobs: files in, masks, overlays and a table out."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from skimage import measure

from rsrnet import Localizer, checkpoint
from rsrnet.data.storage import open_storage
from rsrnet.detection import Detection
from rsrnet.model.config import RSRNetConfig
from rsrnet.model.network import RSRNet
from rsrnet_platform import cli, predict, spec, train
from rsrnet_platform.errors import UserError
from rsrnet_platform.prediction import stages
from rsrnet_platform.prediction.output import JOB

THRESHOLD = 0.555
"""Cuts the masks of the untrained model into many regions."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(3)
    folder = tmp_path / "model"
    config = RSRNetConfig(depth=18, width=4, iterations=2)
    checkpoint.save(folder, RSRNet(config), checkpoint.ModelCard(config, size=32))
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "deep").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in [
        ("a.jpg", (40, 60)),
        ("a.png", (30, 20)),
        ("deep/b.webp", (25, 25)),
        ("c.bmp", (9, 70)),
    ]:
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff no more")
    (folder / "notes.txt").write_text("not an image")
    return folder


def job(model: object, images: Path, output: Path, **more: object) -> spec.PredictJob:
    given = {"kind": "predict", "name": "p", "model": str(model), "input": str(images), "output": str(output)}
    made = spec.parse({**given, "threshold": 0.4, "overlays": True, "cluster": {"workers": 0}, **more})
    assert isinstance(made, spec.PredictJob)
    return made


def table(output: Path) -> dict[str, dict]:
    rows = pq.read_table(output / predict.TABLE).to_pylist()
    return {Path(row["path"]).name: row for row in rows}


def check(output: Path, model: Path, images: Path) -> None:
    """Every image has a row, and every readable one the masks that a Localizer gives."""
    rows = table(output)
    assert sorted(rows) == ["a.jpg", "a.png", "b.webp", "broken.jpg", "c.bmp"]
    assert rows["broken.jpg"]["status"] == "error"
    assert "broken.jpg: cannot be decoded" in rows["broken.jpg"]["error"]
    assert rows["broken.jpg"]["mask"] is None
    localizer = Localizer(model, device="cpu")
    for name in ("a.jpg", "a.png", "deep/b.webp", "c.bmp"):
        row = rows[Path(name).name]
        soft = localizer(images / name)
        mask = np.asarray(Image.open(output / row["mask"]))
        assert (row["status"], row["error"]) == ("ok", None)
        assert (row["height"], row["width"]) == soft.shape == mask.shape
        assert set(np.unique(mask)) <= {0, 255}
        assert ((mask == 255) == (soft >= 0.4)).mean() > 0.999  # batches round differently
        assert row["area_fraction"] == pytest.approx((mask == 255).mean())
        assert Image.open(output / row["overlay"]).size == (row["width"], row["height"])
    assert len({row["mask"] for row in rows.values()}) == 5
    assert not list(output.rglob("*.partial"))


def test_folder_becomes_masks_overlays_and_a_table(model, images, tmp_path) -> None:
    predict.run(job(model, images, tmp_path / "out"), fresh=False)
    check(tmp_path / "out", model, images)


def test_a_name_that_is_not_utf_8_is_a_row_with_its_error(model, images, tmp_path) -> None:
    shutil.copytree(images, tmp_path / "photos")
    os.link(tmp_path / "photos" / "a.jpg", os.fsencode(tmp_path / "photos") + b"/b\xff.jpg")
    predict.run(job(model, tmp_path / "photos", tmp_path / "out"), fresh=False)
    rows = table(tmp_path / "out")
    assert len(rows) == 6
    assert "its name is not UTF-8; rename it" in rows["b\\xff.jpg"]["error"]
    assert rows["a.jpg"]["status"] == "ok"


@pytest.mark.parametrize("window", [40, None])
def test_an_image_with_windows_is_a_batch_of_its_own(window, model, images, tmp_path, monkeypatch) -> None:
    """So memory does not grow with the windows of a whole batch."""
    seen = []
    real = stages.read
    monkeypatch.setattr(
        stages, "read", lambda batch, settings: seen.append(len(batch.images)) or real(batch, settings)
    )
    predict.run(job(model, images, tmp_path / "out", window=window), fresh=False)
    assert sorted(seen) == ([1] * 5 if window else [5])


@pytest.mark.slow
@pytest.mark.ray
def test_a_cluster_gives_the_same(ray_cluster, model, images, tmp_path) -> None:
    predict.run(job(model, images, tmp_path / "out", cluster={"workers": 2}, batch_size=2), fresh=False)
    check(tmp_path / "out", model, images)


@pytest.mark.parametrize("scheme", ["", "file://", "memory://bucket"])
def test_soft_masks_windows_flips_and_all_columns(scheme, model, images, tmp_path) -> None:
    localizer = Localizer(model, device="cpu", flip=True, window=24)
    readable = [images / name for name in ("a.jpg", "a.png", "deep/b.webp", "c.bmp")]
    sure = sorted(finding.score for finding in localizer.examine(readable))
    detection = Detection((sure[1] + sure[2]) / 2, 0.9, 0.8, 0.1, 30, 30)
    checkpoint.write_card(model, replace(localizer.card, detection=detection))
    output = f"{scheme}{tmp_path}/out"
    more = {
        "masks": "soft",
        "window": 24,
        "flip": True,
        "min_region": 0.01,
        "overlays": False,
        "threshold": THRESHOLD,
    }
    predict.run(job(model, images, output, **more), fresh=False)
    store = open_storage(output)
    rows = pq.read_table(io.BytesIO(store.read(predict.TABLE))).to_pylist()
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)
    digest = hashlib.sha256((model / checkpoint.WEIGHTS).read_bytes()).hexdigest()
    for row in rows:
        assert row["sha256"] == hashlib.sha256(Path(row["path"]).read_bytes()).hexdigest()
        assert (row["model"], row["model_sha256"]) == (str(model), digest)
        assert (row["model_name"], row["model_version"]) == (None, None)
        assert row["score_threshold"] == detection.threshold
        if row["status"] == "error":
            assert (row["score"], row["inharmonious"], row["boxes"], row["regions"]) == (None,) * 4
            continue
        (finding,) = localizer.examine([row["path"]])
        assert row["inharmonious"] == (finding.score >= detection.threshold)
        shown = np.asarray(Image.open(io.BytesIO(store.read(row["mask"]))))
        assert np.abs(shown - finding.mask * 255).max() < 0.51
        assert row["score"] == pytest.approx(finding.score, abs=1e-5)
        labels = measure.label(finding.mask >= THRESHOLD, connectivity=2)
        wanted = [each for each in measure.regionprops(labels) if each.area >= 0.01 * labels.size]
        assert row["regions"] == len(row["boxes"]) == len(wanted)
        boxes = {(box["top"], box["left"], box["bottom"], box["right"]) for box in row["boxes"]}
        assert boxes == {each.bbox for each in wanted}
        assert row["area_fraction"] == pytest.approx(sum(each.area for each in wanted) / labels.size)
        inside = finding.mask[np.isin(labels, [each.label for each in wanted])]
        assert row["confidence"] == pytest.approx(inside.mean(dtype=float) if inside.size else 0, abs=1e-5)
    assert {row["inharmonious"] for row in rows} == {None, True, False}
    assert max(row["regions"] or 0 for row in rows) > 1
    # The second start finds what the first left, wherever that is.
    predict.run(job(model, images, output, **more), fresh=False)
    predict.run(job(model, images, output, **more), fresh=True)
    assert pq.read_table(io.BytesIO(store.read(predict.TABLE))).to_pylist() == rows


def test_small_regions_are_dropped(model, images, tmp_path) -> None:
    predict.run(job(model, images, tmp_path / "all", threshold=THRESHOLD), fresh=False)
    predict.run(job(model, images, tmp_path / "large", threshold=THRESHOLD, min_region=0.1), fresh=False)
    everything, large = table(tmp_path / "all"), table(tmp_path / "large")
    for name, row in large.items():
        if row["status"] == "ok":
            least = 0.1 * row["width"] * row["height"]
            assert row["boxes"] == [box for box in everything[name]["boxes"] if box["area"] >= least]
            mask = np.asarray(Image.open(tmp_path / "large" / row["mask"]))
            assert (mask == 255).sum() == sum(box["area"] for box in row["boxes"])
    assert sum(r["regions"] or 0 for r in large.values()) < sum(
        r["regions"] or 0 for r in everything.values()
    )


def test_list_of_images_and_no_overlays(model, images, tmp_path) -> None:
    (images / "list.txt").write_text("a.jpg\ndeep/b.webp\n")
    predict.run(job(model, images / "list.txt", tmp_path / "out", overlays=False), fresh=False)
    rows = table(tmp_path / "out")
    assert sorted(rows) == ["a.jpg", "b.webp"]
    assert rows["b.webp"]["mask"] == "masks/deep/b.png"
    assert not (tmp_path / "out" / "overlays").exists()


def test_same_images_and_model_give_the_same_bytes(model, images, tmp_path) -> None:
    written = []
    for name in ("one", "two"):
        predict.run(job(model, images, tmp_path / name), fresh=False)
        # predict.yaml names the output folder, so it differs by right
        files = sorted(p for p in (tmp_path / name).rglob("*") if p.is_file() and p.name != JOB)
        written.append([(path.relative_to(tmp_path / name), path.read_bytes()) for path in files])
    assert written[0] == written[1]


def test_the_champion_is_found_by_its_alias_and_recorded_by_its_version(make_job, images, tmp_path) -> None:
    training = make_job()
    train.run(training, fresh=False)
    tracking = {"uri": training.tracking.uri}
    predict.run(job("models:/rsrnet@champion", images, tmp_path / "out", tracking=tracking), fresh=False)
    assert {row["model"] for row in table(tmp_path / "out").values()} == {"models:/rsrnet/1"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model=models:/nobody@champion", "no model 'nobody'"),
        ("model=models:/rsrnet@runner-up", "has no alias 'runner-up'"),
        ("model={tmp}/nowhere", "has no model.safetensors and config.json"),
        ("input={tmp}/nowhere", "there is no such folder, image, table or list"),
        ("input={tmp}/empty", "no image in it"),
        ("output=/proc/out", "output = /proc/out: cannot be written"),
        ("threshold=1.5", "threshold = 1.5"),
        ("min_region=1", "min_region = 1.0: a number from 0 on, below 1"),
        ("window=0", "window = 0: a whole number of pixels, at least 1, or null"),
        ("masks=hard", "masks = 'hard': binary or soft"),
        ("max_error_fraction=2", "max_error_fraction = 2.0: a number from 0 to 1"),
        ("cluster.workers=-1", "cluster.workers = -1: a whole number, at least 0, or null"),
        ("tracking.uri=http://127.0.0.1:9", "no MLflow server answers"),
    ],
)
def test_what_a_user_gets_wrong_is_one_message(
    override, message, make_job, images, tmp_path, capsys, monkeypatch
) -> None:
    training = make_job()
    train.run(training, fresh=False)
    (tmp_path / "empty").mkdir()
    path = tmp_path / "predict.yaml"
    asked = job("models:/rsrnet@champion", images, tmp_path / "out", tracking={"uri": training.tracking.uri})
    path.write_text(spec.to_yaml(asked))
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        cli.main(["run", str(path), "--set", override.format(tmp=tmp_path)])
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert message in " ".join(said.split())
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_fewer_processors_than_needed_are_refused_not_waited_for(
    ray_cluster, model, images, tmp_path
) -> None:
    """Ray Data reads on a processor of its own; without one it would hang without a word."""
    with pytest.raises(UserError, match="workers"):
        predict.run(job(model, images, tmp_path / "out", cluster={"workers": 4}), fresh=False)


@pytest.mark.parametrize("names", [["masks/a.png"], ["masks/a.png", JOB], [JOB], [predict.TABLE]])
def test_a_folder_of_somebody_elses_is_left_alone(names, model, images, tmp_path) -> None:
    """Also one with masks and a job file that somebody keeps there."""
    for name in names:
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(b"somebody's")
    for fresh in (False, True):
        with pytest.raises(UserError, match="not of a prediction"):
            predict.run(job(model, images, tmp_path / "data"), fresh=fresh)
    left = {path.relative_to(tmp_path / "data"): path for path in (tmp_path / "data").rglob("*.*")}
    assert sorted(map(str, left)) == sorted(names)
    assert {path.read_bytes() for path in left.values()} == {b"somebody's"}


def test_fresh_removes_what_an_earlier_prediction_left(model, images, tmp_path) -> None:
    predict.run(job(model, images, tmp_path / "out"), fresh=False)
    (images / "a.jpg").unlink()
    predict.run(job(model, images, tmp_path / "out"), fresh=True)
    assert "a.jpg" not in table(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out" / "masks").rglob("*.png")) == [
        "a.png",
        "b.png",
        "c.png",
    ]


def test_output_inside_the_input_is_not_localized_itself(model, images) -> None:
    for _ in range(2):
        predict.run(job(model, images, images / "out"), fresh=False)
        assert len(table(images / "out")) == 5


def test_one_image_is_enough(model, images, tmp_path) -> None:
    predict.run(job(model, images / "a.png", tmp_path / "out"), fresh=False)
    assert [row["mask"] for row in table(tmp_path / "out").values()] == ["masks/a.png"]


def test_any_name_of_a_file_and_of_a_folder(model, images, tmp_path) -> None:
    """The longest that a file system takes, a line break, and a folder with the name of another image's mask."""
    (images / "broken.jpg").rename(images / ("n" * 250 + ".jpg"))
    (images / "a.png").rename(images / ("n" * 250 + ".png"))
    (images / "c.bmp").rename(images / "line\nbreak ☃.bmp")
    (images / "deep").rename(images / "a.png")
    predict.run(job(model, images, tmp_path / "out"), fresh=False)
    rows = table(tmp_path / "out")
    assert [row["status"] for row in rows.values()].count("error") == 1
    for row in rows.values():
        if row["status"] == "ok":
            shape = row["width"], row["height"]
            assert Image.open(tmp_path / "out" / row["mask"]).size == shape
            assert Image.open(tmp_path / "out" / row["overlay"]).size == shape
    assert len({row["mask"] for row in rows.values()}) == 5


def test_brackets_in_a_file_name_are_no_markup(model, images, tmp_path, capsys) -> None:
    (images / "broken.jpg").rename(images / "broken [bold].jpg")
    predict.run(job(model, images, tmp_path / "out"), fresh=False)
    assert "broken [bold].jpg: cannot be decoded" in capsys.readouterr().err
