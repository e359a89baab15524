"""What a job needs of its surroundings; without a job, what the defaults of job files do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from rsrnet.data.config import DataConfig
from rsrnet.recipe import FitConfig
from rsrnet_platform import spec
from rsrnet_platform.cluster import PoolConfig
from rsrnet_platform.store import TrackingConfig

_STORAGE = "~/rsrnet/runs"
_DATA = "~/rsrnet/data/iHarmony4"


@dataclass(frozen=True)
class Needs:
    """What is looked at, whatever the kind of the job."""

    cluster: PoolConfig
    tracking: TrackingConfig

    storage: str
    """Folder or URI that the workers write."""

    data: DataConfig | None = None
    """None: the job reads no dataset."""

    lists: tuple[str, ...] = ()
    """What the job reads of the dataset: `train` (with what it validates on) and `test`."""

    seed: int = 42
    """Of the training: it chooses what is held out."""

    input: str | None = None
    """Images to predict."""

    model: str | None = None
    """Model that the job uses."""

    encoder: tuple[str, int] | None = None
    """Weights that the encoder starts from, and its depth."""

    logs: bool = True
    """Whether the job writes to the MLflow store."""

    registers: bool = True
    """Whether it registers a model."""

    certain: bool = True
    """Whether there is a job; without one, a dataset that is not there is no problem."""


def of(job: spec.Job | None) -> Needs:
    """What a job needs; None: the defaults."""
    if job is None:
        data, storage = DataConfig(root=str(Path(_DATA).expanduser())), str(Path(_STORAGE).expanduser())
        return Needs(PoolConfig(), TrackingConfig(), storage, data, ("train",), certain=False)
    if isinstance(job, spec.PredictJob):
        return Needs(
            job.cluster,
            job.tracking,
            job.output,
            input=job.input,
            model=job.model,
            logs=False,
            registers=False,
        )
    if isinstance(job, spec.ScoringJob):
        lists = ("test" if job.split == "test" else "train",)
        return replace(
            _of_run(job), lists=lists, seed=job.seed, model=job.model, registers=False, encoder=None
        )
    registers = job.tracking.model is not None and not isinstance(job, spec.AblateJob)
    needs = replace(
        _of_run(job), seed=job.fit.seed, registers=registers, encoder=_encoder(job.fit, job.model.depth)
    )
    return replace(needs, lists=("train", "test")) if isinstance(job, spec.AblateJob) else needs


def _of_run(job: spec.RunJob) -> Needs:
    return Needs(job.cluster, job.tracking, job.storage, job.data, ("train",))


def _encoder(fit: FitConfig, depth: int) -> tuple[str, int] | None:
    return None if fit.encoder_weights == "none" else (fit.encoder_weights, depth)
