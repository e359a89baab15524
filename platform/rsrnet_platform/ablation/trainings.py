"""One training of an ablation in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rsrnet import checkpoint
from rsrnet.engine import BEST
from rsrnet.evaluation.ablations import masks_of
from rsrnet.evaluation.columns import METRICS, PAPERS
from rsrnet.evaluation.measure import Row
from rsrnet.validation import MASKS
from rsrnet_platform.ablation.rows import ROW, SEED
from rsrnet_platform.search.trials import Trial


def line(trial: Trial, model: Path, images: Sequence[Row] | None) -> dict[str, Any]:
    """A training as a line of a table; the same columns for all.

    Args:
        trial: in any state.
        model: folder of its best epoch's.
        images: rows of the test images; None: it was not trained to the end.
    """
    card = checkpoint.read_card(model) if images else None
    scores = means(trial.point[ROW], images) if images else {}
    return {
        "row": trial.point[ROW],
        "seed": trial.point[SEED],
        "status": trial.status,
        "error": trial.error,
        "epochs": trial.step,
        "best_epoch": card.epoch if card else None,
        "val_iou": card.metrics[BEST] if card else None,
        **{f"{mask}_{metric}": scores.get(f"{mask}/{metric}") for mask in MASKS for metric in METRICS},
        "seconds": trial.ended - trial.started,
        "model": str(model) if card else None,
        "run_id": trial.run_id,
    }


def means(row: str, images: Sequence[Row]) -> dict[str, float]:
    """Mean scores of each mask that a row has, under the paper's protocol, such as ``m_fnl/iou``."""
    return {
        f"{mask}/{metric}": fmean(image[PAPERS._replace(mask=mask).column(metric)] for image in images)
        for mask in masks_of(row)
        for metric in METRICS
    }
