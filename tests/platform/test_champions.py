"""The champion in hard cases: killed processes, aliases set elsewhere, slow servers, and processes in a race."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from rsrnet_platform import promotion
from rsrnet_platform.models import history, lock
from rsrnet_platform.models.history import CHAMPION, Event
from rsrnet_platform.promotion import PromotionError, Verdict, champion_of, decide, decision_of
from rsrnet_platform.store import TrackingConfig, TrackingError, open_client, prepare

SERVER = "http://a-server"
"""Has the lock for servers taken on an embedded store."""

Make = Callable[..., ModelVersion]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return prepare(TrackingConfig(uri=str(tmp_path_factory.mktemp("store"))))


@pytest.fixture(scope="module")
def client(uri: str) -> MlflowClient:
    return open_client(uri)


@pytest.fixture(scope="module")
def make(client: MlflowClient) -> Make:
    """Create a version of a model, which is made if it is new, with a validation IoU."""
    known: set[str] = set()

    def version(name: str, score: float = 0.5) -> ModelVersion:
        if name not in known:
            client.create_registered_model(name)
            known.add(name)
        tags = {"val/iou": str(score)}
        return client.create_model_version(name, "/nowhere", tags=tags, await_creation_for=0)

    return version


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits between two looks at the lock."""
    monkeypatch.setattr(
        lock, "time", SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: time.sleep(0.001))
    )


def judge(candidate: ModelVersion, spread: float = 0.0) -> promotion.Judge:
    """Compares by the tags."""

    def compare(champion: ModelVersion) -> Verdict:
        difference = score(candidate) - score(champion)
        wins = difference > spread
        return Verdict(wins, f"{difference:+.2f} beside version {champion.version}", difference, spread)

    return compare


def score(version: ModelVersion) -> float:
    return float(version.tags["val/iou"])


def settle_on(client: MlflowClient, uri: str, version: ModelVersion, spread: float = 0.0) -> None:
    decide(client, uri, version, score(version), judge(version, spread))


def champion(client: MlflowClient, name: str) -> int | None:
    holder = champion_of(client, name)
    return None if holder is None else int(holder.version)


def tags(client: MlflowClient, version: ModelVersion) -> dict[str, str]:
    return dict(client.get_model_version(version.name, version.version).tags)


def events(client: MlflowClient, name: str) -> list[Event]:
    return history.read(client.get_registered_model(name))


def changes(client: MlflowClient, name: str) -> list[tuple[int | None, int | None, str]]:
    return [(event.before, event.version, event.how) for event in events(client, name)]


def require_truth(client: MlflowClient, name: str) -> None:
    """Every event begins where the one before ended, the last one at the alias, and the times ascend."""
    kept = events(client, name)
    assert kept[0].before is None
    assert all(later.before == earlier.version for earlier, later in pairwise(kept))
    assert kept[-1].version == champion(client, name)
    assert all(event.done for event in kept)
    assert [event.time for event in kept] == sorted(event.time for event in kept)


@given(st.lists(st.one_of(st.integers(1, 5), st.none()), max_size=12))
def test_rollbacks_undo_promotions_like_a_pile(steps: list[int | None]) -> None:
    """A number is promoted, None goes back; the oracle keeps a plain list."""
    pile: list[int] = []
    kept: list[Event] = []
    for step in steps:
        back = history.earlier_champions(kept)
        assert back == pile[:-1]
        before = pile[-1] if pile else None
        if step is None and len(pile) > 1:
            pile.pop()
            how: history.How = "rollback"
            assert back[-1] == pile[-1]
        elif step is not None and step != before:
            pile.append(step)
            how = "gate"
        else:
            continue
        kept.append(Event(len(kept) + 1, pile[-1], before, "2026-01-01", how, "", ""))


def test_what_others_do_to_the_alias_enters_the_history(client: MlflowClient, uri: str, make: Make) -> None:
    for value in (0.3, 0.5):
        settle_on(client, uri, make("elsewhere", value))
    client.set_registered_model_alias("elsewhere", CHAMPION, "1")
    settle_on(client, uri, make("elsewhere", 0.4))
    assert changes(client, "elsewhere")[2:] == [(2, 1, "elsewhere"), (1, 3, "gate")]
    client.delete_registered_model_alias("elsewhere", CHAMPION)
    settle_on(client, uri, make("elsewhere", 0.1))
    assert changes(client, "elsewhere")[4:] == [(3, None, "elsewhere"), (None, 4, "first")]
    require_truth(client, "elsewhere")


def test_a_champion_of_an_earlier_release_can_be_gone_back_to(
    client: MlflowClient, uri: str, make: Make
) -> None:
    make("old", 0.3)
    client.set_registered_model_alias("old", CHAMPION, "1")
    with pytest.raises(PromotionError):
        promotion.rollback(client, uri, "old")
    settle_on(client, uri, make("old", 0.5))
    assert changes(client, "old") == [(1, 2, "gate")]
    assert promotion.rollback(client, uri, "old").version == 1


def test_a_tag_that_a_person_damaged_hides_one_event_only(client: MlflowClient, uri: str, make: Make) -> None:
    for value in (0.3, 0.5):
        settle_on(client, uri, make("damaged", value))
    client.set_registered_model_tag("damaged", "champion.0002", "by hand")
    settle_on(client, uri, make("damaged", 0.7))
    assert [event.version for event in events(client, "damaged")] == [1, 2, 3]
    assert client.get_registered_model("damaged").tags["champion.0002"] == "by hand"


class Dying:
    """A client whose process is killed in a call: before it takes effect, or after."""

    def __init__(self, client: MlflowClient, call: str, *, after: bool) -> None:
        self.client, self.call, self.after = client, call, after

    def __getattr__(self, name: str) -> Any:
        if name != self.call:
            return getattr(self.client, name)

        def die(*args: Any, **kwargs: Any) -> None:
            if self.after:
                getattr(self.client, name)(*args, **kwargs)
            raise KeyboardInterrupt

        return die


@pytest.mark.parametrize("after", [False, True])
def test_a_process_that_dies_at_the_alias_leaves_a_history_that_is_true(
    after: bool, client: MlflowClient, uri: str, make: Make
) -> None:
    name = f"dying-{after}"
    settle_on(client, uri, make(name, 0.3))
    better = make(name, 0.5)
    dying = cast(MlflowClient, Dying(client, "set_registered_model_alias", after=after))
    with pytest.raises(KeyboardInterrupt):
        settle_on(dying, uri, better)
    assert champion(client, name) == (2 if after else 1)
    assert [event.version for event in events(client, name)] == ([1, 2] if after else [1])
    assert decision_of(client.get_model_version(name, "2")) is None
    settle_on(client, uri, better)  # the job is started again
    assert changes(client, name) == [(None, 1, "first"), (1, 2, "gate")]
    known = tags(client, better)
    assert known["promotion_reason"] == "+0.20 beside version 1"
    assert (known["champion_before"], known["promoted"]) == ("1", "true")
    assert float(known["promotion/difference"]) == pytest.approx(0.2)
    settle_on(client, uri, make(name, 0.6))
    require_truth(client, name)


def test_whoever_holds_the_lock_too_long_changes_nothing(client: MlflowClient, make: Make) -> None:
    version = make("slow", 0.5)

    class Slow(Dying):
        def __getattr__(self, name: str) -> Any:
            if name == "set_registered_model_tag":  # the event, before the alias
                time.sleep(0.15)
            return getattr(self.client, name)

    slow = cast(MlflowClient, Slow(client, "", after=False))
    with (
        lock.changing(slow, SERVER, "slow", lease=0.2) as held,
        pytest.raises(TrackingError, match="too long"),
    ):
        promotion._move(slow, held, client.get_registered_model("slow"), 1, "force", "")
    assert champion(client, "slow") is None
    assert events(client, "slow") == []
    settle_on(client, SERVER, version)
    require_truth(client, "slow")


class Interleaved:
    """A client whose calls wait for their thread's turn; the turns are drawn from a seed."""

    def __init__(self, client: object, threads: int, seed: int) -> None:
        self.client = client
        self.turns = random.Random(seed)
        self.waiting: set[int] = set(range(threads))
        self.turn = self.turns.choice(sorted(self.waiting))
        self.changed = threading.Condition()
        self.number = threading.local()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.changed:
                assert self.changed.wait_for(lambda: self.turn == self.number.value, timeout=60)
                try:
                    return getattr(self.client, name)(*args, **kwargs)
                finally:
                    self._pass_on()

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


def together(schedule: Interleaved, works: list[Callable[[], None]]) -> None:
    threads = [
        threading.Thread(target=schedule.run, args=(number, work)) for number, work in enumerate(works)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Names:
    """The part of MLflow's client that the lock of a server needs, in memory."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def create_registered_model(self, name: str, description: str) -> None:
        assert name not in self.names
        self.names.add(name)

    def search_registered_models(self, text: str, max_results: int) -> list[SimpleNamespace]:
        return [SimpleNamespace(name=name) for name in sorted(self.names)]

    def delete_registered_model(self, name: str) -> None:
        if name not in self.names:
            raise MlflowException("not there")
        self.names.remove(name)

    def other_call(self) -> None:
        """What is done under the lock."""


def test_a_server_s_lock_has_one_holder_in_any_order_of_calls(impatient: None) -> None:
    for seed in range(100):
        registry = Names()
        schedule = Interleaved(registry, 3, seed)
        inside: list[int] = []
        most: list[int] = []

        def work(
            schedule: Interleaved = schedule, inside: list[int] = inside, most: list[int] = most
        ) -> None:
            with lock.changing(cast(MlflowClient, schedule), SERVER, "model"):
                inside.append(1)
                schedule.other_call()
                most.append(len(inside))
                schedule.other_call()
                inside.pop()

        together(schedule, [work] * 3)
        assert most == [1, 1, 1], f"seed {seed}"
        assert registry.names == set()


def test_a_lock_that_is_never_free_is_told_and_nothing_is_left() -> None:
    class Busy(Names):
        def search_registered_models(self, text: str, max_results: int) -> list[SimpleNamespace]:
            other = SimpleNamespace(name=f"{lock.PREFIX}model.{time.monotonic_ns()}")
            # Free at a first look, taken at the second.
            return [other] if self.names else []

    registry = Busy()
    with (
        pytest.raises(TrackingError, match="has been changed by others"),
        lock.changing(cast(MlflowClient, registry), SERVER, "model", wait=0.2),
    ):
        pass
    assert registry.names == set()


RACE = """
import sys, time
from pathlib import Path
from rsrnet_platform.promotion import Verdict, decide
from rsrnet_platform.store import open_client

uri, name, score, start = sys.argv[1], sys.argv[2], float(sys.argv[3]), Path(sys.argv[4])
client = open_client(uri)
version = client.create_model_version(name, "s3://nowhere/model", tags={"val/iou": str(score)}, await_creation_for=0)
start.with_name(f"ready-{score}").touch()
while not start.exists():
    time.sleep(0.01)

def judge(champion):
    time.sleep(0.2)
    difference = score - float(champion.tags["val/iou"])
    return Verdict(difference > 0, f"beside {champion.version}", difference, 0.0)

decide(client, uri, version, score, judge)
"""


def race(uri: str, name: str, scores: tuple[float, ...], folder: Path) -> None:
    """Have processes register a version each and decide on it at the same time."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'platform'}"}
    command = [sys.executable, "-c", RACE, uri, name]
    processes = [
        subprocess.Popen([*command, str(value), str(folder / "start")], env=environment) for value in scores
    ]
    deadline = time.monotonic() + 120
    while len(list(folder.glob("ready-*"))) < len(scores):
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)
    (folder / "start").touch()
    assert [process.wait(120) for process in processes] == [0] * len(scores)


@pytest.mark.slow
def test_processes_that_finish_together_on_an_embedded_store(
    client: MlflowClient, uri: str, tmp_path: Path
) -> None:
    client.create_registered_model("processes")
    race(uri, "processes", (0.4, 0.6), tmp_path)
    holder = champion_of(client, "processes")
    assert holder is not None
    assert score(holder) == 0.6
    require_truth(client, "processes")
    assert all(json.loads(text)["done"] for text in client.get_registered_model("processes").tags.values())
