"""Sends the batches of a job through the stages: in this process, or on Ray Data.

In this process threads read and write beside the network: decoding, resizing and encoding leave Python's lock. On Ray,
images are read by tasks, the network is in a pool of actors, and results are written by tasks, all at the same time.
What lies between the stages is limited either way, so memory does not grow with the number of images.
"""

from __future__ import annotations

import logging
import os
import pickle
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

from rsrnet_platform.cluster import Cluster
from rsrnet_platform.errors import UserError, is_user_error
from rsrnet_platform.lookup import resolve
from rsrnet_platform.prediction import stages
from rsrnet_platform.prediction.stages import Batch, Done, Settings

WAVE = 2000
"""Batches that Ray Data is given at once: it holds a little for each, for as long as it runs."""

AHEAD = 4
"""Batches of inputs that may lie between the stages, for each worker and one more."""

LEAST_MEMORY = 128 * 2**20
"""Bytes of Ray's object store that a job may always use."""

WINDOWS = 16
"""Inputs of the network that an image with windows is taken for, until it is read."""

FRACTION = 0.5
"""CPU that each task of reading and of writing holds, so that one of each fits on the CPU that is left for them."""


class Network:
    """The model, in each worker.

    Args:
        model: URI of the model, or its folder.
        tracking_uri: the store that the URI is looked up in.
        options: of :class:`rsrnet.Localizer`.
        threads: of PyTorch.
    """

    def __init__(self, model: str, tracking_uri: str, options: dict[str, Any], threads: int) -> None:
        import torch

        from rsrnet.localizer import Localizer

        torch.set_num_threads(threads)
        self._localizer = Localizer(resolve(model, tracking_uri), **options)

    def localize(self, inputs: stages.Inputs) -> stages.Masks:
        """Have the network see a batch."""
        return stages.localize(inputs, self._localizer)

    def __call__(self, row: dict[str, bytes]) -> dict[str, bytes]:
        """The same, of a row of Ray Data's."""
        return _packed(self.localize(_unpacked(row)))


def predict(
    batches: Iterable[Batch], settings: Settings, network: tuple[Any, ...], place: Cluster, max_failures: int
) -> Iterator[Done]:
    """Do batches.

    Args:
        batches: in any number; they are taken as they are needed.
        settings: of the stages.
        network: arguments of :class:`Network`.
        place: where.
        max_failures: how often each worker may die and be started again; -1: without end.

    Yields:
        What was done, batch by batch.

    Raises:
        UserError: if the output cannot be written, or workers die.
    """
    if place.address is None:
        yield from _in_this_process(batches, settings, Network(*network))
        return
    remaining = iter(batches)
    while wave := list(islice(remaining, WAVE)):
        yield from _on_ray(wave, settings, network, place, max_failures)


def _in_this_process(batches: Iterable[Batch], settings: Settings, network: Network) -> Iterator[Done]:
    import torch

    count = os.cpu_count() or 1
    # One thread of PyTorch in each of these: there is one of these for each processor.
    threads = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))
    reading: deque[Future[stages.Inputs]] = deque()
    writing: deque[Future[Done]] = deque()
    remaining = iter(batches)
    try:
        while True:
            reading.extend(
                threads.submit(stages.read, batch, settings)
                for batch in islice(remaining, count - len(reading))
            )
            if not reading:
                break
            seen = network.localize(reading.popleft().result())
            writing.append(threads.submit(stages.write, seen, settings))
            while len(writing) > count or (writing and writing[0].done()):
                yield writing.popleft().result()
        while writing:
            yield writing.popleft().result()
    finally:
        threads.shutdown(cancel_futures=True)


def _on_ray(
    wave: list[Batch], settings: Settings, network: tuple[Any, ...], place: Cluster, max_failures: int
) -> Iterator[Done]:
    import ray
    import ray.data

    from rsrnet_platform.prediction.dead_workers import WatchWorkers, WorkersGoneError

    # Progress is shown here, and failures are raised.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    data: Any = ray.data.from_items([_packed(batch) for batch in wave], override_num_blocks=len(wave))
    data.context.enable_progress_bars = False
    data.context.custom_execution_callback_classes = [WatchWorkers]
    options = data.context.execution_options
    memory = max(LEAST_MEMORY, AHEAD * (place.workers + 1) * _bytes_of(wave[0], settings))
    options.resource_limits = options.resource_limits.copy(object_store_memory=memory)
    with warnings.catch_warnings():
        # Ray 2.60 deprecates these two arguments and has no others; a worker that always dies would start for ever.
        warnings.filterwarnings("ignore", "`ray_remote_args`")
        done = (
            data.map(_read, fn_args=(settings,), num_cpus=FRACTION)
            .map(
                Network,
                fn_constructor_args=network,
                compute=ray.data.ActorPoolStrategy(
                    size=min(place.workers, len(wave)), max_tasks_in_flight_per_actor=2
                ),
                **place.actor_options,
                max_restarts=max_failures,
                max_task_retries=max_failures,
            )
            .map(_write, fn_args=(settings,), num_cpus=FRACTION)
        )
    try:
        for row in done.iter_rows():
            result = _unpacked(row)
            if isinstance(result, Exception):
                raise result
            yield result
    except (ray.exceptions.ActorDiedError, ray.exceptions.WorkerCrashedError, WorkersGoneError) as error:
        raise UserError(
            f"A worker died more than {max_failures} times (cluster.max_failures): {str(error).strip()}\n"
            "  If the machine was out of memory, lower batch_size or cluster.workers. What was done stays; the job "
            "started again goes on."
        ) from error


def _bytes_of(batch: Batch, settings: Settings) -> int:
    """What the inputs of a batch take."""
    views = len(batch.images) * (WINDOWS if settings.window else 1)
    return views * 3 * settings.model.size**2 * 4


def _read(row: dict[str, bytes], settings: Settings) -> dict[str, bytes]:
    return _packed(stages.read(_unpacked(row), settings))


def _write(row: dict[str, bytes], settings: Settings) -> dict[str, bytes]:
    try:
        return _packed(stages.write(_unpacked(row), settings))
    except Exception as error:
        # Returned, because Ray Data would tell the cause as text in an error of its own.
        if is_user_error(error):
            return _packed(error)
        raise


def _packed(value: Any) -> dict[str, bytes]:
    """A row of Ray Data's. Bytes, because Arrow has no type for batches of images with different numbers of views."""
    return {"batch": pickle.dumps(value, protocol=5)}


def _unpacked(row: dict[str, bytes]) -> Any:
    return pickle.loads(row["batch"])  # noqa: S301 - of our own stages
