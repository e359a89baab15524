"""Checks shared by the configuration dataclasses.

A configuration is a frozen dataclass beside its owner (``RSRNetConfig`` in ``rsrnet.model``, ``LossConfig`` in
``rsrnet.loss_config``, ...). Its ``__post_init__`` calls :func:`require`, so that a wrong value is refused in Python
exactly as it is in a job file, and all wrong fields are named at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Problem:
    """One field that holds a value it cannot hold."""

    field: str
    value: Any
    allowed: str

    def __str__(self) -> str:
        return f"{self.field} = {self.value!r}: {self.allowed}"


class ConfigError(ValueError):
    """Raised when a configuration holds impossible values; ``problems`` lists every one of them."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("; ".join(str(problem) for problem in problems))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[Problem]]]:
        return type(self), (self.problems,)


def require(config: object, **checks: tuple[bool, str]) -> None:
    """Check the fields of a configuration.

    Args:
        config: the dataclass instance to check.
        **checks: for each field, whether its value is allowed and, in words, which values are.

    Raises:
        ConfigError: if any check failed, naming every field that did.

    Example:
        ``require(self, iterations=(self.iterations >= 1, "a whole number, at least 1"))``
    """
    problems = [
        Problem(field, getattr(config, field), allowed) for field, (ok, allowed) in checks.items() if not ok
    ]
    if problems:
        raise ConfigError(problems)
