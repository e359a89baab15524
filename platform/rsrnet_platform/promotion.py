"""Which version of a registered model is its champion: decided by comparison, by force, or by going back.

A comparison takes minutes, so it is made without the lock: the champion is looked up, the candidate compared with it,
and under the lock the alias moves only if the champion is still the same; otherwise the candidate is compared with
the new one. So of jobs that finish together each has beaten the champion that it replaces.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from rsrnet_platform.errors import UserError
from rsrnet_platform.lookup import versions_of
from rsrnet_platform.models import history
from rsrnet_platform.models.history import CHAMPION, Event, How, champion_number
from rsrnet_platform.models.lock import Held, changing
from rsrnet_platform.store import explained
from rsrnet_platform.tracking import user_name

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

PROMOTED = "promoted"
REASON = "promotion_reason"
BEFORE = "champion_before"
CHANGES = "promotion/changes"
DIFFERENCE = "promotion/difference"
SPREAD = "promotion/spread"
"""Tags of a version: what was decided, why, who was champion then, the number of the latest change of champion at that
time, and what the comparison measured."""

NOBODY = "none"


class PromotionError(UserError):
    """Raised when the champion cannot be changed as asked."""


@dataclass(frozen=True)
class Verdict:
    """What a candidate is worth beside the champion."""

    wins: bool
    reason: str
    """One sentence for people, without its full stop."""

    difference: float | None = None
    """Of the validation IoU, candidate minus champion; None: not measured."""

    spread: float | None = None
    """Of the difference; see :func:`rsrnet.evaluation.bootstrap.paired_difference`."""

    how: How = "gate"


Judge: TypeAlias = Callable[["ModelVersion"], Verdict]
"""Compares a candidate with the champion that it is given."""


def decision_of(version: ModelVersion) -> str | None:
    """Return why a version was promoted or not, or None if that is yet to be decided."""
    return version.tags.get(REASON)


def champion_of(client: MlflowClient, name: str) -> ModelVersion | None:
    """Return the version with the alias ``champion``, or None."""
    version = client.get_registered_model(name).aliases.get(CHAMPION)
    return None if version is None else client.get_model_version(name, version)


def decide(
    client: MlflowClient, uri: str, candidate: ModelVersion, score: float, judge: Judge | None
) -> None:
    """Make a version champion if there is none or it beats the champion, and record on it what was found.

    Args:
        client: of the store that holds the version.
        uri: of that store.
        candidate: the version.
        score: its validation IoU; the first champion needs one that is a number.
        judge: compares with the champion; None: there is nothing to compare by, and a champion stays.
    """
    name = candidate.name
    while True:
        with explained(uri):
            champion = champion_of(client, name)
        verdict = _verdict(candidate, champion, score, judge)
        with explained(uri), changing(client, uri, name) as held:
            model = client.get_registered_model(name)
            if champion_number(model) != _number(champion):
                continue  # another job was faster: there is a new champion to beat
            _conclude(client, held, model, client.get_model_version(name, candidate.version), verdict)
            return


def force(client: MlflowClient, uri: str, version: ModelVersion) -> None:
    """Make a version champion without a comparison; as :func:`complete` if it is champion already."""
    with explained(uri), changing(client, uri, version.name) as held:
        model = client.get_registered_model(version.name)
        before = champion_number(model)
        if before == int(version.version):
            _complete(client, held, model, version)
            return
        beside = "" if before is None else f" with version {before}"
        reason = f"forced by {user_name()}, without a comparison{beside}"
        _conclude(client, held, model, version, Verdict(True, reason, how="force"))


def complete(client: MlflowClient, uri: str, champion: ModelVersion) -> None:
    """Record on the champion why it is that, if the process that made it so was killed before it did; else nothing."""
    with explained(uri), changing(client, uri, champion.name) as held:
        model = client.get_registered_model(champion.name)
        if champion_number(model) == int(champion.version):
            _complete(client, held, model, champion)


def rollback(client: MlflowClient, uri: str, name: str) -> Event:
    """Give the alias back to the champion before; the event that records it.

    Raises:
        PromotionError: if no earlier champion is known that still exists.
    """
    with explained(uri), changing(client, uri, name) as held:
        model = client.get_registered_model(name)
        events = history.settle(client, model)
        there = {int(version.version) for version in versions_of(client, name)}
        now = champion_number(model)
        back = [number for number in history.earlier_champions(events) if number in there and number != now]
        if not back:
            raise PromotionError(
                f"{name}: there is no earlier champion to go back to ({_named(now)} is champion). "
                f"`rsrnet models list` shows the versions, `rsrnet models promote {name}/N --force` sets one"
            )
        reason = f"{user_name()} went back from {_named(now)} to version {back[-1]}"
        return _move(client, held, client.get_registered_model(name), back[-1], "rollback", reason)


def delete(client: MlflowClient, uri: str, version: ModelVersion) -> None:
    """Delete a version that is not the champion; its run and the run's artifacts stay.

    Raises:
        PromotionError: if it is the champion.
    """
    with explained(uri), changing(client, uri, version.name) as held:
        require_no_champion(client, version)
        held.confirm()
        client.delete_model_version(version.name, version.version)
        _forget_on_the_run_s_page(client, version)


def _forget_on_the_run_s_page(client: MlflowClient, version: ModelVersion) -> None:
    """Take away what the page of a version's run shows as its registered version, if the run is still there."""
    from mlflow.exceptions import MlflowException

    if not version.run_id:
        return
    with suppress(MlflowException):
        experiment = client.get_run(version.run_id).info.experiment_id
        # A version of an embedded store does not know the id of its model.
        for model in client.search_logged_models([experiment], f"source_run_id = '{version.run_id}'"):
            if model.artifact_location == version.source and "mlflow.modelVersions" in model.tags:
                client.delete_logged_model_tag(model.model_id, "mlflow.modelVersions")


def require_no_champion(client: MlflowClient, version: ModelVersion) -> None:
    """Refuse to go on with the champion, which is not deleted.

    Raises:
        PromotionError: if the version is that.
    """
    name, number = version.name, int(version.version)
    if champion_number(client.get_registered_model(name)) == number:
        raise PromotionError(
            f"{name}/{number} is the champion, which is not deleted. Make another version champion first: "
            f"`rsrnet models rollback {name}`, or `rsrnet models promote {name}/N --force`"
        )


def _verdict(
    candidate: ModelVersion, champion: ModelVersion | None, score: float, judge: Judge | None
) -> Verdict:
    if champion is None:
        if math.isnan(score):
            return Verdict(False, "its val/iou is not a number", how="first")
        return Verdict(True, f"there was no other champion; val/iou {score:.4f}", how="first")
    if _number(champion) == _number(candidate):
        return Verdict(True, "it is the champion, set without rsrnet")
    if judge is None:
        return Verdict(False, f"it was not compared with the champion, version {champion.version}")
    return judge(champion)


def _conclude(
    client: MlflowClient, held: Held, model: RegisteredModel, version: ModelVersion, verdict: Verdict
) -> None:
    """Record a verdict and, if it says so, make the version champion."""
    name, number, before = model.name, version.version, champion_number(model)
    events = history.settle(client, model)
    if before == int(number):
        # The process that made it champion was killed before it wrote down all of this.
        before, reason = (events[-1].before, events[-1].reason) if events else (None, verdict.reason)
    else:
        reason, known = verdict.reason, client.get_model_version(name, number).tags
        for key, value in {DIFFERENCE: verdict.difference, SPREAD: verdict.spread}.items():
            if value is not None:
                client.set_model_version_tag(name, number, key, str(value))
            elif key in known:  # of an earlier decision
                client.delete_model_version_tag(name, number, key)
        if verdict.wins:
            now = client.get_registered_model(name)
            events.append(_move(client, held, now, int(number), verdict.how, reason))
    tags = {
        CHANGES: str(events[-1].number if events else 0),
        BEFORE: str(before or NOBODY),
        PROMOTED: str(verdict.wins).lower(),
        REASON: reason,
    }
    for key, text in tags.items():  # the reason last: a version without it is decided on again
        client.set_model_version_tag(name, number, key, text)


def _complete(client: MlflowClient, held: Held, model: RegisteredModel, champion: ModelVersion) -> None:
    events = history.settle(client, model)
    if events and events[-1].how in ("first", "gate", "force"):
        tags, reason = client.get_model_version(champion.name, champion.version).tags, events[-1].reason
        if (tags.get(PROMOTED), tags.get(REASON)) != ("true", reason):
            settled = client.get_registered_model(champion.name)
            _conclude(client, held, settled, champion, Verdict(True, reason))


def _move(
    client: MlflowClient, held: Held, model: RegisteredModel, version: int, how: How, reason: str
) -> Event:
    """Set the alias, under the lock, and keep the event."""
    event = history.begin(client, model, version, how, reason)
    held.confirm()
    client.set_registered_model_alias(model.name, CHAMPION, str(version))
    return history.finish(client, model.name, event)


def _number(version: ModelVersion | None) -> int | None:
    return None if version is None else int(version.version)


def _named(number: int | None) -> str:
    return "no version" if number is None else f"version {number}"
