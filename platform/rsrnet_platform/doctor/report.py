"""All checks for a job, in order, and what they found as a table or as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from typing import Any

from rich.table import Table
from rich.text import Text

from rsrnet_platform import spec
from rsrnet_platform.doctor import files, machine, needs, nodes, store, versions
from rsrnet_platform.doctor.finding import Check, Finding, carry_out

_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}
_ON_NODES = 150.0
"""Seconds for what asks nodes, of which each has a minute, and this process besides."""


def examine(job: spec.Job | None, tell: Callable[[str], None] = lambda _: None) -> Iterator[Finding]:
    """Look at everything that a job needs.

    Args:
        job: a checked job; None: the defaults.
        tell: is told the name of each check before it begins.
    """
    needed = needs.of(job)
    connection = ExitStack()
    yield from carry_out(_checks(needed, connection, job), tell)
    # As a check too: leaving a cluster that hangs must not hang.
    yield from carry_out([Check("leaving the cluster", partial(_close, connection))])


def table(findings: Sequence[Finding]) -> Table:
    """What was found, a row each."""
    drawn = Table()
    drawn.add_column("what", no_wrap=True)
    drawn.add_column("state", no_wrap=True)
    drawn.add_column("what was found", overflow="fold")
    drawn.add_column("remedy", overflow="fold")
    for each in findings:
        drawn.add_row(each.name, Text(each.state, _STYLES[each.state]), Text(each.found), Text(each.remedy))
    return drawn


def outcome(findings: Sequence[Finding], job: spec.Job | None) -> str:
    """The end of the report, in one sentence."""
    count = {state: sum(each.state == state for each in findings) for state in _STYLES}
    number = {state: f"{n} {state}" if n == 1 else f"{n} {state}s" for state, n in count.items()}
    subject = "A job" if job is None else f"The job {job.name}"
    could = "could not run" if count["problem"] else "could run"
    return f"{subject} {could}: {number['problem']}, {number['warning']}."


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """What was found, for programs."""
    return {
        "ok": all(each.state != "problem" for each in findings),
        "findings": [asdict(each) for each in findings],
    }


def _checks(needed: needs.Needs, connection: ExitStack, job: spec.Job | None) -> Iterator[Check]:
    yield Check("Python", machine.python)
    yield Check("packages", versions.requirements)
    yield Check("lock file", versions.against_lock)
    yield Check("PyTorch", machine.torch, 120)
    yield Check("GPU", machine.gpus, 120)
    yield Check("memory", machine.memory, 60)
    yield Check("Ray", partial(nodes.find, needed.cluster, connection), 120)
    if job is not None:
        yield Check("room for the job", partial(nodes.room, needed.cluster), 60)
    yield Check("nodes' versions", nodes.alike, _ON_NODES)
    yield Check("tracking", partial(store.tracking, needed), _ON_NODES)
    yield Check("model registry", partial(store.registry, needed))
    yield Check("artifacts", partial(store.artifacts, needed))
    yield Check("storage", partial(files.storage, needed), _ON_NODES)
    yield Check("dataset", partial(files.dataset, needed), 300)
    yield Check("images", partial(files.images, needed), 300)
    yield Check("model", partial(files.model, needed), 300)
    yield Check("encoder weights", partial(files.weights, needed), 600)


def _close(connection: ExitStack) -> list[Finding]:
    connection.close()
    return []
