"""Deals tasks to workers on Ray, or does them in this process: the same calls either way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from rsrnet_platform.cluster import Cluster
from rsrnet_platform.errors import UserError, is_user_error

Task = TypeVar("Task")
Result = TypeVar("Result")


def deal(
    place: Cluster,
    make: Callable[[], Callable[[Task], Result]],
    tasks: Sequence[Task],
    max_failures: int,
) -> Iterator[tuple[int, Result]]:
    """Do every task, as many at once as there are workers.

    Args:
        place: where; each worker holds what the place says.
        make: makes a worker, a function of one task; called once on each.
        tasks: what to do; sent to the workers one by one.
        max_failures: how often each worker may die and be started again, its task with it; -1: without end.

    Yields:
        The number of a task and its result, in the order in which they are done.

    Raises:
        UserError: (and the other errors of ``errors.USER_ERRORS``) as the workers do.
    """
    if place.address is None:
        work = make()
        for number, task in enumerate(tasks):
            yield number, work(task)
        return
    yield from _on_ray(place, make, tasks, max_failures)


def _on_ray(
    place: Cluster, make: Callable[[], Callable[[Task], Result]], tasks: Sequence[Task], max_failures: int
) -> Iterator[tuple[int, Result]]:
    import ray
    from ray.util import ActorPool

    worker = ray.remote(_Worker).options(
        **place.actor_options, max_restarts=max_failures, max_task_retries=max_failures
    )
    actors: list[Any] = [worker.remote(make) for _ in range(min(place.workers, len(tasks)))]
    try:
        pool = ActorPool(actors)
        results = pool.map_unordered(lambda actor, each: actor.do.remote(*each), list(enumerate(tasks)))
        yield from results
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if is_user_error(error.cause) else error) from None
    except ray.exceptions.ActorDiedError as error:
        raise UserError(
            f"A worker died more than {max_failures} times (cluster.max_failures): {str(error).strip()}\n"
            "  If the machine was out of memory, lower batch_size or cluster.workers."
        ) from error
    finally:
        for actor in actors:
            ray.kill(actor)


class _Worker:
    """An actor of Ray."""

    def __init__(self, make: Callable[[], Callable[[Any], Any]]) -> None:
        self._make = make
        self._work: Callable[[Any], Any] | None = None

    def do(self, number: int, task: Any) -> tuple[int, Any]:
        # Made here, not in the constructor: what that raises reaches the caller without its cause.
        if self._work is None:
            self._work = self._make()
        return number, self._work(task)
