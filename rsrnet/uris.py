"""What tells a URI from a path."""

from __future__ import annotations

import re


def is_uri(text: str) -> bool:
    """Whether this is a URI (``s3://bucket/x``, ``models:/rsrnet@champion``), not a path."""
    return re.match(r"[a-z][a-z0-9+.-]+:/", text) is not None
