"""The order of training and evaluation batches over any number of workers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsrnet.data.errors import DataError
from rsrnet.data.sampler import ShardedBatches, evaluation_batches

worlds = st.integers(1, 5)
seeds = st.integers(0, 2**32 - 1)


def epoch_of(batches: ShardedBatches, epoch: int) -> list[list[tuple[int, int]]]:
    batches.set_epoch(epoch)
    return list(batches)


@given(num=st.integers(5, 90), size=st.integers(5, 40), world=worlds, seed=seeds, epoch=st.integers(0, 99))
def test_workers_together_read_the_batches_of_one_worker(
    num: int, size: int, world: int, seed: int, epoch: int
) -> None:
    single = epoch_of(ShardedBatches(num, size, 0, 1, seed), epoch)
    ranks = [epoch_of(ShardedBatches(num, size, rank, world, seed), epoch) for rank in range(world)]
    steps = {len(rank) for rank in ranks}
    assert len(steps) == 1
    for expected, *shares in zip(single, *ranks, strict=False):
        assert sorted(expected) == sorted(pair for share in shares for pair in share)
        lengths = [len(share) for share in shares]
        assert min(lengths) >= 1
        assert max(lengths) - min(lengths) <= 1
    # All that may be missing is a last batch without an image for everyone.
    missing = single[steps.pop() :]
    assert len(missing) <= 1
    assert all(len(batch) < world for batch in missing)


@given(num=st.integers(1, 90), size=st.integers(1, 40), seed=seeds)
def test_one_worker_reads_every_image_once_in_full_batches(num: int, size: int, seed: int) -> None:
    batches = ShardedBatches(num, size, 0, 1, seed)
    read = list(batches)
    assert len(batches) == len(read)
    assert all(len(batch) == size for batch in read[:-1])
    assert sorted(index for batch in read for _, index in batch) == list(range(num))


def test_dataset_smaller_than_the_batch_is_one_batch() -> None:
    ranks = [list(ShardedBatches(5, 32, rank, 2, seed=0)) for rank in range(2)]
    assert [len(rank) for rank in ranks] == [1, 1]
    assert sorted(index for rank in ranks for _, index in rank[0]) == list(range(5))


def test_order_depends_on_seed_and_epoch_only() -> None:
    batches = ShardedBatches(50, 8, 0, 1, seed=3)
    third = epoch_of(batches, 3)
    assert {epoch for batch in third for epoch, _ in batch} == {3}
    epoch_of(batches, 4)
    assert epoch_of(batches, 3) == third
    assert epoch_of(ShardedBatches(50, 8, 0, 1, seed=3), 3) == third

    def indices(read: list[list[tuple[int, int]]]) -> list[int]:
        return [index for batch in read for _, index in batch]

    assert indices(epoch_of(batches, 4)) != indices(third)
    assert indices(epoch_of(ShardedBatches(50, 8, 0, 1, seed=4), 3)) != indices(third)


def test_epoch_changed_during_an_iteration_counts_for_the_next() -> None:
    batches = ShardedBatches(6, 2, 0, 1, seed=0)
    iterator = iter(batches)
    first = next(iterator)
    batches.set_epoch(1)
    rest = list(iterator)
    assert {epoch for batch in [first, *rest] for epoch, _ in batch} == {0}
    assert {epoch for batch in batches for epoch, _ in batch} == {1}


@pytest.mark.parametrize(("num", "size"), [(3, 32), (100, 3)])
def test_fewer_images_a_step_than_workers_is_refused(num: int, size: int) -> None:
    with pytest.raises(DataError, match=rf"{num} training images in batches of {size} .* 4 workers"):
        ShardedBatches(num, size, 0, 4, seed=0)


@given(num=st.integers(0, 60), size=st.integers(1, 20), world=worlds)
def test_evaluation_reads_every_image_exactly_once(num: int, size: int, world: int) -> None:
    ranks = [evaluation_batches(num, size, rank, world) for rank in range(world)]
    assert sorted(index for rank in ranks for batch in rank for index in batch) == list(range(num))
    assert all(1 <= len(batch) <= size for rank in ranks for batch in rank)
    images = [sum(map(len, rank)) for rank in ranks]
    assert max(images) - min(images) <= 1
