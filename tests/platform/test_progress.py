"""Progress reaches the terminal, whole lines only, once each."""

from __future__ import annotations

import io
import time
from functools import partial
from pathlib import Path

from rich.console import Console

from rsrnet_platform.progress import Reporter, append, follow
from rsrnet_platform.terminal import duration


def shown(path: Path, write, *, terminal: bool = False) -> str:
    output = io.StringIO()
    with follow(path, Console(file=output, force_terminal=terminal, width=100, highlight=False)):
        write()
        time.sleep(0.5)
    return output.getvalue()


def test_milestones_are_shown_in_order_and_once(tmp_path) -> None:
    path = tmp_path / "run" / "progress.jsonl"
    reporter = Reporter(partial(append, path))

    def write() -> None:
        for epoch in (1, 2, 3):
            reporter.milestone(f"epoch {epoch} done", epoch / 3)

    assert shown(path, write).splitlines() == ["epoch 1 done", "epoch 2 done", "epoch 3 done"]
    assert "epoch 2 done" in shown(path, write, terminal=True)


def test_what_an_earlier_attempt_reported_is_not_shown_again(tmp_path) -> None:
    path = tmp_path / "progress.jsonl"
    reporter = Reporter(partial(append, path))
    reporter.milestone("old", 0.5)
    assert shown(path, lambda: reporter.milestone("new", 0.6)) == "new\n"


def test_a_line_still_being_written_waits(tmp_path) -> None:
    path = tmp_path / "progress.jsonl"
    path.write_text("")

    def write() -> None:
        with path.open("a") as file:
            file.write('{"time": 1, "text": "whole", "done": 0.5, ')
            file.flush()
            time.sleep(0.5)
            file.write('"milestone": true}\n')

    assert shown(path, write) == "whole\n"


def test_a_line_cut_short_is_left_out(tmp_path) -> None:
    path = tmp_path / "progress.jsonl"
    reporter = Reporter(partial(append, path))

    def write() -> None:
        append(path, '{"time": 1, "text": "cut sh')  # as a full disk leaves it
        reporter.milestone("whole", 0.5)

    assert shown(path, write) == "whole\n"


def test_steps_are_thinned_out(tmp_path) -> None:
    path = tmp_path / "progress.jsonl"
    reporter = Reporter(partial(append, path))
    for step in range(100):
        if reporter.due():
            reporter.step(f"step {step}", step / 100)
    assert len(path.read_text().splitlines()) == 1


def test_durations_read_as_people_say_them() -> None:
    assert [duration(s) for s in (0.4, 45, 200, 7500)] == ["0 s", "45 s", "3 min 20 s", "2 h 05 min"]
