"""Registered models as they stand in the registry, as plain values; versions of earlier releases lack some of them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from rsrnet.evaluation.published import ALL, Scores
from rsrnet_platform import promotion
from rsrnet_platform.errors import JobError
from rsrnet_platform.lookup import RegistryError, registered_models, versions_of
from rsrnet_platform.modelcard import JOB
from rsrnet_platform.models import history
from rsrnet_platform.models.history import Event
from rsrnet_platform.packaging import fetch

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

    from rsrnet_platform.spec import TrainJob

METRICS = Scores._fields

DATA = ("dataset_fingerprint", "validation_fingerprint")
CODE = ("mlflow.source.git.commit", "git_dirty", "rsrnet_version")
TEST = ("test_fingerprint", "test_size", "test_run")
_SCORE = re.compile(rf"(val|test)/(?:([^/]+)/)?({'|'.join(METRICS)}|images)")
_MASKS = ("m_rsr", "m_dec")


@dataclass(frozen=True)
class Registered:
    """A version of a registered model."""

    name: str
    version: int
    uri: str
    champion: bool
    created: str
    """In UTC, as ISO 8601."""

    run_id: str
    why: str
    """Why it is or is not champion; empty if nothing was decided."""

    promoted: bool | None
    """What was decided when it was last compared or forced; None: nothing yet."""

    champion_before: int | None
    """The champion at that time."""

    difference: float | None
    """What the comparison measured: validation IoU less the champion's."""

    spread: float | None
    """Of the difference, over photographs."""

    val: dict[str, dict[str, float]]
    """Validation scores and the number of images by sub-dataset, those of all images as ``All``."""

    test: dict[str, dict[str, float]]
    """The same of the test images, once ``kind: evaluate`` has scored them."""

    data: dict[str, str]
    """Fingerprints of the training's images."""

    code: dict[str, str]
    """Commit and release that trained it."""

    tested: dict[str, str]
    """On which images, at which size and by which run it was tested."""


@dataclass(frozen=True)
class Model:
    """A registered model: its versions, the newest first, and who was champion, the latest first."""

    name: str
    versions: Sequence[Registered]
    history: Sequence[Event]


def every_model(client: MlflowClient) -> list[Model]:
    """All registered models, by name."""
    return [_model(client, model) for model in registered_models(client)]


def one_model(client: MlflowClient, name: str) -> Model:
    """A registered model that is known to exist."""
    return _model(client, client.get_registered_model(name))


def version_in(model: Model, number: int) -> Registered:
    """A version of a model that is known to exist."""
    return next(version for version in model.versions if version.version == number)


def job_text(client: MlflowClient, store: str, version: ModelVersion) -> str:
    """The resolved job file of the training: from its run or, if that is gone, from the version.

    Raises:
        RegistryError: if neither has it.
    """
    from mlflow.exceptions import MlflowException

    with suppress(MlflowException, OSError), TemporaryDirectory() as folder:
        return Path(client.download_artifacts(version.run_id or "", JOB, folder)).read_text(encoding="utf-8")
    with suppress(MlflowException, OSError):
        beside = fetch(client.get_model_version_download_uri(version.name, version.version), store)
        return (beside / JOB).read_text(encoding="utf-8")
    raise RegistryError(f"{version.name}/{version.version}: no job file can be had from it or its run")


def training_of(client: MlflowClient, store: str, version: ModelVersion) -> TrainJob:
    """The job that trained a version.

    Raises:
        RegistryError: if its job file is not there, or not one that this release understands.
    """
    from rsrnet_platform import spec, strict_yaml

    text = job_text(client, store, version)
    where = f"{version.name}/{version.version}: its job file"
    try:
        job = spec.parse(strict_yaml.read(text))
    except JobError as error:
        problems = "; ".join(map(str, error.problems))
        raise RegistryError(f"{where} is not one of this release: {problems}") from error
    if not isinstance(job, spec.TrainJob):
        raise RegistryError(f"{where} is of kind {job.kind}, not of a training")
    return job


def settings_of(client: MlflowClient, store: str, version: ModelVersion) -> dict[str, Any] | None:
    """The settings of the training by dotted path; None if its job file is not there or not understood."""
    from rsrnet_platform import spec

    try:
        return spec.flatten(training_of(client, store, version))
    except RegistryError:
        return None


def _model(client: MlflowClient, model: RegisteredModel) -> Model:
    events = history.known(model)
    champion = history.champion_number(model)
    versions = [_registered(version, champion, events) for version in versions_of(client, model.name)]
    versions.sort(key=lambda version: -version.version)
    return Model(model.name, versions, events[::-1])


def _registered(version: ModelVersion, champion: int | None, events: Sequence[Event]) -> Registered:
    tags, number = version.tags, int(version.version)
    before = tags.get(promotion.BEFORE, "")
    return Registered(
        name=version.name,
        version=number,
        uri=f"models:/{version.name}/{number}",
        champion=number == champion,
        created=datetime.fromtimestamp(version.creation_timestamp / 1000, UTC).isoformat(timespec="seconds"),
        run_id=version.run_id or "",
        why=_why(number, number == champion, tags, events),
        promoted=tags[promotion.PROMOTED] == "true" if promotion.PROMOTED in tags else None,
        champion_before=int(before) if before.isdecimal() else None,
        difference=number_in(tags.get(promotion.DIFFERENCE)),
        spread=number_in(tags.get(promotion.SPREAD)),
        val=_scores(tags, "val"),
        test=_scores(tags, "test"),
        data={key: tags[key] for key in DATA if key in tags},
        code={key: tags[key] for key in CODE if key in tags},
        tested={key: tags[key] for key in TEST if key in tags},
    )


def _why(number: int, champion: bool, tags: Mapping[str, str], events: Sequence[Event]) -> str:
    """The decision on a version, unless the alias came to it or left it in another way since."""
    if champion and events:
        return events[-1].reason
    if champion and tags.get(promotion.PROMOTED) != "true":
        return "made champion without rsrnet"
    decided = int(number_in(tags.get(promotion.CHANGES)) or 0)
    for event in reversed(events):
        if event.number <= decided:
            break
        if number in (event.version, event.before) and event.how in ("rollback", "elsewhere"):
            return event.reason
        if event.version == number:
            break
    return tags.get(promotion.REASON, "")


def _scores(tags: Mapping[str, str], split: str) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for key, text in tags.items():
        match = _SCORE.fullmatch(key)
        if match is None or match[1] != split or match[2] in _MASKS:
            continue
        value = number_in(text)
        if value is not None:
            found.setdefault(match[2] or ALL, {})[match[3]] = value
    return dict(sorted(found.items(), key=lambda item: (item[0].startswith(ALL), item[0])))


def number_in(text: str | None) -> float | None:
    """A number in a tag; None if there is none, as for NaN, which JSON does not know."""
    try:
        value = float(text or "nan")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
