"""Loading batches with and without processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rsrnet.data.errors import BadDataError
from rsrnet.data.iharmony4 import IHarmony4
from rsrnet.data.loader import Batch, loader
from rsrnet.data.naming import Composite
from rsrnet.data.sampler import ShardedBatches, evaluation_batches
from rsrnet.data.transforms import EvalTransform, TrainTransform

AddMany = Callable[[int], list[Composite]]


def read_epochs(dataset: IHarmony4, processes: int, epochs: list[int]) -> list[list[Batch]]:
    batches = ShardedBatches(len(dataset), 4, 0, 1, seed=9)
    data = loader(dataset, batches, processes)
    read = []
    for epoch in epochs:
        batches.set_epoch(epoch)
        read.append(list(data))
    return read


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one["index"], other["index"])
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["mask"], other["mask"])


def test_batches_are_the_same_for_any_number_of_processes(tmp_path: Path, add_many: AddMany) -> None:
    dataset = IHarmony4(tmp_path, add_many(10), TrainTransform(32), seed=9)
    none = read_epochs(dataset, 0, [0, 1])
    two = read_epochs(dataset, 2, [0, 1])
    for alone, together in zip(none, two, strict=True):
        assert_same(alone, together)


def test_processes_that_live_on_draw_a_new_augmentation_each_epoch(tmp_path: Path, add_many: AddMany) -> None:
    dataset = IHarmony4(tmp_path, add_many(1), TrainTransform(32))
    (first,), (second,), (again,) = read_epochs(dataset, 1, [0, 1, 0])
    assert not torch.equal(first["image"], second["image"])
    assert torch.equal(first["image"], again["image"])


def test_loader_may_start_at_a_later_epoch(tmp_path: Path, add_many: AddMany) -> None:
    dataset = IHarmony4(tmp_path, add_many(6), TrainTransform(32))
    assert_same(read_epochs(dataset, 0, [2])[0], read_epochs(dataset, 0, [0, 1, 2])[2])


def test_batch_has_the_promised_shapes(tmp_path: Path, add_many: AddMany) -> None:
    dataset = IHarmony4(tmp_path, add_many(5), EvalTransform(32))
    full, short = loader(dataset, evaluation_batches(5, 3, 0, 1), processes=0)
    assert full["image"].shape == (3, 3, 32, 32)
    assert short["mask"].shape == (2, 1, 32, 32)
    assert (full["index"].tolist(), short["index"].tolist()) == ([0, 1, 2], [3, 4])


def test_reading_leaves_the_global_generator_alone(tmp_path: Path, add_many: AddMany) -> None:
    dataset = IHarmony4(tmp_path, add_many(4), TrainTransform(32))
    before = torch.get_rng_state()
    read_epochs(dataset, 0, [0])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("processes", [0, 1])
def test_image_that_went_bad_is_named(tmp_path: Path, add_many: AddMany, processes: int) -> None:
    composites = add_many(2)
    (tmp_path / composites[1].path).unlink()
    dataset = IHarmony4(tmp_path, composites, EvalTransform(32))
    with pytest.raises(BadDataError, match=r"c1_7_2\.jpg: there is no such file"):
        list(loader(dataset, [[0, 1]], processes))
