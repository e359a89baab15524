"""Job files: what a run is told, read from YAML, checked as a whole and written back fully resolved.

What a file may hold is declared in :mod:`rsrnet_platform.jobs`; its names are at hand here too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from rsrnet.config import Problem
from rsrnet.data.config import DataConfig
from rsrnet.uris import is_uri
from rsrnet_platform import strict_yaml
from rsrnet_platform.checking import build
from rsrnet_platform.errors import JobError
from rsrnet_platform.jobs import (
    KINDS,
    AblateJob,
    EvaluateJob,
    IterationsJob,
    Job,
    PredictJob,
    RobustnessJob,
    RunJob,
    ScoringJob,
    SearchJob,
    TrainJob,
    TuneJob,
    flatten,
    paper_values,
    plain,
    training,
    trial,
)
from rsrnet_platform.secrecy import secrets_in

__all__ = [
    "FIRST_LINE",
    "KINDS",
    "AblateJob",
    "EvaluateJob",
    "IterationsJob",
    "Job",
    "PredictJob",
    "RobustnessJob",
    "RunJob",
    "ScoringJob",
    "SearchJob",
    "TrainJob",
    "TuneJob",
    "flatten",
    "load",
    "load_for_elsewhere",
    "paper_values",
    "parse",
    "to_yaml",
    "training",
    "trial",
]

FIRST_LINE = "#!/usr/bin/env -S PYTHONPATH=platform:${PYTHONPATH} python -m rsrnet_platform"
"""Makes a job file with the run bit a program, in a checkout or an uploaded copy of one, installed or not."""


def load(path: str | Path, overrides: Sequence[str] = ()) -> Job:
    """Read a job file.

    Args:
        path: the YAML file.
        overrides: `dotted.path=value` each, the value in YAML; they win over the file.

    Returns:
        The job, with every path absolute (`~` is the home, the rest is relative to the current directory).

    Raises:
        JobError: if the file cannot be read or holds what a job cannot hold; it names all problems at once.
    """
    return _with_absolute_paths(_load(path, overrides))


def load_for_elsewhere(path: str | Path, overrides: Sequence[str] = ()) -> Job:
    """Read a job file that another machine is to run.

    Args:
        path: as in :func:`load`.
        overrides: as in :func:`load`.

    Returns:
        The job, whose paths are URIs or begin with `/` or `~`, which means the home on that machine.

    Raises:
        JobError: as :func:`load`, and if a path is relative: it would mean a folder of this machine.
    """
    job = _load(path, overrides)
    relative: list[Problem | str] = []

    def check(key: str, value: str) -> str:
        if not (is_uri(value) or value.startswith(("/", "~"))):
            allowed = "a path on the machines of the cluster, from / or ~ on, or a URI"
            relative.append(Problem(key, value, allowed))
        return value

    _with_paths(job, check)
    if job.tracking.uri is not None:
        check("tracking.uri", job.tracking.uri.removeprefix("sqlite:///"))
    if relative:
        raise JobError(str(path), relative)
    return job


def _load(path: str | Path, overrides: Sequence[str]) -> Job:
    given = _read(Path(path))
    problems = [problem for text in overrides if (problem := _override(given, text))]
    return _parse(given, str(path), problems)


def parse(given: Mapping[str, Any]) -> Job:
    """Make a job of nested mappings, as `load` does of a file's.

    Raises:
        JobError: naming all problems at once.
    """
    return _with_absolute_paths(_parse(given, "job", []))


def to_yaml(job: Job) -> str:
    """Write a job with every value it has; `load` reads an equal job back, and the file can be run."""
    return f"{FIRST_LINE}\n{strict_yaml.write(plain(job))}"


def _read(path: Path) -> dict[str, Any]:
    try:
        given = strict_yaml.read(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise JobError(str(path), ["there is no such file"]) from None
    except OSError as error:
        raise JobError(str(path), [f"cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise JobError(str(path), ["is not text in UTF-8"]) from None
    except yaml.YAMLError as error:
        raise JobError(str(path), [f"is not valid YAML: {_where(error)}"]) from None
    if given is None:
        raise JobError(str(path), ["is empty; a job needs at least `kind:` and `name:`"])
    if not isinstance(given, dict):
        raise JobError(str(path), [f"must be keys and values, and is {type(given).__name__}: {given!r:.60}"])
    return given


def _where(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return str(error)
    return f"line {mark.line + 1}, column {mark.column + 1}: {getattr(error, 'problem', error)}"


def _override(given: dict[str, Any], text: str) -> str | None:
    """Apply one `a.b=c`; returns what is wrong with its form, if anything."""
    path, equals, value = text.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        return f"--set {text}: must have the form path.to.key=value"
    if keys[0] == "space" and len(keys) > 1:
        keys = ["space", ".".join(keys[1:])]  # the keys of a space are paths themselves
    section = given
    for key in keys[:-1]:
        if not isinstance(section.get(key), dict):
            section[key] = {}
        section = section[key]
    try:
        section[keys[-1]] = strict_yaml.read(value)
    except yaml.YAMLError as error:
        return f"--set {text}: the value is not valid YAML: {_where(error)}"
    return None


def _parse(given: Mapping[str, Any], source: str, problems: Sequence[Problem | str]) -> Job:
    kind = given.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        near = get_close_matches(str(kind), KINDS, n=1)
        allowed = f"one of {', '.join(KINDS)}" + (f"; the nearest is {near[0]}" if near else "")
        raise JobError(source, [*problems, Problem("kind", kind, allowed)])
    if secret := secrets_in(given):
        raise JobError(source, secret)  # before other problems, which are told with their values
    job, found = build(KINDS[kind], given)
    if job is None or problems:
        raise JobError(source, [*problems, *found])
    return job


def _with_absolute_paths(job: Job) -> Job:
    return _with_paths(job, lambda _, path: _absolute(path))


def _with_paths(job: Job, changed: Callable[[str, str], str]) -> Job:
    """The job with every path replaced by what a function makes of its key and of itself; URIs count as paths."""
    if isinstance(job, PredictJob):
        model, given, output = (changed(key, getattr(job, key)) for key in ("model", "input", "output"))
        return replace(job, model=model, input=given, output=output)
    data = _data_with_paths(job.data, changed)
    if isinstance(job, ScoringJob):
        model, storage = changed("model", job.model), changed("storage", job.storage)
        return replace(job, model=model, data=data, storage=storage)

    def weights(key: str, given: str) -> str:
        return given if given in ("imagenet", "none") else changed(key, given)

    changes: dict[str, Any] = {
        "data": data,
        "fit": replace(job.fit, encoder_weights=weights("fit.encoder_weights", job.fit.encoder_weights)),
        "storage": changed("storage", job.storage),
    }
    if isinstance(job, TuneJob) and (searched := job.space.get("fit.encoder_weights")):
        ((kind, values),) = searched.items()
        among = {kind: [weights("space.fit.encoder_weights", value) for value in values]}
        changes["space"] = job.space | {"fit.encoder_weights": among}
    return replace(job, **changes)


def _data_with_paths(data: DataConfig, changed: Callable[[str, str], str]) -> DataConfig:
    photographs = None if data.photographs is None else changed("data.photographs", data.photographs)
    return replace(data, root=changed("data.root", data.root), photographs=photographs)


def _absolute(path: str) -> str:
    """An absolute path; a URI (`s3://bucket/x`, `models:/rsrnet@champion`) stays what it is."""
    if is_uri(path):
        return path
    try:
        return str(Path.cwd() / Path(path).expanduser())
    except (RuntimeError, ValueError):  # ValueError: a name with a NUL in it
        raise JobError("job", [f"{path}: there is no such user; write the path from the root on"]) from None
