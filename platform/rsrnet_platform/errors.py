"""Errors that are the user's to mend: one clear message, exit code 2 and no traceback."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rsrnet.config import Problem

USER_ERRORS = frozenset(
    {
        "rsrnet.checkpoint.CheckpointError",
        "rsrnet.compilation.CompilerError",
        "rsrnet.config.ConfigError",
        "rsrnet.data.errors.DataError",
        "rsrnet.localizer.ImageError",
        "rsrnet.model.encoder.WeightsError",
        "rsrnet.model.recurrence.IterationsError",
        "rsrnet.nonfinite.DivergedError",
        "rsrnet.synthesis.compose.CompositionError",
        "rsrnet.synthesis.photos.PhotographError",
        "rsrnet.synthesis.sample.SampleError",
        "rsrnet_platform.errors.UserError",
    }
)
"""Errors (and those derived from them) that are told in one message, without a traceback.

By name: importing their modules would import PyTorch.
"""


class UserError(Exception):
    """Something the user asked for cannot be done; the message names what, and the remedy."""


class JobError(UserError):
    """A job file that cannot be run; ``problems`` lists what is wrong with it, each by its dotted path."""

    def __init__(self, source: str, problems: Iterable[Problem | str]) -> None:
        self.problems = list(problems)
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        super().__init__("\n  ".join([f"{source}: {count}", *map(str, self.problems)]))
        self.source = source

    def __reduce__(self) -> tuple[type[JobError], tuple[str, list[Problem | str]]]:
        return type(self), (self.source, self.problems)


def is_user_error(error: BaseException) -> bool:
    """Tell whether the message of an error is all that the user needs."""
    return any(f"{cls.__module__}.{cls.__qualname__}" in USER_ERRORS for cls in type(error).__mro__)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what caused it, what caused that, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
