"""A training ends with a threshold for its score, from validation composites and their photographs."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from rsrnet import Localizer
from rsrnet.checkpoint import read_card
from rsrnet.data.lists import read_list
from rsrnet_platform import train
from rsrnet_platform.lookup import resolve


def detection_of(job):
    return read_card(resolve("models:/rsrnet/1", job.tracking.uri)).detection


def test_the_registered_model_has_the_threshold_that_separates_best(make_job, squares, capsys) -> None:
    job = make_job()
    train.run(job, fresh=False)
    found = detection_of(job)
    said = " ".join(capsys.readouterr().err.split())
    assert f"Score of a composite: at least {found.threshold:.3f}" in said
    localizer = Localizer(resolve("models:/rsrnet/1", job.tracking.uri), device="cpu")
    pairs = read_list(squares, "le50_val.txt", ())
    composites = [f.score for f in localizer.examine([squares / each.path for each in pairs])]
    photographs = [f.score for f in localizer.examine([squares / each.real_path for each in pairs])]
    assert (found.composites, found.photographs) == (5, 5)
    assert found.auc == pytest.approx(roc_auc_score([1] * 5 + [0] * 5, composites + photographs))
    assert found.true_positive_rate == np.mean(np.array(composites) >= found.threshold)
    assert found.false_positive_rate == np.mean(np.array(photographs) >= found.threshold)
    verdicts = [f.inharmonious for f in localizer.examine([squares / each.path for each in pairs])]
    assert np.mean(verdicts) == found.true_positive_rate


@pytest.mark.slow
@pytest.mark.ray
def test_workers_on_a_cluster_find_the_same(ray_cluster, make_job, tmp_path) -> None:
    alone, together = make_job(), make_job(name="ray", cluster__workers="1", tracking__model="ray")
    train.run(alone, fresh=False)
    train.run(together, fresh=False)
    found = read_card(resolve("models:/ray/1", together.tracking.uri)).detection
    assert found.threshold == pytest.approx(detection_of(alone).threshold, abs=1e-3)


def bare(squares: Path, root: Path) -> Path:
    """The dataset without its photographs."""
    shutil.copytree(squares, root)
    shutil.rmtree(root / "Sample" / "real_images")
    return root


def test_without_photographs_there_is_no_threshold_and_a_word_about_it(
    make_job, squares, tmp_path, capsys
) -> None:
    job = make_job(data__root=bare(squares, tmp_path / "bare"))
    train.run(job, fresh=False)
    assert detection_of(job) is None
    assert "set data.photographs" in " ".join(capsys.readouterr().err.split())


def test_photographs_may_lie_elsewhere_and_damaged_ones_do_not_count(make_job, squares, tmp_path) -> None:
    elsewhere = tmp_path / "elsewhere" / "Sample" / "real_images"
    shutil.copytree(squares / "Sample" / "real_images", elsewhere)
    (elsewhere / "sval-000.jpg").write_bytes(b"no image")
    Image.new("RGB", (40, 40)).save(elsewhere / "sval-001.jpg")
    job = make_job(data__root=bare(squares, tmp_path / "bare"), data__photographs=tmp_path / "elsewhere")
    train.run(job, fresh=False)
    assert detection_of(job).photographs == 4


def test_photographs_that_are_all_damaged_do_not_fail_the_training(
    make_job, squares, tmp_path, capsys
) -> None:
    root = tmp_path / "damaged"
    shutil.copytree(squares, root)
    for path in (root / "Sample" / "real_images").iterdir():
        path.write_bytes(b"no image")
    job = make_job(data__root=root)
    train.run(job, fresh=False)
    assert detection_of(job) is None
    assert "can be decoded, so the model gets no threshold" in " ".join(capsys.readouterr().err.split())
