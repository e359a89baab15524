"""The gate at the end of a training: candidate and champion on the same images, in the same job."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from mlflow import MlflowClient

from rsrnet import checkpoint
from rsrnet.data.lists import read_list
from rsrnet.evaluation.measure import Evaluator
from rsrnet_platform import promotion, registry, spec, train
from rsrnet_platform.lookup import resolve
from rsrnet_platform.models import reading
from rsrnet_platform.store import open_client

Training = Callable[..., spec.TrainJob]


def scores(uri: str, store: str, root: Path, size: int) -> dict[str, list[float]]:
    """Validation IoU of every image of each photograph."""
    network = checkpoint.load_model(resolve(uri, store))
    rows = Evaluator(network, root, size=size, native=False)(read_list(root, "le50_val.txt"))
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row["group"], []).append(row["m_fnl.published.input.iou"])
    return found


def decision(client: MlflowClient) -> dict[str, str]:
    """What was found of the version after the three, whose champion is the second."""
    tags = client.get_model_version("rsrnet", "4").tags
    assert tags["champion_before"] == "2"
    return tags


def test_the_candidate_wins_by_more_than_the_spread_over_photographs(
    client: MlflowClient, squares_of_six_photographs: Path
) -> None:
    versions = {version.version: version for version in reading.one_model(client, "rsrnet").versions}
    assert [versions[number].champion for number in (1, 2, 3)] == [False, True, False]
    assert [versions[number].champion_before for number in (1, 2, 3)] == [None, 1, 2]
    assert versions[1].difference is None
    for number, champion in ((2, 1), (3, 2)):
        mine, theirs = (
            scores(f"models:/rsrnet/{each}", client.tracking_uri, squares_of_six_photographs, 32)
            for each in (number, champion)
        )
        gains = [[a - b for a, b in zip(mine[group], theirs[group], strict=True)] for group in mine]
        assert len(gains) == 3
        assert versions[number].difference == pytest.approx(fmean(chain.from_iterable(gains)), abs=1e-5)
        # Of 27 draws of three photographs, each three times the same one has a share above 2.5 %.
        ends = [fmean(each) for each in gains]
        assert versions[number].spread == pytest.approx((max(ends) - min(ends)) / 2, abs=1e-5)
        assert f"{versions[number].difference:+.4f}" in versions[number].why
        assert f"the spread of {versions[number].spread:.4f}" in versions[number].why
        assert "5 images of 3 photographs" in versions[number].why


def test_a_version_carries_its_scores_by_sub_dataset_and_what_it_stands_on(client: MlflowClient) -> None:
    for version in reading.one_model(client, "rsrnet").versions:
        assert version.val["Sample"] == pytest.approx(version.val["All"], abs=1e-5)
        assert version.val["All"].keys() == {"ap", "f1", "iou", "images"}
        assert version.val["All"]["images"] == 5
        assert {len(version.data[f"{which}_fingerprint"]) for which in ("dataset", "validation")} == {64}
        assert len(version.code["mlflow.source.git.commit"]) == 40
        assert version.code["rsrnet_version"]


def test_each_network_sees_the_size_that_it_was_trained_at(
    client: MlflowClient, training: Training, tmp_path: Path, squares_of_six_photographs: Path
) -> None:
    root, store = squares_of_six_photographs, client.tracking_uri
    train.run(training(tmp_path, root, "large", data__size="64"), fresh=False)
    ours, theirs = (
        fmean(chain.from_iterable(scores(f"models:/rsrnet/{number}", store, root, size).values()))
        for number, size in ((4, 64), (2, 32))
    )
    assert float(decision(client)["promotion/difference"]) == pytest.approx(ours - theirs, abs=1e-5)


def test_a_single_photograph_decides_nothing(
    client: MlflowClient, training: Training, tmp_path: Path, squares: Path
) -> None:
    train.run(training(tmp_path, squares, "one"), fresh=False)
    tags = decision(client)
    assert tags["promoted"] == "false"
    assert "a single photograph" in tags["promotion_reason"]
    assert tags["promotion/spread"] == "nan"


def test_a_champion_of_other_validation_images_is_compared_with_a_word_of_doubt(
    client: MlflowClient, training: Training, tmp_path: Path, squares_of_six_photographs: Path
) -> None:
    root = squares_of_six_photographs
    (tmp_path / "four.txt").write_text(
        "".join((root / "le50_val.txt").read_text().splitlines(keepends=True)[:4])
    )
    train.run(training(tmp_path, root, "elsewhere", data__val=str(tmp_path / "four.txt")), fresh=False)
    reason = decision(client)["promotion_reason"]
    assert "4 images of" in reason
    assert "may have been trained on some of these" in reason


def test_a_champion_that_cannot_be_loaded_stays_and_the_remedy_is_told(
    client: MlflowClient, training: Training, tmp_path: Path, squares_of_six_photographs: Path
) -> None:
    damaged = shutil.copytree(resolve("models:/rsrnet/1", client.tracking_uri), tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes(b"damaged")
    version = client.create_model_version("rsrnet", str(damaged), await_creation_for=0)
    promotion.force(client, client.tracking_uri, version)
    train.run(training(tmp_path, squares_of_six_photographs, "other"), fresh=False)
    tags = client.get_model_version("rsrnet", "5").tags
    assert "the champion, version 4, could not be scored" in tags["promotion_reason"]
    assert "--force" in tags["promotion_reason"]
    assert str(client.get_registered_model("rsrnet").aliases["champion"]) == "4"


def test_a_job_killed_before_the_decision_decides_when_started_again(
    training: Training, tmp_path: Path, squares_of_six_photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = training(tmp_path, squares_of_six_photographs, "cut")

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(registry, "decide", killed)
        with pytest.raises(KeyboardInterrupt):
            train.run(job, fresh=False)
    client = open_client(f"sqlite:///{tmp_path}/mlflow.db")
    assert promotion.champion_of(client, "rsrnet") is None
    scored: list[int] = []
    monkeypatch.setattr(Evaluator, "__call__", lambda self, composites: scored.append(1) or [])
    train.run(job, fresh=False)
    (version,) = client.search_model_versions("name = 'rsrnet'")
    assert "there was no other champion" in version.tags["promotion_reason"]
    assert scored == [], "the rows of the first start were kept"
    assert not (tmp_path / "runs/cut/attempt-1/gate").exists()
