"""`fit.compile`: the same steps and gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from rsrnet import checkpoint
from rsrnet.compilation import compile_parts, eager
from rsrnet.losses import RSRNetLoss
from rsrnet.model.config import ABLATIONS, RSRNetConfig, ablation
from rsrnet.model.network import RSRNet
from rsrnet.validation import autocast
from tests.rsrnet.trainings import losses, run, spawn, start, train_on_rank


@pytest.fixture(autouse=True)
def _nothing_compiled() -> None:
    torch.compiler.reset()
    counters.clear()


def compilations() -> int:
    """Parts of networks that were compiled since the test began."""
    return counters["stats"]["unique_graphs"]


@pytest.mark.slow
@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_compiled_training_takes_the_same_steps(squares, tiny, recipe, checkpointed) -> None:
    """The last batch of an epoch is smaller here; it and the validation are not compiled for themselves."""
    recipe = replace(recipe, batch_size=5, checkpoint_iterations=checkpointed)
    plain = run(start(tiny, recipe), squares)
    assert compilations() == 0
    compiled = run(start(tiny, replace(recipe, compile=True)), squares)
    parts = compilations()
    assert parts > 0
    assert losses(compiled) == pytest.approx(losses(plain), rel=1e-4)
    run(start(tiny, replace(recipe, compile=True)), squares)
    assert compilations() <= 2 * parts  # a new network is compiled anew, no size of batch besides


@pytest.mark.slow
def test_two_ranks_compile_alike(squares, tiny, recipe, tmp_path) -> None:
    for compiled in (False, True):
        spawn(
            train_on_rank,
            2,
            squares,
            tiny,
            replace(recipe, compile=compiled),
            tmp_path / str(compiled),
            False,
        )
    plain, found = (checkpoint.load_training(tmp_path / name)["history"] for name in ("False", "True"))
    for key in ("train/loss", "train/loss_final"):
        assert [each[key] for each in found] == pytest.approx([each[key] for each in plain], rel=1e-3)


def gradient(model: RSRNet, precision: str = "float32") -> Tensor:
    """Of the loss with respect to every parameter, one behind the other."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 48, 64, generator=generator)
    target = (torch.rand(2, 1, 48, 64, generator=generator) > 0.7).float()
    with autocast(torch.device("cpu"), precision):
        output = model(images)
    found = torch.autograd.grad(RSRNetLoss()(output, target).total, list(model.parameters()))
    return torch.cat([each.flatten() for each in found])


def both_gradients(config: RSRNetConfig, precision: str = "float32") -> tuple[Tensor, Tensor]:
    """Compiled and not."""
    torch.manual_seed(0)
    model = RSRNet(config)
    compile_parts(model)
    with eager():
        plain = gradient(model, precision)
    assert compilations() == 0
    found = gradient(model, precision)
    assert compilations() > 0
    return found, plain


@pytest.mark.slow
@pytest.mark.parametrize("row", list(ABLATIONS))
def test_every_row_of_the_ablations_compiles_to_the_same_gradients(tiny, row) -> None:
    found, plain = both_gradients(ablation(row, tiny))
    assert distance(found, plain) < 1e-3


@pytest.mark.slow
def test_compiled_bfloat16_is_as_near_to_float32_as_it_is_uncompiled(tiny) -> None:
    found, plain = both_gradients(tiny, "bfloat16")
    torch.manual_seed(0)
    exact = gradient(RSRNet(tiny))
    assert distance(found, exact) < 1.5 * distance(plain, exact)


def distance(found: Tensor, expected: Tensor) -> float:
    """Relative to the length of what is expected."""
    return ((found - expected).norm() / expected.norm()).item()
