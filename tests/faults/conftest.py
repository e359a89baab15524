"""The table of faults: what was made to happen, and what became of the job. `make faults` prints it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rsrnet_platform import spec, train
from tests.platform.conftest import (
    _schema_made_once,  # noqa: F401
    history,  # noqa: F401 - a fixture
    load_with,
    make_job,  # noqa: F401
    train_file,  # noqa: F401
    write_train_file,
)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, squares: Path) -> Callable[..., spec.TrainJob]:
    """Train what nothing happens to; the job, which is done.

    Once for all tests that ask with the same settings. On Ray this needs the fixture `ray_cluster` besides.
    """
    done: dict[str, spec.TrainJob] = {}

    def train_once(**settings: Any) -> spec.TrainJob:
        key = str(sorted(settings.items()))
        if key not in done:
            file = write_train_file(tmp_path_factory.mktemp("undisturbed"), squares)
            job = load_with(file, **settings)
            train.run(job, fresh=False)
            done[key] = job
        return done[key]

    return train_once


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests of this folder time for several trainings on a busy machine, unless they say themselves."""
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(1200))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print a row for each test that recorded a fault and its outcome, and for each that failed.

    In the order of the files and of the tests in them, so that faults of a kind stand together.
    """
    reports = [
        report
        for kind in ("passed", "failed", "error", "skipped")
        for report in terminalreporter.stats.get(kind, [])
        if report.nodeid.startswith("tests/faults/")
    ]
    rows = [row for report in sorted(reports, key=lambda each: each.location) if (row := _row(report))]
    if not rows:
        return
    terminalreporter.section("faults")
    for line in ("| fault | outcome |", "| --- | --- |", *(f"| {fault} | {what} |" for fault, what in rows)):
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
