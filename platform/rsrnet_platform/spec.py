"""Job files: what a run is told, read from YAML, checked as a whole and written back fully resolved.

A job is a frozen dataclass that composes the configurations of the parts it drives, so each default stands
once, beside its owner. A new kind of job is a dataclass in `KINDS` here and a function in `cli.RUNNERS`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from dataclasses import fields as fields_of
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeAlias

import yaml

from rsrnet.config import ConfigError, Problem, require
from rsrnet.data.config import DataConfig
from rsrnet.loss_config import LossConfig
from rsrnet.model.config import ABLATIONS, RSRNetConfig
from rsrnet.recipe import FitConfig
from rsrnet.uris import is_uri
from rsrnet_platform import strict_yaml
from rsrnet_platform.ablation import rows as ablation_rows
from rsrnet_platform.checking import build, key_of, leaves
from rsrnet_platform.cluster import ClusterConfig
from rsrnet_platform.errors import JobError
from rsrnet_platform.search import space
from rsrnet_platform.search.config import SearchConfig
from rsrnet_platform.store import TrackingConfig

FIRST_LINE = "#!/usr/bin/env -S PYTHONPATH=platform:${PYTHONPATH} python -m rsrnet_platform"
"""Makes a job file with the run bit a program, in a checkout or an uploaded copy of one, installed or not."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NAME_RULE = "letters, digits, dots, dashes and underscores, a letter or digit first"


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """`kind: train`: train a network, track the run, register its best checkpoint."""

    kind: Literal["train"] = "train"

    name: str
    """Identity of the run: the same name goes on with the same run, a new run needs a new one."""

    description: str = ""
    """One line for people; recorded with the run."""

    data: DataConfig
    model: RSRNetConfig = field(default_factory=RSRNetConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    storage: str = "~/rsrnet/runs"
    """Folder of checkpoints and run states, one folder a run inside; every worker must reach it."""

    def __post_init__(self) -> None:
        _require_name_and_storage(self)
        if self.fit.batch_size < self.cluster.workers:
            allowed = f"at least one image for each of the {self.cluster.workers} workers"
            raise ConfigError([Problem("fit.batch_size", self.fit.batch_size, allowed)])


@dataclass(frozen=True, kw_only=True)
class TuneJob:
    """`kind: tune`: search settings of a training by cross-validation, then train with the best.

    Everything but `space`, `search` and `refit` is the training's, as in `kind: train`; each trial changes the
    searched settings of it.
    """

    kind: Literal["tune"] = "tune"

    name: str
    """Identity of the search: the same name goes on with the same search, a new one needs a new name."""

    description: str = ""
    """One line for people; recorded with the search."""

    space: dict[str, Any]
    """What varies, by dotted path: `grid`, `choice`, `uniform`, `loguniform` or `randint`."""

    search: SearchConfig

    refit: bool = True
    """Whether to train with the best point on the whole training list afterwards and register the result; it becomes
    champion only if it beats the current one."""

    data: DataConfig
    model: RSRNetConfig = field(default_factory=RSRNetConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    storage: str = "~/rsrnet/runs"
    """Folder of searches and runs; every worker must reach it."""

    def __post_init__(self) -> None:
        _require_name_and_storage(self)
        wrong = []
        if self.cluster.workers == 0:
            wrong.append(Problem("cluster.workers", 0, "at least 1: the trials of a search run on Ray"))
        base = _training_values(self)
        if self.search.folds < 2:
            wrong.append(Problem("search.folds", self.search.folds, "a whole number, at least 2"))
        rules = _trial_rules(base)
        known = [path for path, _ in leaves(TrainJob)]
        wrong += build(TrainJob, base)[1] or space.problems(self.space, known, rules)
        if not wrong:
            domains = space.parse(self.space)
            wrong = space.misfits(domains, self.search.algorithm)
            wrong += space.clashes(domains, paper_values(domains), rules)
        if wrong:
            raise ConfigError(wrong)


@dataclass(frozen=True, kw_only=True)
class ScoringJob:
    """What the jobs have in common that score a model on a list of composites, image by image."""

    kind: str

    name: str
    """Identity of the job: one that was killed goes on when it is started again."""

    description: str = ""
    """One line for people; recorded with the run."""

    model: str
    """Registered model, such as `models:/rsrnet@champion`, a run, `runs:/ID`, or the folder of a checkpoint."""

    data: DataConfig

    split: Literal["train", "val", "test"] = "test"
    """Which of the lists in `data` to score; images that a training held out are `val`."""

    seed: int = 42
    """Seed of the training: it chose the images that were held out, where `data.val` is none."""

    batch_size: int = 16
    """Images that the network sees at once, on each worker."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the network; bfloat16 is autocast, masks and scores stay in float32."""

    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    storage: str = "~/rsrnet/runs"
    """Folder of the results, one folder a name inside."""

    pictures: int = 6
    """How many images to draw in each picture of examples; 0: no such picture."""

    def __post_init__(self) -> None:
        _require_name_and_storage(self)
        require(
            self,
            model=(bool(self.model), "a model URI or a folder"),
            split=(self.split in ("train", "val", "test"), "train, val or test"),
            seed=(0 <= self.seed < 2**32, "a whole number from 0 to 2**32 - 1"),
            batch_size=(self.batch_size >= 1, "a whole number, at least 1"),
            precision=(self.precision in ("float32", "bfloat16"), "float32 or bfloat16"),
            pictures=(self.pictures >= 0, "a whole number, at least 0"),
        )


@dataclass(frozen=True, kw_only=True)
class EvaluateJob(ScoringJob):
    """`kind: evaluate`: every mask, protocol and size, beside the paper's numbers."""

    kind: Literal["evaluate"] = "evaluate"

    native: bool = True
    """Whether to score at the images' own sizes too, the masks enlarged bilinearly; the paper does not."""


@dataclass(frozen=True, kw_only=True)
class IterationsJob(ScoringJob):
    """`kind: iterations`: what more or fewer iterations than the trained K are worth, and early exit."""

    kind: Literal["iterations"] = "iterations"

    iterations: int = 24
    """Largest K to score, at least that of the training (paper: 12)."""

    tolerances: tuple[float, ...] = (0.3, 0.2, 0.1, 0.05, 0.02)
    """Early exits to compare: an image is done when no pixel of its mask moves by more than this. Empty: none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self,
            iterations=(self.iterations >= 1, "a whole number, at least 1"),
            tolerances=(
                all(0 < tolerance < 1 for tolerance in self.tolerances)
                and len(set(self.tolerances)) == len(self.tolerances),
                "different numbers between 0 and 1",
            ),
        )


@dataclass(frozen=True, kw_only=True)
class RobustnessJob(ScoringJob):
    """`kind: robustness`: the scores again under six corruptions of the images, at five strengths each."""

    kind: Literal["robustness"] = "robustness"

    pictures: int = 2
    """Images of which to draw a sheet with every corruption; 0: none."""


@dataclass(frozen=True, kw_only=True)
class AblateJob:
    """`kind: ablate`: train every row of the paper's Table 2 alike, test each, print Tables 2 and 3 beside the paper's.

    Everything but `rows`, `repeats` and `concurrent` is the training's of the full model, as in `kind: train`; each
    row changes what Table 2 says, and nothing else. The models stay in the folder of the ablation; none is registered.
    """

    kind: Literal["ablate"] = "ablate"

    name: str
    """Identity of the ablation: the same name goes on with the same ablation, a new one needs a new name."""

    description: str = ""
    """One line for people; recorded with the ablation."""

    rows: tuple[str, ...] = tuple(ABLATIONS)
    """Rows of Table 2 to train; those of an earlier start stay."""

    repeats: int = 1
    """Trainings of each row, with the seeds `fit.seed`, `fit.seed` + 1, ...; all hold out the same images. More of
    them continue a finished ablation."""

    concurrent: int | None = None
    """Trainings at once at most; null: as many as the cluster has room for."""

    data: DataConfig
    model: RSRNetConfig = field(default_factory=RSRNetConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    storage: str = "~/rsrnet/runs"
    """Folder of ablations and runs; every worker must reach it."""

    def __post_init__(self) -> None:
        _require_name_and_storage(self)
        wrong = ablation_rows.problems(self.rows, self.model)
        if not 1 <= self.repeats <= 2**32 - self.fit.seed:
            wrong.append(Problem("repeats", self.repeats, "a whole number, at least 1"))
        if self.concurrent is not None and self.concurrent < 1:
            wrong.append(Problem("concurrent", self.concurrent, "a whole number, at least 1, or null"))
        if self.cluster.workers == 0:
            wrong.append(Problem("cluster.workers", 0, "at least 1: the trainings of an ablation run on Ray"))
        wrong += build(TrainJob, _training_values(self))[1]
        if wrong:
            raise ConfigError(wrong)

    @property
    def search(self) -> SearchConfig:
        """How its trials run: each to the end, on one split for all, judged by the training's validation images."""
        return SearchConfig(folds=1, seed=self.fit.seed, concurrent=self.concurrent)


@dataclass(frozen=True, kw_only=True)
class PredictJob:
    """`kind: predict`: masks, overlays and a table for a folder of images."""

    kind: Literal["predict"] = "predict"

    name: str
    """What the job is called."""

    model: str
    """Registered model, such as `models:/rsrnet@champion`, or the folder of a checkpoint."""

    input: str
    """Folder of the images."""

    output: str
    """Folder for the masks, the overlays and the table."""

    threshold: float = 0.5
    """Probability from which a pixel counts as inharmonious (paper: 0.5)."""

    overlays: bool = True
    """Whether to draw each mask over its image."""

    batch_size: int = 8
    """Images a worker holds at once."""

    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def __post_init__(self) -> None:
        require(
            self,
            name=(bool(_NAME.fullmatch(self.name)), _NAME_RULE),
            model=(bool(self.model), "a model URI or a folder"),
            input=(bool(self.input), "a folder"),
            output=(bool(self.output), "a folder"),
            threshold=(0 < self.threshold < 1, "a number between 0 and 1"),
            batch_size=(self.batch_size >= 1, "a whole number, at least 1"),
        )


SearchJob: TypeAlias = TuneJob | AblateJob
"""Jobs of many trainings, each the trial of a point."""

RunJob: TypeAlias = TrainJob | SearchJob | ScoringJob
"""Jobs that have a folder in `storage`, and go on there when they are started again."""

Job: TypeAlias = RunJob | PredictJob

KINDS: dict[str, type[Job]] = {
    "train": TrainJob,
    "tune": TuneJob,
    "evaluate": EvaluateJob,
    "iterations": IterationsJob,
    "robustness": RobustnessJob,
    "ablate": AblateJob,
    "predict": PredictJob,
}
"""The job of each `kind:`."""


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
    given = _read(Path(path))
    problems = [problem for text in overrides if (problem := _override(given, text))]
    return _parse(given, str(path), problems)


def parse(given: Mapping[str, Any]) -> Job:
    """Make a job of nested mappings, as `load` does of a file's.

    Raises:
        JobError: naming all problems at once.
    """
    return _parse(given, "job", [])


def to_yaml(job: Job) -> str:
    """Write a job with every value it has; `load` reads an equal job back, and the file can be run."""
    return f"{FIRST_LINE}\n{strict_yaml.write(_plain(job))}"


def flatten(job: Job) -> dict[str, Any]:
    """Every value of a job by its dotted path, such as `loss.lambda`; tuples are lists."""
    return dict(_leaves(_plain(job)))


def training(job: SearchJob, point: Mapping[str, Any], name: str) -> TrainJob:
    """The training job that a point of a search stands for.

    Args:
        job: the search.
        point: value of each searched setting by its dotted path, and of an ablation its row of Table 2.
        name: of the training.

    Raises:
        ConfigError: if the values, each allowed by itself, exclude each other.
    """
    built, found = build(TrainJob, _at(_training_values(job) | {"name": name}, ablation_rows.settings(point)))
    if built is None:
        raise ConfigError(found)
    return built


def trial(job: SearchJob, index: int, point: Mapping[str, Any]) -> TrainJob:
    """The training job of a trial, which has a name of its own; arguments as in :func:`training`."""
    own = ablation_rows.name(point) if isinstance(job, AblateJob) else f"{index:04d}"
    return training(job, point, f"{job.name}-{own}")


def paper_values(paths: Iterable[str]) -> dict[str, Any]:
    """The paper's value of each setting, by its dotted path; lists, not tuples."""
    paper = flatten(TrainJob(name="paper", data=DataConfig(root="iHarmony4")))
    return {path: paper[path] for path in paths}


def _require_name_and_storage(job: RunJob) -> None:
    require(
        job,
        name=(bool(_NAME.fullmatch(job.name)), _NAME_RULE),
        storage=(bool(job.storage) and "://" not in job.storage, "a folder that every worker reaches"),
    )


def _training_values(job: SearchJob) -> dict[str, Any]:
    """The values of a search's training job, as a job file would give them."""
    declared = {key_of(field.name) for field in fields_of(TrainJob)}
    return {key: value for key, value in _plain(job).items() if key in declared} | {"kind": "train"}


def _trial_rules(base: dict[str, Any]) -> space.Try:
    return lambda point: build(TrainJob, _at(base, point))[1]


def _at(values: dict[str, Any], point: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of nested values with those of a point."""
    for path, value in point.items():
        values = _changed(values, path, value)
    return values


def _changed(values: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of nested values with another one at a dotted path."""
    key, _, rest = path.partition(".")
    return {**values, key: _changed(values[key], rest, value) if rest else value}


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
    job, found = build(KINDS[kind], given)
    if job is None or problems:
        raise JobError(source, [*problems, *found])
    if re.search(r"//[^/]*@", job.tracking.uri or ""):
        # Without the value: a job file is recorded with every run, and this message in logs.
        remedy = "a name and password belong into $MLFLOW_TRACKING_USERNAME and $MLFLOW_TRACKING_PASSWORD"
        raise JobError(source, [f"tracking.uri: {remedy}, never into a job file"])
    return _with_absolute_paths(job)


def _with_absolute_paths(job: Job) -> Job:
    if isinstance(job, PredictJob):
        return replace(
            job, model=_absolute(job.model), input=_absolute(job.input), output=_absolute(job.output)
        )
    if isinstance(job, ScoringJob):
        return replace(
            job,
            model=_absolute(job.model),
            data=replace(job.data, root=_absolute(job.data.root)),
            storage=_absolute(job.storage),
        )
    changes: dict[str, Any] = {
        "data": replace(job.data, root=_absolute(job.data.root)),
        "fit": replace(job.fit, encoder_weights=_absolute_weights(job.fit.encoder_weights)),
        "storage": _absolute(job.storage),
    }
    if isinstance(job, TuneJob) and (searched := job.space.get("fit.encoder_weights")):
        ((kind, values),) = searched.items()
        weights = {kind: [_absolute_weights(value) for value in values]}
        changes["space"] = job.space | {"fit.encoder_weights": weights}
    return replace(job, **changes)


def _absolute_weights(weights: str) -> str:
    return weights if weights in ("imagenet", "none") else _absolute(weights)


def _absolute(path: str) -> str:
    """An absolute path; a URI (`s3://bucket/x`, `models:/rsrnet@champion`) stays what it is."""
    if is_uri(path):
        return path
    try:
        return str(Path.cwd() / Path(path).expanduser())
    except RuntimeError:
        raise JobError("job", [f"{path}: there is no such user; write the path from the root on"]) from None


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {key_of(field.name): _plain(getattr(value, field.name)) for field in fields_of(value)}
    return list(value) if isinstance(value, tuple) else value


def _leaves(given: Mapping[str, Any], prefix: str = "") -> Any:
    for key, value in given.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
