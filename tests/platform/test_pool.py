"""Tasks dealt to workers."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from rsrnet_platform.cluster import ClusterConfig, connect
from rsrnet_platform.errors import UserError
from rsrnet_platform.pool import deal


def squarer(made: Path) -> Callable[[int], int]:
    """A worker that squares; every worker that is made leaves a file."""
    (made / str(os.getpid())).touch()
    return lambda number: number**2


def refuser() -> Callable[[int], int]:
    def refuse(number: int) -> int:
        raise UserError(f"{number} is too large; take less")

    return refuse


def dying(marks: Path, deaths: int) -> Callable[[int], int]:
    """A worker that dies with task 3, the first so many times."""

    def die(number: int) -> int:
        if number == 3 and len(list(marks.iterdir())) < deaths:
            (marks / str(os.getpid())).touch()
            os._exit(9)
        return number

    return die


def test_in_this_process(tmp_path: Path) -> None:
    with connect(ClusterConfig(workers=0)) as place:
        assert list(deal(place, partial(squarer, tmp_path), [4, 5, 6], 0)) == [(0, 16), (1, 25), (2, 36)]
    assert [path.name for path in tmp_path.iterdir()] == [str(os.getpid())]


@pytest.mark.ray
def test_on_ray_every_task_is_done_once_by_as_many_workers(ray_cluster: object, tmp_path: Path) -> None:
    with connect(ClusterConfig(workers=2)) as place:
        done = dict(deal(place, partial(squarer, tmp_path), list(range(20)), 0))
    assert done == {number: number**2 for number in range(20)}
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.ray
def test_no_tasks_no_workers(ray_cluster: object, tmp_path: Path) -> None:
    with connect(ClusterConfig(workers=2)) as place:
        assert list(deal(place, partial(squarer, tmp_path), [], 0)) == []
    assert not list(tmp_path.iterdir())


@pytest.mark.ray
def test_worker_that_dies_is_started_again_with_its_task(ray_cluster: object, tmp_path: Path) -> None:
    with connect(ClusterConfig(workers=1)) as place:
        done = dict(deal(place, partial(dying, tmp_path, 2), list(range(6)), 2))
    assert done == {number: number for number in range(6)}
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.ray
def test_worker_that_keeps_dying_is_the_users_to_mend(ray_cluster: object, tmp_path: Path) -> None:
    with (
        connect(ClusterConfig(workers=1)) as place,
        pytest.raises(UserError, match=r"died more than 1 times \(cluster.max_failures\)"),
    ):
        list(deal(place, partial(dying, tmp_path, 99), list(range(6)), 1))


@pytest.mark.ray
@pytest.mark.parametrize("workers", [0, 1])
def test_error_for_the_user_arrives_as_it_is(ray_cluster: object, workers: int) -> None:
    with (
        connect(ClusterConfig(workers=workers)) as place,
        pytest.raises(UserError, match=r"^7 is too large; take less$"),
    ):
        list(deal(place, refuser, [7], 0))
