"""The champion: who becomes it and why, and that jobs finishing together leave one, with a truthful history."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from itertools import pairwise

import pytest
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from rsrnet_platform import promotion
from rsrnet_platform.models import history, lock
from rsrnet_platform.promotion import PromotionError, Verdict, champion_of, decide, decision_of
from rsrnet_platform.store import TrackingConfig, TrackingError, open_client, prepare

SPREAD = 0.05


class Registry:
    """Versions with a score, compared by it."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.client = open_client(uri)
        self.known: set[str] = set()

    def make(self, name: str, score: float) -> ModelVersion:
        if name not in self.known:
            self.client.create_registered_model(name)
            self.known.add(name)
        run = self.client.create_run("0").info  # a server takes no version without one
        return self.client.create_model_version(
            name, run.artifact_uri, run.run_id, tags={"val/iou": str(score)}, await_creation_for=0
        )

    def decide(self, version: ModelVersion, look: Callable[[], object] = lambda: None) -> None:
        mine = float(version.tags["val/iou"])

        def judge(champion: ModelVersion) -> Verdict:
            look()
            difference = mine - float(champion.tags["val/iou"])
            reason = f"measured against version {champion.version}"
            return Verdict(difference > SPREAD, reason, difference, SPREAD)

        decide(self.client, self.uri, version, mine, judge)

    def champion(self, name: str) -> int | None:
        holder = champion_of(self.client, name)
        return None if holder is None else int(holder.version)

    def events(self, name: str) -> list[tuple[int | None, int | None, str]]:
        events = history.read(self.client.get_registered_model(name))
        return [(event.before, event.version, event.how) for event in events]

    def tags(self, version: ModelVersion) -> dict[str, str]:
        return self.client.get_model_version(version.name, version.version).tags

    def decided(self, name: str, *scores: float) -> list[ModelVersion]:
        versions = [self.make(name, score) for score in scores]
        for version in versions:
            self.decide(version)
        return versions


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    return Registry(prepare(TrackingConfig(uri=str(tmp_path_factory.mktemp("store")))))


def test_a_candidate_must_win_by_more_than_the_spread(registry: Registry) -> None:
    first, near, better = registry.decided("steps", 0.5, 0.54, 0.6)
    assert registry.champion("steps") == 3
    assert registry.events("steps") == [(None, 1, "first"), (1, 3, "gate")]
    assert decision_of(registry.client.get_model_version("steps", "1")) == (
        "there was no other champion; val/iou 0.5000"
    )
    tags = registry.tags(near)
    assert (tags["promoted"], tags["champion_before"]) == ("false", "1")
    assert float(tags["promotion/difference"]) == pytest.approx(0.04)
    assert float(tags["promotion/spread"]) == SPREAD
    assert (registry.tags(first)["champion_before"], registry.tags(better)["champion_before"]) == (
        "none",
        "1",
    )


def test_a_score_that_is_no_number_makes_no_first_champion(registry: Registry) -> None:
    (version,) = registry.decided("nan", math.nan)
    assert registry.champion("nan") is None
    assert registry.tags(version)["promotion_reason"] == "its val/iou is not a number"


def test_without_a_comparison_a_champion_stays(registry: Registry) -> None:
    registry.decided("alone", 0.3)
    version = registry.make("alone", 0.9)
    decide(registry.client, registry.uri, version, 0.9, None)
    assert registry.champion("alone") == 1
    assert "not compared with the champion, version 1" in registry.tags(version)["promotion_reason"]


def test_a_champion_that_changed_during_the_comparison_is_compared_with_too(registry: Registry) -> None:
    registry.decided("meanwhile", 0.3)
    slow, fast = registry.make("meanwhile", 0.5), registry.make("meanwhile", 0.6)
    compared = []

    def look() -> None:
        compared.append(registry.champion("meanwhile"))
        if len(compared) == 1:
            registry.decide(fast)

    registry.decide(slow, look)
    assert compared == [1, 3]
    assert registry.champion("meanwhile") == 3
    assert registry.events("meanwhile") == [(None, 1, "first"), (1, 3, "gate")]
    assert registry.tags(slow)["promotion_reason"] == "measured against version 3"
    assert registry.tags(slow)["promoted"] == "false"


def test_force_is_recorded_as_force(registry: Registry) -> None:
    _, worse = registry.decided("forced", 0.9, 0.1)
    for _ in range(2):  # the second time it is champion already
        promotion.force(registry.client, registry.uri, worse)
    assert registry.events("forced") == [(None, 1, "first"), (1, 2, "force")]
    assert "forced by" in registry.tags(worse)["promotion_reason"]
    assert "promotion/difference" not in registry.tags(worse)


def test_rollbacks_go_back_one_champion_at_a_time_and_are_kept(registry: Registry) -> None:
    registry.decided("back", 0.1, 0.3, 0.5)
    for expected in (2, 1):
        assert promotion.rollback(registry.client, registry.uri, "back").version == expected
        assert registry.champion("back") == expected
    with pytest.raises(PromotionError, match="no earlier champion to go back to"):
        promotion.rollback(registry.client, registry.uri, "back")
    assert registry.events("back")[-2:] == [(3, 2, "rollback"), (2, 1, "rollback")]


def test_rollback_passes_over_deleted_versions(registry: Registry) -> None:
    _, second, _ = registry.decided("gap", 0.1, 0.3, 0.5)
    promotion.delete(registry.client, registry.uri, second)
    assert promotion.rollback(registry.client, registry.uri, "gap").version == 1


def test_the_champion_is_not_deleted(registry: Registry) -> None:
    (version,) = registry.decided("kept", 0.1)
    with pytest.raises(PromotionError, match="is the champion, which is not deleted"):
        promotion.delete(registry.client, registry.uri, version)
    assert registry.champion("kept") == 1


def compete(uri: str, name: str, scores: list[float]) -> Registry:
    """Decide on versions at once, each in a thread with a client of its own."""
    registry = Registry(uri)
    versions = [registry.make(name, score) for score in scores]
    rivals = [Registry(uri) for _ in scores]
    threads = [
        threading.Thread(target=rival.decide, args=(version, lambda: time.sleep(0.05)))
        for rival, version in zip(rivals, versions, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return registry


def require_truth(registry: Registry, name: str, scores: list[float]) -> None:
    """One champion which nobody beats, reached by steps that each won."""
    events = history.read(registry.client.get_registered_model(name))
    assert registry.champion(name) == events[-1].version
    assert [event.before for event in events] == [None, *(event.version for event in events[:-1])]
    champions = [scores[(event.version or 0) - 1] for event in events]
    assert all(after > before + SPREAD for before, after in pairwise(champions))
    assert champions[-1] >= max(scores) - SPREAD
    promoted = {event.version for event in events}
    for number in range(1, len(scores) + 1):
        tags = registry.client.get_model_version(name, str(number)).tags
        assert tags["promoted"] == str(number in promoted).lower()
        assert tags["promotion_reason"]


SCORES = [0.5, 0.61, 0.57, 0.72, 0.4]


def test_jobs_that_finish_together_leave_one_champion(registry: Registry) -> None:
    compete(registry.uri, "together", SCORES)
    require_truth(registry, "together", SCORES)


def test_jobs_that_finish_together_on_a_server_leave_one_champion(mlflow_server: str) -> None:
    registry = compete(mlflow_server, "together", SCORES)
    require_truth(registry, "together", SCORES)
    models = registry.client.search_registered_models()
    assert not [model.name for model in models if model.name.startswith(lock.PREFIX)]


def test_a_lock_left_by_a_killed_process_is_taken_over_after_its_lease(mlflow_server: str) -> None:
    client: MlflowClient = open_client(mlflow_server)
    left = f"{lock.PREFIX}abandoned.0123"
    client.create_registered_model(left)
    with (
        pytest.raises(TrackingError, match="has been changed by others"),
        lock.changing(client, mlflow_server, "abandoned", lease=60, wait=0.5),
    ):
        pass
    with lock.changing(client, mlflow_server, "abandoned", lease=0.5, wait=30) as held:
        names = {model.name for model in client.search_registered_models()}
        assert left not in names
        time.sleep(0.3)
        with pytest.raises(TrackingError, match="took too long"):
            held.confirm()
