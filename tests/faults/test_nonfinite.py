"""A loss that is no number: the training stops with its batch named and saved, or leaves the step out and counts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from rsrnet.data.iharmony4 import IHarmony4
from rsrnet.data.transforms import TrainTransform
from rsrnet.nonfinite import DivergedError
from rsrnet_platform import train
from tests.faults.processes import require_no_orphans
from tests.platform.conftest import the_run


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.ray)])
def test_the_batch_is_named_and_saved(make_job, squares, request, record_property, workers) -> None:
    if workers:
        request.getfixturevalue("ray_cluster")
    # So large a step that the next loss is no number.
    job = make_job(fit__lr="1e30", cluster__workers=workers)
    with pytest.raises(DivergedError, match=r"lower fit.lr") as error:
        train.run(job, fresh=False)
    message = str(error.value)
    step, named, saved = re.search(
        r"epoch 1, step (\d+) is nan; its batch holds (.*), and was saved as (\S+\.safetensors)\.", message
    ).groups()
    with safe_open(saved, "pt") as file:
        assert file.metadata()["paths"].split("\n") == named.split(", ")
        image, mask = file.get_tensor("image"), file.get_tensor("mask")
    assert image.shape == (len(named.split(", ")), 3, 32, 32)
    assert mask.shape == (len(named.split(", ")), 1, 32, 32)
    assert all((squares / path).is_file() for path in named.split(", "))
    assert the_run(job).info.status == "FAILED"
    require_no_orphans()
    record_property(
        "fault", f"loss becomes NaN (stop), {'on 2 Ray workers' if workers else 'in one process'}"
    )
    record_property(
        "outcome", f"stops at step {step} without taking it; the batch's images are named and saved"
    )


def test_the_step_is_left_out_and_counted(make_job, history, monkeypatch, record_property) -> None:
    load = IHarmony4.__getitem__

    def spoil_one(self, index):
        item = load(self, index)
        if isinstance(self.transform, TrainTransform) and item["index"] == 3:
            item["image"] = torch.full_like(item["image"], float("nan"))
        return item

    monkeypatch.setattr(IHarmony4, "__getitem__", spoil_one)
    job = make_job(fit__on_nonfinite="skip", fit__epochs=4)
    train.run(job, fresh=False)
    assert history(job, "train/skipped_steps") == [(epoch, 1) for epoch in (1, 2, 3, 4)]
    assert [step for step, _ in history(job, "train/loss")] == [1, 2, 3, 4]
    assert the_run(job).info.status == "FINISHED"
    assert not list(Path(job.storage).rglob("bad_batch*"))
    record_property("fault", "loss becomes NaN (skip)")
    record_property("outcome", "1 of 3 steps an epoch left out and counted; 4 of 4 epochs")
