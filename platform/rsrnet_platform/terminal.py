"""Where messages for people go; results, which may be piped on, go to the standard output."""

from __future__ import annotations

import os

from rich.console import Console


class _Messages(Console):
    def on_broken_pipe(self) -> None:
        """Be silent from now on when nobody reads any more, instead of ending the job."""
        self.quiet = True
        # Python would write at its end what the stream still holds, fail, and leave with 120, whatever the job says.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.file.fileno())
        os.close(nowhere)


# Names of files are not markup, and a command to copy must not be broken over two lines.
console = _Messages(stderr=True, highlight=False, markup=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """A span of time as people say it: ``45 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def memory(held: int, capacity: int | None = None) -> str:
    """Bytes of memory as people say them: ``640 MiB``, ``3.2 GiB``; with what there is, ``11.2 of 139.8 GiB``."""
    if capacity is not None:
        return f"{held / 2**30:.1f} of {capacity / 2**30:.1f} GiB"
    return f"{held / 2**30:.1f} GiB" if held >= 2**30 else f"{held / 2**20:.0f} MiB"
