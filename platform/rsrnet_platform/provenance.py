"""What a run stands on: data, code, Ray job."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import rsrnet
from rsrnet_platform.runs import Data

_COMMIT, _DIRTY = "RSRNET_GIT_COMMIT", "RSRNET_GIT_DIRTY"
"""Environment of a submitted job: an uploaded working directory has no `.git`."""


def tags(data: Data) -> dict[str, str]:
    """Tags of an MLflow run and of what it registers."""
    known = {
        "dataset_fingerprint": data.fingerprint,
        "validation_fingerprint": data.val_fingerprint,
        "rsrnet_version": rsrnet.__version__,
    }
    code = environment_of_code() or os.environ
    known["mlflow.source.git.commit"] = code.get(_COMMIT, "unknown")
    if _DIRTY in code:
        known["git_dirty"] = code[_DIRTY]
    if job_id := _ray_job():
        known["ray_job_id"] = job_id
    return known


def environment_of_code() -> dict[str, str]:
    """Environment by which a copy of this code without its `.git` knows its commit; empty: it has none here either."""
    commit = _git("rev-parse", "HEAD")
    return {_COMMIT: commit, _DIRTY: str(bool(_git("status", "--porcelain"))).lower()} if commit else {}


def _git(*arguments: str) -> str:
    """What git says about this code; nothing where it is no checkout."""
    folder = Path(__file__).parent
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _ray_job() -> str | None:
    """The id of a submitted job (``raysubmit_...``), else Ray's number of this program."""
    import ray

    if not ray.is_initialized():
        return None
    config = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    submitted = config.get("metadata", {}).get("job_submission_id")
    return submitted or ray.get_runtime_context().get_job_id()
