"""Who was champion of a registered model, since when and why: an event for every change, kept as tags of the model.

The tags ``champion.0001``, ``champion.0002``, ... hold an event each as JSON. An event is written before the alias is
set, and marked as done after it: if the process is killed in between, whoever looks next can tell by the alias whether
the change took place. What sets the alias without an event (MLflow's page, another program) is told at once, and kept
as one when the platform next decides. All of it is written under the lock of :mod:`rsrnet_platform.models.lock`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, TypeAlias

from rsrnet_platform.tracking import user_name

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import RegisteredModel

CHAMPION = "champion"
"""Alias of the version that is used unless another is asked for."""

How: TypeAlias = Literal["first", "gate", "force", "rollback", "elsewhere"]
"""``first``: there was no champion; ``gate``: won the comparison; ``force`` and ``rollback``: a person's decision;
``elsewhere``: set without this platform."""

_TAG = re.compile(r"champion\.(\d+)")


@dataclass(frozen=True)
class Event:
    """One change of the champion."""

    number: int
    version: int | None
    """The champion from then on; None: there was none any more."""

    before: int | None
    """The champion until then."""

    time: str
    """In UTC, as ISO 8601."""

    how: How
    reason: str
    user: str
    done: bool = True
    """Whether the alias is known to be set."""

    @property
    def tag(self) -> str:
        """Key of the registered model's tag that holds it."""
        return f"champion.{self.number:04d}"


def champion_number(model: RegisteredModel) -> int | None:
    """Version that the alias points to."""
    version = model.aliases.get(CHAMPION)
    return None if version is None else int(version)


def read(model: RegisteredModel) -> list[Event]:
    """The events of a registered model that took place, the oldest first; none of a model of an earlier release."""
    return [
        event
        for event in _kept(model)
        if event.done or (event.version is not None and event.version == champion_number(model))
    ]


def known(model: RegisteredModel) -> list[Event]:
    """The events of :func:`read`, then one for an alias that was set or removed without an event since."""
    events, now = read(model), champion_number(model)
    if not events or events[-1].version == now:
        return events
    reason = (
        f"version {now} was made champion without rsrnet"
        if now is not None
        else "the alias was removed without rsrnet, or deleted with its version"
    )
    number, before = _next(model, events), events[-1].version
    return [*events, Event(number, now, before, _now(), "elsewhere", reason, "unknown")]


def begin(client: MlflowClient, model: RegisteredModel, version: int, how: How, reason: str) -> Event:
    """Write down that the champion is about to change, after making good what came before.

    Args:
        client: of the store.
        model: as it is now, under the lock.
        version: the next champion.
        how: it becomes that.
        reason: for people.

    Returns:
        The event; :func:`finish` is for when the alias is set.
    """
    number = _next(model, settle(client, model))
    event = Event(number, version, champion_number(model), _now(), how, reason, user_name(), done=False)
    _write(client, model.name, event)
    return event


def finish(client: MlflowClient, name: str, event: Event) -> Event:
    """Write down that the alias is set; the event that says so."""
    done = replace(event, done=True)
    _write(client, name, done)
    return done


def settle(client: MlflowClient, model: RegisteredModel) -> list[Event]:
    """Make the history agree with the alias; the events that took place.

    An event of a process that was killed is finished or dropped; a change that left no event gets one.
    """
    events = known(model)
    for event in _kept(model):
        if not event.done and event in events:
            finish(client, model.name, event)
        elif not event.done:
            client.delete_registered_model_tag(model.name, event.tag)
    if events and events[-1].tag not in model.tags:
        _write(client, model.name, events[-1])
    return events


def earlier_champions(events: Sequence[Event]) -> list[int]:
    """The champions that rollbacks lead back to, the next one last; the present one is not among them.

    Promotions pile up, a rollback takes off what came after the version that it went back to.
    """
    pile: list[int] = []
    if events and events[0].before is not None:
        pile.append(events[0].before)
    for event in events:
        if event.version is None:
            continue
        if event.how == "rollback" and event.version in pile:
            while pile[-1] != event.version:
                pile.pop()
        elif not pile or pile[-1] != event.version:
            pile.append(event.version)
    if events and events[-1].version is not None:
        pile.pop()
    return pile


def _next(model: RegisteredModel, events: Sequence[Event]) -> int:
    """A number above those of all events, also of those that cannot be read any more."""
    tags = (int(match[1]) for key in model.tags if (match := _TAG.fullmatch(key)))
    return 1 + max(*tags, *(event.number for event in events), 0, 0)


def _kept(model: RegisteredModel) -> list[Event]:
    """Every event in the tags; what a person changed so that it cannot be read is left out."""
    found = []
    names = {field.name for field in fields(Event)} - {"number"}
    for key, text in model.tags.items():
        if match := _TAG.fullmatch(key):
            try:
                values = json.loads(text)
                found.append(Event(int(match[1]), **{name: values[name] for name in names}))
            except (ValueError, KeyError, TypeError):
                continue
    return sorted(found, key=lambda event: event.number)


def _write(client: MlflowClient, name: str, event: Event) -> None:
    values = {key: value for key, value in asdict(event).items() if key != "number"}
    client.set_registered_model_tag(name, event.tag, json.dumps(values))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
