"""When the MLflow store does not answer: which errors waiting cures, and how to wait.

A server that refuses connections, hangs, restarts, or answers 408, 429 or 5xx, and a database that another process
has locked, come back: :class:`UnreachableError`. A run that was deleted, a refused password or a bad value do not: any
other :class:`TrackingError`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from textwrap import shorten
from typing import TypeVar

from rsrnet_platform.errors import UserError, causes
from rsrnet_platform.secrecy import masked
from rsrnet_platform.terminal import duration

T = TypeVar("T")

_PASSING_STATUS = frozenset({408, 429, 500, 502, 503, 504})
_USER, _PASSWORD, _BEARER = (f"MLFLOW_TRACKING_{name}" for name in ("USERNAME", "PASSWORD", "TOKEN"))
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 5.0
_REMEDY = (
    "Start one with `mlflow server --backend-store-uri sqlite:///mlflow.db`, or set tracking.uri to a path such as "
    "runs/mlflow.db"
)
KEPT = (
    "What was computed is kept: start the same job again when the store answers, and it logs the rest and goes on "
    "from there. tracking.patience is how long it waits"
)
"""What to do when a job ended because the store did not come back."""


class TrackingError(UserError):
    """Raised when the tracking store or a run cannot be used. Credentials in its message are masked."""

    def __init__(self, message: str) -> None:
        super().__init__(masked(message))


class UnreachableError(TrackingError):
    """Raised when the store does not answer, which may pass.

    Args:
        trouble: what is the matter, a clause without its full stop.
        remedy: what the user can do about it.
    """

    def __init__(self, trouble: str, remedy: str = "") -> None:
        super().__init__(f"{trouble}. {remedy}" if remedy else trouble)
        self.trouble = str(TrackingError(trouble))

    def after(self, seconds: float) -> UnreachableError:
        """The same error once the store was waited for."""
        waited = f"{self.trouble}; it was waited for for {duration(seconds)}" if seconds else self.trouble
        return UnreachableError(waited, KEPT)


@contextmanager
def explained(uri: str) -> Iterator[None]:
    """Turn whatever MLflow, its database or the file system raises into a :class:`TrackingError`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not _is_of_the_store(error):
            raise
        if _passes(error):
            raise UnreachableError(f"tracking.uri = {uri}: {_trouble(uri, error)}", _remedy(uri)) from error
        raise TrackingError(f"tracking.uri = {uri}: {_refusal(error) or _short(error)}") from error


def patiently(action: Callable[[], T], patience: float, tell: Callable[[str], None]) -> T:
    """Do something again until the store answers.

    Args:
        action: may be done again after it failed half-way; raises :class:`UnreachableError` while the store is away.
        patience: seconds for which the store may be away at most.
        tell: shows people a line.

    Raises:
        UnreachableError: if the store does not come back in time.
    """
    since = None
    for pause in pauses():
        try:
            result = action()
        except UnreachableError as error:
            trouble = error
        else:
            if since is not None:
                tell(f"The MLflow store answers again after {duration(time.monotonic() - since)}.")
            return result
        if since is None:
            since = time.monotonic()
            tell(f"{trouble.trouble}. Waiting for it for up to {duration(patience)}.")
        if time.monotonic() - since + pause > patience:
            raise trouble.after(patience)
        time.sleep(pause)
    raise AssertionError("pauses never end")


def pauses() -> Iterator[float]:
    """Seconds to wait before the second attempt, the third, and so on, for ever."""
    pause = _FIRST_PAUSE
    while True:
        yield pause
        pause = min(2 * pause, _LONGEST_PAUSE)


def _is_of_the_store(error: Exception) -> bool:
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return isinstance(error, MlflowException | SQLAlchemyError | OSError)


def _passes(error: Exception) -> bool:
    from requests import exceptions as http
    from sqlalchemy.exc import OperationalError

    # The last two are also what lies behind the errors of an object store.
    away = (
        http.ConnectionError,
        http.Timeout,
        http.RetryError,
        http.ChunkedEncodingError,
        ConnectionError,
        TimeoutError,
    )
    for cause in causes(error):
        if isinstance(cause, away):
            return True
        if isinstance(cause, http.HTTPError) and cause.response is not None:
            return cause.response.status_code in _PASSING_STATUS
        if isinstance(cause, OperationalError) and "locked" in str(cause.orig):
            return True
    return False


def _trouble(uri: str, error: Exception) -> str:
    from requests.exceptions import RetryError

    chain = list(causes(error))
    if not uri.startswith("http"):
        return "another process has locked the store"
    if any(isinstance(cause, RetryError) for cause in chain):
        return f"the MLflow server at {uri} answers with errors ({_short(chain[-1])})"
    return f"no MLflow server answers at {uri} ({_short(chain[-1])})"


def _refusal(error: Exception) -> str | None:
    """What to do if the server wants to know who asks; None: it is about something else."""
    code = getattr(error, "error_code", None)
    if code == "PERMISSION_DENIED":
        user = os.environ.get(_USER)
        return f"the server does not let {user or 'this user'} do that ({_short(error)}). Ask who runs it"
    if code != "UNAUTHENTICATED":
        return None
    given = {name for name in (_USER, _PASSWORD, _BEARER) if os.environ.get(name)}
    if _BEARER in given or {_USER, _PASSWORD} <= given:
        return f"the server does not accept what is in ${' and $'.join(sorted(given))} of the environment"
    return (
        f"the server asks for a name and password. Set ${_USER} and ${_PASSWORD} in the environment of the job, "
        f"or ${_BEARER}"
    )


def _remedy(uri: str) -> str:
    return _REMEDY if uri.startswith("http") else "End that process, or wait for it"


def _short(error: BaseException) -> str:
    return shorten(str(error), 300)  # without the page that a web server may have answered with
