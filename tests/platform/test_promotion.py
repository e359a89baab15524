"""The champion: who becomes it, and that jobs finishing together agree on one in any order of their calls."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pytest
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from rsrnet_platform.promotion import CHAMPION, champion_of, decide, decision_of
from rsrnet_platform.store import TrackingConfig, open_client, prepare

METRIC = "val/iou"
Make = Callable[[str, float | None], ModelVersion]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> MlflowClient:
    return open_client(prepare(TrackingConfig(uri=str(tmp_path_factory.mktemp("store")))))


@pytest.fixture(scope="module")
def make(client: MlflowClient) -> Make:
    """Create a version of a model, which is made if it is new, with a value of the metric."""
    known: set[str] = set()

    def version(name: str, score: float | None) -> ModelVersion:
        if name not in known:
            client.create_registered_model(name)
            known.add(name)
        tags = {} if score is None else {METRIC: str(score)}
        return client.create_model_version(name, "/nowhere", tags=tags, await_creation_for=0)

    return version


def champion(client: MlflowClient, name: str) -> int | None:
    holder = champion_of(client, name)
    return None if holder is None else int(holder.version)


def reason(client: MlflowClient, version: ModelVersion) -> str:
    return decision_of(client.get_model_version(version.name, version.version)) or ""


def test_the_best_version_holds_the_alias_and_each_says_why(client: MlflowClient, make: Make) -> None:
    versions = [make("steps", score) for score in (0.5, 0.4, 0.6, 0.6)]
    holders = []
    for version in versions:
        decide(client, version, METRIC)
        holders.append(champion(client, "steps"))
    assert holders == [1, 1, 3, 3]
    assert [reason(client, version) for version in versions] == [
        "there was no other champion; val/iou 0.5000",
        "val/iou 0.4000 is not above 0.5000 of the champion, version 1",
        "val/iou 0.6000 is above 0.5000 of the champion, version 1",
        "val/iou 0.6000 is not above 0.6000 of the champion, version 3",
    ]


def test_a_metric_that_is_no_number_makes_no_champion(client: MlflowClient, make: Make) -> None:
    version = make("nan", float("nan"))
    decide(client, version, METRIC)
    assert champion(client, "nan") is None
    assert reason(client, version) == "val/iou is not a number"


def test_a_champion_that_cannot_be_compared_stays(client: MlflowClient, make: Make) -> None:
    make("foreign", None)
    client.set_registered_model_alias("foreign", CHAMPION, "1")
    version = make("foreign", 0.9)
    decide(client, version, METRIC)
    assert champion(client, "foreign") == 1
    assert "has no val/iou to compare with" in reason(client, version)


def test_a_champion_rolled_back_by_hand_stays_unless_beaten(client: MlflowClient, make: Make) -> None:
    for score in (0.3, 0.9):
        decide(client, make("rollback", score), METRIC)
    client.set_registered_model_alias("rollback", CHAMPION, "1")
    decide(client, make("rollback", 0.5), METRIC)
    assert champion(client, "rollback") == 3


class Interleaved:
    """A client whose calls wait for their thread's turn; the turns are drawn from a seed."""

    def __init__(self, client: MlflowClient, threads: int, seed: int) -> None:
        self.client = client
        self.turns = random.Random(seed)
        self.waiting: set[int] = set(range(threads))
        self.turn = self.turns.choice(sorted(self.waiting))
        self.changed = threading.Condition()
        self.number = threading.local()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.changed:
                assert self.changed.wait_for(lambda: self.turn == self.number.value, timeout=30)
                result = getattr(self.client, name)(*args, **kwargs)
                self._pass_on()
                return result

        return call

    def run(self, number: int, work: Callable[[], None]) -> None:
        self.number.value = number
        try:
            work()
        finally:
            with self.changed:
                self.waiting.discard(number)
                self._pass_on()

    def _pass_on(self) -> None:
        if self.waiting:
            self.turn = self.turns.choice(sorted(self.waiting))
        self.changed.notify_all()


@pytest.mark.parametrize("scores", [(0.5, 0.6), (0.6, 0.5), (0.5, 0.5), (0.4, 0.6, 0.5)])
def test_jobs_that_finish_together_leave_the_best_as_the_one_champion(
    scores: tuple[float, ...], client: MlflowClient, make: Make
) -> None:
    for seed in range(5):
        name = f"race-{scores}-{seed}"
        versions = [make(name, score) for score in scores]
        schedule = Interleaved(client, len(scores), seed)
        shared = cast(MlflowClient, schedule)
        threads = [
            threading.Thread(target=schedule.run, args=(number, partial(decide, shared, version, METRIC)))
            for number, version in enumerate(versions)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        holder = champion_of(client, name)
        assert holder is not None
        assert float(holder.tags[METRIC]) == max(scores), f"seed {seed}"
        assert holder.tags["promoted"] == "true"
        assert all(reason(client, version) for version in versions)
