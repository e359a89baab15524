"""Which version of a registered model is its champion, decided once per version and recorded on it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
"""Alias of the best version."""

_PROMOTED = "promoted"
_REASON = "promotion_reason"


def decision_of(version: ModelVersion) -> str | None:
    """Return why a version was promoted or not, or None if that is yet to be decided."""
    return version.tags.get(_REASON)


def decide(client: MlflowClient, candidate: ModelVersion, metric: str) -> None:
    """Make a version champion if there is none or its metric is above the champion's, and record why.

    Two jobs that finish together end with one champion, the better of the two. Nothing keeps them apart on a
    server, so each looks again after it has written.

    Args:
        client: of the store that holds the version.
        candidate: a version that was not decided on before.
        metric: name of the version's tag with the value to compare, more is better.
    """
    promoted_before = _promoted(client, candidate.name)
    champion = champion_of(client, candidate.name)
    wins, reason = _compare(candidate, champion, metric)
    if wins:
        client.set_registered_model_alias(candidate.name, CHAMPION, candidate.version)
    _record(client, candidate, wins, reason)
    if not wins:
        return
    winner = _settle(client, candidate, metric, set(promoted_before) - {str(candidate.version)})
    if winner.version != candidate.version:
        reason = f"version {winner.version}, registered at the same time, has the better {metric}"
        _record(client, candidate, False, reason)


def champion_of(client: MlflowClient, name: str) -> ModelVersion | None:
    """Return the version with the alias ``champion``, or None."""
    version = client.get_registered_model(name).aliases.get(CHAMPION)
    return None if version is None else client.get_model_version(name, version)


def _compare(candidate: ModelVersion, champion: ModelVersion | None, metric: str) -> tuple[bool, str]:
    mine = _score(candidate, metric)
    if math.isnan(mine):
        return False, f"{metric} is not a number"
    if champion is None or champion.version == candidate.version:
        return True, f"there was no other champion; {metric} {mine:.4f}"
    if _data_of(candidate) != _data_of(champion):
        return False, (
            f"it was validated on other images than the champion, version {champion.version}: their {metric} cannot be "
            "compared. Set the alias by hand, or register it under another name (tracking.model)"
        )
    theirs = _score(champion, metric)
    if math.isnan(theirs):
        return False, f"the champion, version {champion.version}, has no {metric} to compare with"
    wins = mine > theirs
    relation = "above" if wins else "not above"
    return wins, f"{metric} {mine:.4f} is {relation} {theirs:.4f} of the champion, version {champion.version}"


def _data_of(version: ModelVersion) -> str | None:
    return version.tags.get("validation_fingerprint")


def _settle(client: MlflowClient, candidate: ModelVersion, metric: str, known: set[str]) -> ModelVersion:
    """Give the alias to the best of the versions promoted since the comparison; return that version."""
    while True:
        rivals = _promoted(client, candidate.name)
        new = [rival for number, rival in rivals.items() if number not in known]
        best = max(new, key=lambda rival: (_score(rival, metric), -int(rival.version)))
        champion = champion_of(client, candidate.name)
        if champion is not None and champion.version == best.version:
            return best
        client.set_registered_model_alias(candidate.name, CHAMPION, best.version)


def _promoted(client: MlflowClient, name: str) -> dict[str, ModelVersion]:
    versions = client.search_model_versions(f"name = '{name}'")
    return {str(v.version): v for v in versions if v.tags.get(_PROMOTED) == "true"}


def _score(version: ModelVersion, metric: str) -> float:
    try:
        return float(version.tags[metric])
    except (KeyError, ValueError):
        return math.nan


def _record(client: MlflowClient, version: ModelVersion, promoted: bool, reason: str) -> None:
    client.set_model_version_tag(version.name, version.version, _PROMOTED, str(promoted).lower())
    # Last: a version without it is decided on again, if the job was killed in between.
    client.set_model_version_tag(version.name, version.version, _REASON, reason)
