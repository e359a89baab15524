"""How far a training is: written by its first worker, shown where the job was started.

The worker tells events, which are appended to ``progress.jsonl`` in the folder of the attempt, on the disk of the
driver; the driver follows the file. So the terminal shows one live line in place of the output of many processes,
and the file tells later what happened when.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

PROGRESS = "progress.jsonl"
"""The file, in the folder of an attempt."""

SECONDS_BETWEEN_STEPS = 1.0
SECONDS_BETWEEN_LINES = 10.0
"""Where there is no terminal to redraw, a line that often."""

SECONDS_BETWEEN_LOOKS = 0.2


@dataclass(frozen=True)
class Event:
    """A line of the file."""

    text: str
    """What to show."""

    done: float
    """Part of the training that is done, 0 to 1."""

    milestone: bool
    """Whether the line shall stay: an epoch is done, or the training goes on after an interruption."""


class Reporter:
    """Tells events; rank 0 has one.

    Args:
        tell: takes the lines of the file.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._last_step = 0.0

    def due(self) -> bool:
        """Whether the next step is worth a report: one a second is enough."""
        return time.monotonic() - self._last_step >= SECONDS_BETWEEN_STEPS

    def step(self, text: str, done: float) -> None:
        """Report a step."""
        self._last_step = time.monotonic()
        self._event(Event(text, done, milestone=False))

    def milestone(self, text: str, done: float) -> None:
        """Report something that shall stay on the screen."""
        self._event(Event(text, done, milestone=True))

    def _event(self, event: Event) -> None:
        self._tell(json.dumps({"time": time.time(), **asdict(event)}))


def append(path: Path, line: str) -> None:
    """Add a line to a file of events, which is made if missing; on a full disk the line is lost."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


@contextmanager
def follow(path: Path, console: Console) -> Iterator[None]:
    """Show the events that are appended to a file from now on, until the context ends."""
    start = path.stat().st_size if path.exists() else 0
    stop = threading.Event()
    show = _show_live if console.is_terminal else _show_lines
    thread = threading.Thread(target=show, args=(_events(path, start, stop), console), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _events(path: Path, position: int, stop: threading.Event) -> Iterator[Event | None]:
    """Events from a position of the file on, None while there is nothing new; ends after ``stop``."""
    while True:
        stopping = stop.wait(SECONDS_BETWEEN_LOOKS)
        lines, position = _new_lines(path, position)
        for line in lines:
            yield _event_of(line)
        if stopping:
            return
        yield None


def _event_of(line: str) -> Event | None:
    """The event of a line; None if a full disk cut the line short."""
    try:
        values: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    values.pop("time")
    return Event(**values)


def _new_lines(path: Path, position: int) -> tuple[list[str], int]:
    """Whole lines behind a position of a file, and the position behind them."""
    if not path.exists():
        return [], position
    with path.open("rb") as file:
        file.seek(position)
        data = file.read()
    whole = data[: data.rfind(b"\n") + 1]
    return whole.decode().splitlines(), position + len(whole)


def _show_lines(events: Iterator[Event | None], console: Console) -> None:
    last = time.monotonic()
    for event in events:
        if event and (event.milestone or time.monotonic() - last >= SECONDS_BETWEEN_LINES):
            last = time.monotonic()
            console.print(event.text)


def _show_live(events: Iterator[Event | None], console: Console) -> None:
    columns = (BarColumn(bar_width=20), TextColumn("{task.percentage:>3.0f} %  {task.description}"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting the workers", total=1.0)
        for event in events:
            if event is None:
                continue
            if event.milestone:
                console.print(event.text)
            bar.update(task, completed=event.done, description=event.text)
