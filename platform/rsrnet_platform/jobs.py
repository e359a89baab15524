"""The jobs that there are: each a frozen dataclass, checked as a whole.

A job composes the configurations of the parts it drives, so each default stands once, beside its owner. A new kind
of job is a dataclass in `KINDS` here and a function in `cli.RUNNERS`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, is_dataclass
from dataclasses import fields as fields_of
from typing import Any, Literal, TypeAlias

from rsrnet.config import ConfigError, Problem, require
from rsrnet.data.config import DataConfig
from rsrnet.loss_config import LossConfig
from rsrnet.model.config import ABLATIONS, RSRNetConfig
from rsrnet.recipe import FitConfig
from rsrnet.uris import is_uri
from rsrnet_platform.ablation import rows as ablation_rows
from rsrnet_platform.checking import build, key_of, leaves
from rsrnet_platform.cluster.config import ClusterConfig, PoolConfig, SearchClusterConfig, TrainClusterConfig
from rsrnet_platform.search import space
from rsrnet_platform.search.config import SearchConfig
from rsrnet_platform.store import TrackingConfig

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
    cluster: TrainClusterConfig = field(default_factory=TrainClusterConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    storage: str = "~/rsrnet/runs"
    """Folder or URI (`s3://bucket/runs`) of checkpoints and run states, one folder a run inside; every worker must
    reach it."""

    def __post_init__(self) -> None:
        _require_name(self)
        # Ray Train writes to any store; a training without it writes files.
        without_ray = self.cluster.workers == 0
        allowed = (
            "a folder, as cluster.workers = 0 trains without Ray" if without_ray else "a folder or a URI"
        )
        require(self, storage=(bool(self.storage) and not (without_ray and is_uri(self.storage)), allowed))
        if self.fit.batch_size < self.cluster.most_workers:
            allowed = f"at least one image for each of the {self.cluster.most_workers} workers"
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
    cluster: SearchClusterConfig = field(default_factory=SearchClusterConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    storage: str = "~/rsrnet/runs"
    """Folder of searches and runs; every worker must reach it."""

    def __post_init__(self) -> None:
        _require_name(self)
        _require_folder(self, "a search adds to its files trial by trial, which no object store can")
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
        _require_name(self)
        _require_folder(
            self, "this program alone writes there, and goes on from files that it adds one by one"
        )
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
    cluster: SearchClusterConfig = field(default_factory=SearchClusterConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    storage: str = "~/rsrnet/runs"
    """Folder of ablations and runs; every worker must reach it."""

    def __post_init__(self) -> None:
        _require_name(self)
        _require_folder(self, "an ablation adds to its files training by training, which no object store can")
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
    """`kind: predict`: a mask for each of many images, and a table of them."""

    kind: Literal["predict"] = "predict"

    name: str
    """What the job is called."""

    description: str = ""
    """One line for people."""

    model: str
    """Registered model, such as `models:/rsrnet@champion`, a run, `runs:/ID`, or the folder of a checkpoint."""

    input: str
    """Folder, pattern (`photos/**/*.jpg`), list, Parquet table or image; a path, or a URI (`s3://bucket/photos`)."""

    output: str
    """Folder or URI for the masks, the overlays and the table; a job started again goes on there."""

    threshold: float = 0.5
    """Probability from which a pixel counts as inharmonious (paper: 0.5)."""

    min_region: float = 0.0
    """Connected regions that take a smaller share of the image, 0 to 1, are dropped; 0: none."""

    flip: bool = False
    """Whether to average each mask with that of the mirrored image; twice the time of the network."""

    window: int | None = None
    """Side of a sliding window in pixels of the image, for images that are larger; null: the whole image alone, as in
    the paper."""

    masks: Literal["binary", "soft"] = "binary"
    """What masks show: `binary` is 255 in the regions and 0 outside, `soft` the probability, of 255."""

    overlays: bool = False
    """Whether to draw each mask over its image too: a picture of its size, which takes longer than all the rest."""

    batch_size: int = 16
    """Images that go through the network together, and are done or not done together."""

    max_error_fraction: float = 0.5
    """Share of images that cannot be read, 0 to 1, above which the job ends: something else is wrong then."""

    cluster: PoolConfig = field(default_factory=PoolConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def __post_init__(self) -> None:
        require(
            self,
            name=(bool(_NAME.fullmatch(self.name)), _NAME_RULE),
            model=(bool(self.model), "a model URI or a folder"),
            input=(bool(self.input), "a folder, a pattern, a list, a table or an image"),
            output=(bool(self.output), "a folder"),
            threshold=(0 < self.threshold < 1, "a number between 0 and 1"),
            min_region=(0 <= self.min_region < 1, "a number from 0 on, below 1"),
            window=(self.window is None or self.window >= 1, "a whole number of pixels, at least 1, or null"),
            masks=(self.masks in ("binary", "soft"), "binary or soft"),
            batch_size=(self.batch_size >= 1, "a whole number, at least 1"),
            max_error_fraction=(0 <= self.max_error_fraction <= 1, "a number from 0 to 1"),
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


def flatten(job: Job) -> dict[str, Any]:
    """Every value of a job by its dotted path, such as `loss.lambda`; tuples are lists."""
    return dict(_leaves(plain(job)))


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


def _require_name(job: Job) -> None:
    require(job, name=(bool(_NAME.fullmatch(job.name)), _NAME_RULE))


def _require_folder(job: SearchJob | ScoringJob, why: str) -> None:
    """Refuse a URI as storage, of jobs that need more of it than an object store has."""
    allowed = f"a folder, and no URI: {why}" if is_uri(job.storage) else "a folder"
    require(job, storage=(bool(job.storage) and not is_uri(job.storage), allowed))


def _training_values(job: SearchJob) -> dict[str, Any]:
    """The values of a search's training job, as a job file would give them."""
    declared = {key_of(field.name) for field in fields_of(TrainJob)}
    return {key: value for key, value in plain(job).items() if key in declared} | {"kind": "train"}


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


def plain(value: Any) -> Any:
    """A configuration as a job file gives it: mappings, lists and plain values."""
    if is_dataclass(value):
        return {key_of(field.name): plain(getattr(value, field.name)) for field in fields_of(value)}
    return list(value) if isinstance(value, tuple) else value


def _leaves(given: Mapping[str, Any], prefix: str = "") -> Any:
    for key, value in given.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
