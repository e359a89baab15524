"""The gate at the end of a training: candidate and champion on the same images, in the same job."""

from __future__ import annotations

import pytest

from rsrnet import checkpoint
from rsrnet.checkpoint import load_weights, read_card
from rsrnet.model.network import RSRNet
from rsrnet_platform import train
from rsrnet_platform.lookup import resolve
from rsrnet_platform.store import open_client, resolve_uri


@pytest.fixture
def make(make_job, squares_of_six_photographs):
    """Jobs on a dataset whose five validation images are of three photographs."""
    return lambda **more: make_job(data__root=squares_of_six_photographs, **more)


@pytest.fixture
def trained(make):
    job = make(name="champion")
    train.run(job, fresh=False)
    return job


def version(job, number: int):
    return open_client(resolve_uri(job.tracking)).get_model_version("rsrnet", str(number))


def champion(job) -> str:
    return open_client(resolve_uri(job.tracking)).get_model_version_by_alias("rsrnet", "champion").version


def test_the_same_training_again_is_not_better(trained, make) -> None:
    job = make(name="twin")
    train.run(job, fresh=False)
    tags = version(job, 2).tags
    assert float(tags["promotion/difference"]) == 0
    assert tags["promoted"] == "false"
    assert "is not above the spread" in tags["promotion_reason"]
    assert str(champion(job)) == "1"


def test_a_candidate_that_is_better_everywhere_replaces_the_champion(trained, make) -> None:
    """The champion's weights are spoilt in the registry, so that any training is better on every image."""
    folder = resolve("models:/rsrnet/1", trained.tracking.uri)
    card = read_card(folder)
    network = RSRNet(card.model)
    load_weights(network, folder)
    for weight in network.parameters():
        weight.data.zero_()
    checkpoint.save(folder, network, card)
    job = make(name="better", fit__epochs=6)
    train.run(job, fresh=False)
    tags = version(job, 2).tags
    difference, spread = float(tags["promotion/difference"]), float(tags["promotion/spread"])
    assert (str(champion(job)) == "2") == (tags["promoted"] == "true") == (difference > spread)
    assert difference > 0
    assert f"{difference:+.4f}" in tags["promotion_reason"]
    assert f"{spread:.4f}" in tags["promotion_reason"]


def test_a_champion_that_cannot_be_loaded_stays_and_the_remedy_is_told(trained, make) -> None:
    (resolve("models:/rsrnet/1", trained.tracking.uri) / "model.safetensors").write_bytes(b"damaged")
    job = make(name="other")
    train.run(job, fresh=False)
    reason = version(job, 2).tags["promotion_reason"]
    assert "could not be scored" in reason
    assert "--force" in reason
    assert str(champion(job)) == "1"


def test_a_version_carries_its_scores_by_sub_dataset_and_what_it_stands_on(trained) -> None:
    tags = version(trained, 1).tags
    assert float(tags["val/Sample/iou"]) == pytest.approx(float(tags["val/iou"]), abs=1e-6)
    assert {"val/Sample/f1", "val/Sample/ap"} <= set(tags)
    assert (tags["val/images"], tags["val/Sample/images"]) == ("5", "5")
    for key in ("dataset_fingerprint", "validation_fingerprint", "mlflow.source.git.commit"):
        assert tags[key]
    folder = resolve("models:/rsrnet/1", trained.tracking.uri).parent
    assert "kind: train" in (folder / "job.yaml").read_text()


def test_a_champion_of_other_validation_images_is_compared_with_a_word_of_doubt(
    trained, make, squares_of_six_photographs, tmp_path
) -> None:
    (tmp_path / "four.txt").write_text(
        "".join((squares_of_six_photographs / "le50_val.txt").read_text().splitlines(True)[:4])
    )
    job = make(name="elsewhere", data__val=tmp_path / "four.txt")
    train.run(job, fresh=False)
    tags = version(job, 2).tags
    assert "4 images of" in tags["promotion_reason"]
    assert "may have been trained on some of these" in tags["promotion_reason"]
