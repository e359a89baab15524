"""One screen that says how far a search is; lines instead, where there is no terminal to redraw."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import fmean

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rsrnet_platform.search.ledger import Ledger
from rsrnet_platform.search.trials import Trial, best
from rsrnet_platform.terminal import duration

SECONDS_BETWEEN_LINES = 15.0
ROWS = 12
"""Running trials on the screen at most."""


class Screen:
    """What a person sees of a running search.

    Args:
        ledger: its books.
        total: tells how many trials it will have.
        at_once: trials that run at the same time.
    """

    def __init__(self, ledger: Ledger, total: Callable[[], int], at_once: int) -> None:
        self._ledger = ledger
        self._total = total
        self._at_once = at_once

    @contextmanager
    def shown(self, console: Console) -> Iterator[None]:
        """Show it as long as the context lasts."""
        if console.is_terminal:
            with Live(get_renderable=self.picture, console=console, refresh_per_second=2, transient=True):
                yield
            return
        stop = threading.Event()

        def lines() -> None:
            while not stop.wait(SECONDS_BETWEEN_LINES):
                console.print(self.line())

        thread = threading.Thread(target=lines, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            console.print(self.line())

    def line(self) -> str:
        """Where the search stands, in one line."""
        best_so_far = self._best()
        return "; ".join([self._counts(), *([f"best: {best_so_far}"] if best_so_far else []), self._times()])

    def _counts(self) -> str:
        trials = self._ledger.journal.in_order()
        states = Counter(trial.status for trial in trials)
        how = ", ".join(
            f"{states[status]} {status}" for status in ("stopped", "diverged", "failed") if states[status]
        )
        done, running = _done(trials), len(self._ledger.running)
        return (
            f"{done} of {self._total()} trials done{f' ({how})' if how else ''}, {running} running, "
            f"{self._total() - done - running} to come"
        )

    def _best(self) -> str:
        winner = best(self._ledger.journal.in_order())
        return f"trial {winner.index}, {winner.objective:.3f}" if winner else ""

    def _times(self) -> str:
        trials = self._ledger.journal.in_order()
        if not trials:
            return "starting the first trials"
        left = seconds_left(trials, self._total(), self._at_once, self._ledger.seconds)
        return f"{duration(self._ledger.seconds)} so far" + (f", about {duration(left)} left" if left else "")

    def picture(self) -> RenderableType:
        """Where the search stands, with what each running trial does."""
        trials = self._ledger.journal.in_order()
        bar = Table.grid(padding=(0, 2))
        bar.add_row(ProgressBar(total=self._total(), completed=_done(trials), width=24), self._counts())
        parts: list[RenderableType] = [bar, Text(self._times())]
        if (winner := best(trials)) is not None:
            parts.append(Text(f"best   {_score(winner)}  {short(winner)}"))
        if trials and trials[0].index == 0:
            parts.append(Text(f"paper  {_score(trials[0])}  {short(trials[0])}"))
        running = self._ledger.running
        if not running:
            return Group(*parts)
        table = Table(box=None, pad_edge=False, header_style="dim")
        for column in ("trial", "fold", "epoch", "objective", "point"):
            table.add_column(column, no_wrap=True)
        for trial in running[:ROWS]:
            fold, epoch = divmod(trial.step, trial.epochs)
            folds = f"{min(fold + 1, trial.folds)}/{trial.folds}"
            value = "" if trial.objective is None else f"{trial.objective:.3f}"
            table.add_row(str(trial.index), folds, f"{epoch}/{trial.epochs}", value, short(trial))
        if len(running) > ROWS:
            table.add_row("", "", "", "", f"and {len(running) - ROWS} more")
        return Group(*parts, table)


def _done(trials: list[Trial]) -> int:
    return sum(trial.status != "running" for trial in trials)


def seconds_left(trials: list[Trial], total: int, at_once: int, seconds: float) -> float | None:
    """How long a search will still take, if the rest goes like what is done; None before the first report.

    Args:
        trials: those begun.
        total: trials there will be.
        at_once: trials that run at the same time.
        seconds: since the search began.
    """
    done = sum(trial.step for trial in trials)
    if not done:
        return None
    ended = [trial.step for trial in trials if trial.status != "running"]
    each = fmean(ended or [trial.steps for trial in trials])
    rest = [max(0.0, each - trial.step) for trial in trials if trial.status == "running"]
    to_come = total - len(trials)
    # Even with nothing to come, the longest running trial must end, and goes no faster than one of those at once.
    epochs = max(sum(rest) + to_come * each, min(at_once, len(trials)) * max(rest, default=0.0))
    return epochs * seconds / done


def short(trial: Trial) -> str:
    """A point in a few words: ``iterations 8, lambda 0.8, scales [0, 1]``."""
    names = ((path.rpartition(".")[2], value) for path, value in trial.point.items())
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in names
    )


def _score(trial: Trial) -> str:
    value = "  -  " if trial.objective is None else f"{trial.objective:.3f}"
    spread = "" if trial.spread is None else f" ± {trial.spread:.3f}"
    return f"trial {trial.index}, {value}{spread}"
