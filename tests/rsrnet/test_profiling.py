"""A profile measures the steps that a training would take, and takes the same ones."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch

from rsrnet import engine
from rsrnet.data.iharmony4 import IHarmony4
from rsrnet.data.lists import read_list
from rsrnet.data.loader import loader
from rsrnet.data.sampler import ShardedBatches
from rsrnet.data.transforms import TrainTransform
from rsrnet.model.config import RSRNetConfig
from rsrnet.phases import BACKWARD, COMMUNICATION, DATA, FORWARD, PHASES
from rsrnet.profiling import Profile, Profiler
from rsrnet.recipe import FitConfig
from tests.rsrnet.trainings import spawn, start

WARM_UP, STEPS = 1, 3


def profiled(root: Path, config: RSRNetConfig, recipe: FitConfig, trace: Path, rank: int = 0, ranks: int = 1):
    """The training after its steps, and what was measured."""
    training = start(config, recipe)
    batches = batches_of(root, recipe, rank, ranks)
    with Profiler(training.device, WARM_UP, STEPS, recipe.batch_size, trace) as profiler:
        done = training.run(
            batches,
            batches,
            on_epoch=lambda training: pytest.fail("an epoch ended"),
            on_step=profiler.step_done,
            notice=profiler,
            phases=profiler,
        )
    assert not done
    return training, profiler.result()


def batches_of(root: Path, recipe: FitConfig, rank: int, ranks: int):
    composites = [*read_list(root, "le50_train.txt")] * 3
    order = ShardedBatches(len(composites), recipe.batch_size, rank, ranks, recipe.seed)
    return loader(IHarmony4(root, composites, TrainTransform(32), recipe.seed), order, 0)


class After:
    """Stops a training after some steps, as the profiler does, without measuring."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def step_done(self, progress: engine.Progress) -> None:
        self.left -= 1

    def asked(self) -> bool:
        return self.left <= 1

    def due(self) -> bool:
        return False

    look = due


def test_the_parts_make_up_the_step(squares, tiny, recipe, tmp_path) -> None:
    training, found = profiled(squares, tiny, recipe, tmp_path / "trace.json.gz")
    assert training.partial.step == WARM_UP + STEPS
    assert set(found.phases) == set(PHASES)
    assert found.phases[COMMUNICATION] == 0
    assert found.phases[BACKWARD] > 0 < found.phases[FORWARD]
    assert 0 < found.phases[DATA] < found.seconds
    assert sum(found.phases.values()) + found.rest == pytest.approx(found.seconds)
    # Nothing that takes long is missing among the parts.
    assert found.rest < 0.3 * found.seconds
    assert found.images_per_second == pytest.approx(STEPS * recipe.batch_size / found.seconds)
    assert found.peak > 2**20
    assert found.operators[0].seconds >= found.operators[-1].seconds > 0
    assert any("convolution" in each.name for each in found.operators)


def test_the_trace_names_the_parts(squares, tiny, recipe, tmp_path) -> None:
    profiled(squares, tiny, recipe, tmp_path / "trace.json.gz")
    events = json.loads(gzip.decompress((tmp_path / "trace.json.gz").read_bytes()))["traceEvents"]
    names = [event.get("name") for event in events]
    for part in ("data", "copy", "forward", "loss", "backward", "optimizer"):
        assert names.count(f"rsrnet.{part}") in (STEPS, STEPS + 1), part
    assert "aten::mkldnn_convolution" in names


def test_a_training_that_ends_too_early_has_no_profile(squares, tiny, recipe, tmp_path) -> None:
    training = start(tiny, recipe)
    batches = batches_of(squares, recipe, 0, 1)
    with Profiler(training.device, WARM_UP, 100, 4, tmp_path / "trace.json") as profiler:
        training.run(
            batches,
            batches,
            on_epoch=lambda _: None,
            on_step=profiler.step_done,
            notice=After(WARM_UP),
            phases=profiler,
        )
    with pytest.raises(RuntimeError, match="of 101 steps were trained"):
        profiler.result()


def _profile_on_rank(rank: int, world_size: int, root: Path, config, recipe, out: Path) -> None:
    training, found = profiled(root, config, recipe, out / f"{rank}.json", rank, world_size)
    after = After(WARM_UP + STEPS)
    plain = start(config, recipe)
    batches = batches_of(root, recipe, rank, world_size)
    plain.run(batches, batches, on_epoch=lambda _: None, on_step=after.step_done, notice=after)
    torch.save((found, training.model.state_dict(), plain.model.state_dict()), out / f"{rank}.pt")


def test_two_ranks_wait_for_each_other_and_learn_the_same_as_without_a_profiler(
    squares, tiny, recipe, tmp_path
) -> None:
    spawn(_profile_on_rank, 2, squares, tiny, recipe, tmp_path)
    for rank in (0, 1):
        found, profiled_state, plain_state = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        assert isinstance(found, Profile)
        assert found.ranks == 2
        assert found.phases[COMMUNICATION] > 0
        for name, value in plain_state.items():
            assert torch.equal(profiled_state[name], value), name
