"""What a check found, and the running of checks: none may crash, hang or hide the others."""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from rsrnet_platform.errors import is_user_error
from rsrnet_platform.secrecy import masked

State = Literal["ok", "warning", "problem"]
"""``problem``: the job could not run; ``warning``: it could, but look at this; or it was not possible to tell."""

_PARAMETER = re.compile(r"(?i)\b(\w*(?:secret|password|token|access_key|api_key)\w*)=[^&\s)]+")
_SENTENCE = re.compile(r"(?<=\.)\s+(?=[A-Z])|\n\s*")


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's table; whatever looks like a password in it is masked."""

    name: str
    """What was looked at."""

    state: State
    found: str
    """What was found; or what was not looked at, and why."""

    remedy: str = ""
    """What the user can do about it; empty: nothing needs to be done."""

    def __post_init__(self) -> None:
        for name in ("found", "remedy"):
            object.__setattr__(self, name, _PARAMETER.sub(r"\1=***", masked(getattr(self, name))))


@dataclass(frozen=True)
class Check:
    """Something to look at."""

    name: str
    look: Callable[[], Iterable[Finding]]
    """Looks; an error of the user's that it raises is a problem, found and remedied as its message says."""

    seconds: float = 30.0
    """After which it is given up."""


def carry_out(checks: Iterable[Check], tell: Callable[[str], None] = lambda _: None) -> Iterator[Finding]:
    """Carry out checks one after the other, each in a thread that is left behind if it hangs.

    Args:
        checks: what to look at.
        tell: is told the name of each check before it begins.
    """
    for check in checks:
        tell(check.name)
        yield from _carry_out(check)


def _carry_out(check: Check) -> list[Finding]:
    results: queue.SimpleQueue[list[Finding]] = queue.SimpleQueue()
    threading.Thread(target=lambda: results.put(_guarded(check)), daemon=True).start()
    try:
        return results.get(timeout=check.seconds)
    except queue.Empty:
        found = f"no answer within {check.seconds:.0f} s"
        remedy = "A network file system, server or driver may hang: look at it by hand"
        return [Finding(check.name, "problem", found, remedy)]


def _guarded(check: Check) -> list[Finding]:
    try:
        return list(check.look())
    except Exception as error:  # whatever it is, the other checks go on
        if is_user_error(error):
            return [told(check.name, error)]
        return [Finding(check.name, "problem", f"{type(error).__name__}: {error}")]


def told(name: str, error: Exception, state: State = "problem") -> Finding:
    """What an error of the user's says: its first sentence was found, the rest is the remedy."""
    found, *remedy = _SENTENCE.split(str(error), maxsplit=1)
    return Finding(name, state, found.rstrip("."), " ".join(" ".join(remedy).split()))
