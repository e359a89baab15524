"""The pace of a training."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Steady:
    """How a training spends its time, the first step of each epoch aside: readers start, caches are cold."""

    steps: int = 0
    seconds: float = 0.0

    waited: float = 0.0
    """Seconds of these spent waiting for data."""

    @property
    def waiting(self) -> float:
        """The part of the time spent waiting for data, 0 to 1."""
        return self.waited / self.seconds if self.steps else 0.0


class Clock:
    """Measures the pace of a training and the part of it spent waiting for data.

    Args:
        steps: those to come, of all epochs.
    """

    def __init__(self, steps: int) -> None:
        self.steps_left = steps
        self.steps_done = 0
        self.images = 0
        self.seconds = 0.0
        self.steady = Steady()

    def start_epoch(self) -> None:
        """An epoch begins, or goes on after an interruption."""
        self.mark = self.epoch_start = time.perf_counter()
        self.epoch_images = 0
        self.waited = 0.0
        self._is_first = True

    def got_batch(self, *, idle: bool = True) -> None:
        """The wait for a batch is over.

        Args:
            idle: whether the device has nothing left to do by now; otherwise nothing waited for the batch.
        """
        self._wait = time.perf_counter() - self.mark if idle else 0.0
        self.waited += self._wait

    def did_step(self, images: int) -> None:
        """A step with so many images, over all ranks, is done."""
        now = time.perf_counter()
        seconds, self.mark = now - self.mark, now
        if self.steps_done == 1:
            # Of the pace, the first step is told while there is no other: it makes what the others find made, such as
            # compiled code.
            self.images, self.seconds = 0, 0.0
        self.seconds += seconds
        if not self._is_first:
            before = self.steady
            self.steady = Steady(before.steps + 1, before.seconds + seconds, before.waited + self._wait)
        self._is_first = False
        self.images += images
        self.epoch_images += images
        self.steps_done += 1
        self.steps_left -= 1

    def end_epoch(self) -> dict[str, float]:
        """Seconds and pace of the epoch, as far as this process trained it."""
        seconds = time.perf_counter() - self.epoch_start
        return {
            "time/epoch_seconds": seconds,
            "time/images_per_second": self.epoch_images / seconds,
            "time/waiting_for_data": self.waited / seconds,
        }

    @property
    def images_per_second(self) -> float:
        """Over all ranks, since this process began to train, its first step aside."""
        return self.images / self.seconds

    @property
    def seconds_left(self) -> float:
        """Until the last step."""
        return self.seconds / max(1, self.steps_done - 1) * self.steps_left
