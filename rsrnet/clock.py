"""The pace of a training."""

from __future__ import annotations

import time


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

    def start_epoch(self) -> None:
        """An epoch begins, or goes on after an interruption."""
        self.mark = self.epoch_start = time.perf_counter()
        self.epoch_images = 0
        self.waited = 0.0

    def got_batch(self) -> None:
        """The wait for a batch is over."""
        self.waited += time.perf_counter() - self.mark

    def did_step(self, images: int) -> None:
        """A step with so many images, over all ranks, is done."""
        self.seconds += time.perf_counter() - self.mark
        self.mark = time.perf_counter()
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
        """Over all ranks, since this process began to train."""
        return self.images / self.seconds

    @property
    def seconds_left(self) -> float:
        """Until the last step."""
        return self.seconds / self.steps_done * self.steps_left
