"""Where messages for people go; results, which may be piped on, go to the standard output."""

from __future__ import annotations

from rich.console import Console

# Names of files are not markup, and a command to copy must not be broken over two lines.
console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """A span of time as people say it: ``45 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
