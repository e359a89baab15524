"""A loss that is no number: the training stops with its batch named and saved, or leaves the step out and counts."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from rsrnet.data.iharmony4 import IHarmony4
from rsrnet.data.transforms import TrainTransform
from rsrnet.losses import LossTerms, RSRNetLoss
from rsrnet.nonfinite import DivergedError
from rsrnet_platform import train
from rsrnet_platform.host import LocalHost
from tests.faults.processes import require_no_orphans, told
from tests.platform.conftest import the_run

STEPS = 3
"""Of an epoch."""


@pytest.fixture
def infinite(monkeypatch) -> None:
    """The loss of the second step of each epoch is infinite."""
    compute = RSRNetLoss.forward
    steps = 0

    def forward(self, output, target) -> LossTerms:
        nonlocal steps
        terms = compute(self, output, target)
        if not torch.is_grad_enabled():
            return terms
        steps += 1
        return replace(terms, total=terms.total * float("inf")) if steps % STEPS == 2 else terms

    monkeypatch.setattr(RSRNetLoss, "forward", forward)


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


def test_a_batch_that_cannot_be_saved_does_not_hide_what_happened(make_job, monkeypatch) -> None:
    def refuse(self, name: str, data: bytes) -> str:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)

    monkeypatch.setattr(LocalHost, "keep", refuse)
    job = make_job(fit__lr="1e30")
    with pytest.raises(DivergedError, match=r"is nan; its batch holds [^,]*.jpg(, [^,]*.jpg)*\.\n"):
        train.run(job, fresh=False)
    assert any("cannot be saved: [Errno 13]" in text for text in told(job))
    assert the_run(job).info.status == "FAILED"


@pytest.mark.usefixtures("infinite")
def test_an_infinite_loss_is_no_number_either(make_job, record_property) -> None:
    job = make_job()
    with pytest.raises(DivergedError, match="epoch 1, step 2 is inf; its batch holds") as error:
        train.run(job, fresh=False)
    with safe_open(re.search(r"saved as (\S+\.safetensors)\.", str(error.value)).group(1), "pt") as file:
        assert file.metadata()["loss"] == "inf"
        assert file.get_tensor("image").isfinite().all()
    assert the_run(job).info.status == "FAILED"
    record_property("fault", "loss becomes Inf (stop), in one process")
    record_property("outcome", "stops at step 2 without taking it; the batch's images are named and saved")


@pytest.mark.usefixtures("infinite")
def test_the_step_of_an_infinite_loss_is_left_out_and_counted(make_job, history, record_property) -> None:
    job = make_job(fit__on_nonfinite="skip")
    train.run(job, fresh=False)
    assert history(job, "train/skipped_steps") == [(epoch, 1) for epoch in (1, 2, 3)]
    losses = history(job, "train/loss")
    assert [step for step, _ in losses] == [1, 2, 3]
    assert all(0 < loss < float("inf") for _, loss in losses)
    assert the_run(job).info.status == "FINISHED"
    record_property("fault", "loss becomes Inf (skip)")
    record_property("outcome", f"1 of {STEPS} steps an epoch left out and counted; 3 of 3 epochs")


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
