"""The table of faults: what was made to happen, and what became of the job. `make faults` prints it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.platform.conftest import history, make_job, train_file  # noqa: F401 - fixtures


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print a row for each test that recorded a fault and its outcome, and for each that failed."""
    rows = [
        row
        for kind in ("passed", "failed", "skipped")
        for report in terminalreporter.stats.get(kind, [])
        if "tests/faults/" in report.nodeid and (row := _row(report))
    ]
    if not rows:
        return
    terminalreporter.section("faults")
    for line in (
        "| fault | outcome |",
        "| --- | --- |",
        *sorted(f"| {fault} | {what} |" for fault, what in rows),
    ):
        terminalreporter.write_line(line)


def _row(report: pytest.TestReport) -> tuple[str, str] | None:
    known = dict(report.user_properties)
    name = str(known.get("fault", report.nodeid.partition("::")[2].removeprefix("test_").replace("_", " ")))
    if report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        return name, f"not tried: {reason.removeprefix('Skipped: ')}"
    if report.failed:
        return name, "FAILED"
    return (name, str(known["outcome"])) if "outcome" in known else None
