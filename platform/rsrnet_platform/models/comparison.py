"""Two registered versions side by side: their scores, and the settings, data and code in which they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rsrnet_platform.models.reading import METRICS, Registered

_NOT_SETTINGS = ("name", "description", "storage", "tracking.", "cluster.")
"""Of a job file: what a model does not depend on."""


@dataclass(frozen=True)
class Line:
    """A score of both."""

    split: str
    """``val`` or ``test``."""

    subset: str
    metric: str
    first: float | None
    second: float | None

    @property
    def difference(self) -> float | None:
        """First minus second; None unless both are known."""
        return None if self.first is None or self.second is None else self.first - self.second


@dataclass(frozen=True)
class Comparison:
    """What two versions have and have not in common."""

    names: tuple[str, str]
    scores: Sequence[Line]
    settings: Mapping[str, tuple[str, str]]
    """Values by dotted path, where they differ."""

    origin: Mapping[str, tuple[str, str]]
    """Fingerprints, commits and releases, where they differ."""

    doubts: Sequence[str]
    """Why the scores are not to be compared without care."""


def compare(
    first: Registered,
    second: Registered,
    settings: tuple[Mapping[str, Any] | None, Mapping[str, Any] | None],
) -> Comparison:
    """Set two versions side by side.

    Args:
        first: one version.
        second: the other.
        settings: of their trainings by dotted path; None where the job file is not known.
    """
    names = (f"{first.name}/{first.version}", f"{second.name}/{second.version}")
    doubts = list(_doubts(first, second))
    for name, known in zip(names, settings, strict=True):
        if known is None:
            doubts.append(f"The job file of {name} is not known, so the settings were not compared.")
    one, other = ({**version.data, **version.code} for version in (first, second))
    trained = _differing(*map(_of_model, settings)) if None not in settings else {}
    return Comparison(names, _lines(first, second), trained, _differing(one, other), doubts)


def _lines(first: Registered, second: Registered) -> list[Line]:
    found = []
    for split, one, other in (("val", first.val, second.val), ("test", first.test, second.test)):
        for subset in dict.fromkeys([*one, *other]):
            for metric in METRICS:
                values = (one.get(subset, {}).get(metric), other.get(subset, {}).get(metric))
                if values != (None, None):
                    found.append(Line(split, subset, metric, *values))
    return found


def _of_model(settings: Mapping[str, Any] | None) -> dict[str, Any]:
    return {path: value for path, value in (settings or {}).items() if not path.startswith(_NOT_SETTINGS)}


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    return {
        key: (str(first.get(key, "")), str(second.get(key, "")))
        for key in dict.fromkeys([*first, *second])
        if first.get(key) != second.get(key)
    }


def _doubts(first: Registered, second: Registered) -> list[str]:
    said = []
    key = "validation_fingerprint"
    if first.data.get(key) != second.data.get(key):
        said.append(
            "Their validation scores are of different images: `rsrnet models promote` compares on the same."
        )
    if first.test and second.test:
        for tag, what in (("test_fingerprint", "images"), ("test_size", "input sizes")):
            if first.tested.get(tag) != second.tested.get(tag):
                said.append(f"Their test scores are of different {what}.")
    return said
