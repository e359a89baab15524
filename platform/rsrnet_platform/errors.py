"""Errors that are the user's to mend: one clear message, exit code 2 and no traceback."""

from __future__ import annotations

from collections.abc import Iterable

from rsrnet.config import Problem


class UserError(Exception):
    """Something the user asked for cannot be done; the message names what, and the remedy."""


class JobError(UserError):
    """A job file that cannot be run; ``problems`` lists what is wrong with it, each by its dotted path."""

    def __init__(self, source: str, problems: Iterable[Problem | str]) -> None:
        self.problems = list(problems)
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        super().__init__("\n  ".join([f"{source}: {count}", *map(str, self.problems)]))
