"""How many images a job did, and what was wrong with the others."""

from __future__ import annotations

from collections import Counter

from rsrnet_platform.errors import UserError
from rsrnet_platform.prediction.stages import Done

ENOUGH = 20
"""Images after which a share of them says something."""

SHOWN = 10
"""Errors, and kinds of them, that are told; the table has all."""


KINDS = 1000
"""Different reasons that are counted."""


class Outcome:
    """Counts what is done.

    Args:
        kept: images that an earlier start did.
        max_error_fraction: share of images that cannot be read above which the job ends.
    """

    def __init__(self, kept: int, max_error_fraction: float) -> None:
        self.images = kept
        self.errors = 0
        self.first: list[str] = []
        self.reasons: Counter[str] = Counter()
        self._most = max_error_fraction

    def add(self, done: Done) -> None:
        """Count a batch.

        Raises:
            UserError: if too many images could not be read.
        """
        self.images += done.images
        self.errors += len(done.errors)
        self.first += [f"{path}: {reason}" for path, reason in done.errors[: SHOWN - len(self.first)]]
        # Reasons can name numbers of the file; what many files share is among the first.
        self.reasons.update(r for _, r in done.errors if r in self.reasons or len(self.reasons) < KINDS)
        if self.images >= ENOUGH:
            self.require_few_errors()

    def require_few_errors(self) -> None:
        """End a job that goes wrong.

        Raises:
            UserError: naming the count and the first errors.
        """
        if self.errors > self._most * self.images:
            lines = [
                f"{self.errors:,} of {self.images:,} images could not be read, and max_error_fraction = {self._most}:",
                *self.first,
            ]
            raise UserError("\n  ".join(lines) + "\nWhat was done stays; the job started again goes on.")

    def lines(self) -> list[str]:
        """What people should know about the errors."""
        if not self.errors:
            return []
        kinds = [f"  {count:,} {reason}" for reason, count in self.reasons.most_common(SHOWN)]
        return [
            f"{self.errors:,} images could not be read: the table says why, and the next start tries them again.",
            *kinds,
            "The first of them:" if self.errors > len(self.first) else "They are:",
            *(f"  {error}" for error in self.first),
        ]
