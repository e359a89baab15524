"""`fit.compile`: the same steps and gradients."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

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

needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None,
    reason="no C++ compiler is installed (Debian: apt-get install g++)",
)


@pytest.fixture(autouse=True)
def _nothing_compiled() -> Iterator[None]:
    """Nor is anything computed uncompiled without a word, as torch.compile does with a function's ninth variant."""
    torch.compiler.reset()
    counters.clear()
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        yield


def compilations() -> int:
    """Parts of networks that were compiled since the test began."""
    return counters["stats"]["unique_graphs"]


@needs_compiler
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
    assert compilations() == 2 * parts  # the same once more, and no size of batch besides


@needs_compiler
@pytest.mark.slow
def test_a_list_shorter_than_a_batch_is_compiled_too(squares, tiny, recipe) -> None:
    run(start(tiny, replace(recipe, batch_size=50, epochs=1, compile=True)), squares)
    assert compilations() > 0


def _train_and_count(rank: int, world_size: int, root: Path, config, recipe, out: Path) -> None:
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        train_on_rank(rank, world_size, root, config, recipe, out, False)
    assert (compilations() > 0) == recipe.compile


@needs_compiler
@pytest.mark.slow
def test_two_ranks_compile_alike(squares, tiny, recipe, tmp_path) -> None:
    """With a network of several megabytes: DDP reduces its gradients in more than one part."""
    config = replace(tiny, width=24)
    assert sum(each.numel() for each in RSRNet(config).parameters()) > 2**20
    for compiled in (False, True):
        wanted = replace(recipe, epochs=2, compile=compiled)
        spawn(_train_and_count, 2, squares, config, wanted, tmp_path / str(compiled))
    plain, found = (checkpoint.load_training(tmp_path / name)["history"] for name in ("False", "True"))
    for key in ("train/loss", "train/loss_final"):
        assert [each[key] for each in found] == pytest.approx([each[key] for each in plain], rel=1e-3)


def test_a_copy_of_a_compiled_network_computes_with_its_own_parameters(tiny) -> None:
    model = RSRNet(tiny).eval()
    compile_parts(model)
    images = torch.rand(1, 3, 32, 32)
    with eager(), torch.no_grad():
        before = model(images).m_rsr
        copied = copy.deepcopy(model)
        for parameter in model.parameters():
            parameter.zero_()
        assert torch.equal(copied(images).m_rsr, before)
        assert not torch.equal(model(images).m_rsr, before)


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


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("row", list(ABLATIONS))
def test_every_row_of_the_ablations_compiles_to_the_same_gradients(tiny, row) -> None:
    found, plain = both_gradients(ablation(row, tiny))
    assert distance(found, plain) < 1e-3


@needs_compiler
@pytest.mark.slow
def test_compiled_bfloat16_is_as_near_to_float32_as_it_is_uncompiled(tiny) -> None:
    found, plain = both_gradients(tiny, "bfloat16")
    torch.manual_seed(0)
    exact = gradient(RSRNet(tiny))
    assert distance(found, exact) < 1.5 * distance(plain, exact)


def distance(found: Tensor, expected: Tensor) -> float:
    """Relative to the length of what is expected."""
    return ((found - expected).norm() / expected.norm()).item()
