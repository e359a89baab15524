"""Where messages for people go; results, which may be piped on, go to the standard output."""

from __future__ import annotations

from rich.console import Console

# Names of files are not markup, and a command to copy must not be broken over two lines.
console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
