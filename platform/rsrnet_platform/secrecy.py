"""Keeps secrets out of what is written: a job file is recorded with every run, and its values are told in logs.

Secrets come from the environment, and nothing of it is written anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_URIS = ("data.photographs", "data.root", "input", "model", "output", "storage")
"""Values of jobs that may be URIs of files; `tracking.uri` is one of a server or a database."""

_PASSWORD = re.compile(r"//[^/@]*:[^@]*@")
_PARAMETER = re.compile(r"[?&](?:sig=|[^=&]*(?:secret|passw|token|signature|access_?key|account_?key))", re.I)


def secrets_in(given: Mapping[str, Any]) -> list[str]:
    """Find the values of a job that hold secrets.

    Args:
        given: what the job file holds, checked or not.

    Returns:
        A message for each, which does not tell the value.
    """
    found = []
    if re.search(r"//.*@", _text(given, "tracking.uri")):
        remedy = "a name and password belong into $MLFLOW_TRACKING_USERNAME and $MLFLOW_TRACKING_PASSWORD"
        found.append(f"tracking.uri: {remedy}, never into a job file")
    for path in _URIS:
        uri = _text(given, path)
        if _PASSWORD.search(uri) or _PARAMETER.search(uri):
            where = "of every machine, such as $AWS_ACCESS_KEY_ID and $AWS_SECRET_ACCESS_KEY"
            found.append(
                f"{path}: the keys of a store belong into the environment {where}, never into a job file"
            )
    return found


def masked(text: str) -> str:
    """A text in which the names and passwords of URIs are asterisks."""
    return re.sub(r"//[^\s'\"]*@", "//***@", text)


def _text(given: Mapping[str, Any], path: str) -> str:
    value: Any = given
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, str) else ""
