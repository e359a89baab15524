"""``rsrnet profile``: the command."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rsrnet_platform import spec
from rsrnet_platform.errors import UserError
from rsrnet_platform.terminal import console

TRACE = "trace.json.gz"


def profile(
    job: Annotated[Path, typer.Argument(help="Job file of a training.", show_default=False)],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Override one value, as for `rsrnet run`."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Training steps to measure.")] = 20,
    trace: Annotated[
        Path | None,
        typer.Option(
            help=f"File for the trace; default: ~/rsrnet/profiles/NAME/{TRACE}.", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the tables.")] = False,
) -> None:
    """Train a few steps of a job and tell where their time goes. Nothing is tracked, saved or registered."""
    # Otherwise the tracer tells of its own doings, and of GPUs that there are none of.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    from rsrnet_platform import reading_limit
    from rsrnet_platform.profiling import report, run

    wanted = spec.load(job, overrides or ())
    if not isinstance(wanted, spec.TrainJob):
        raise UserError(f"{job}: is kind: {wanted.kind}; what can be profiled is kind: train")
    file = trace or Path.home() / "rsrnet" / "profiles" / wanted.name / TRACE
    found = run.profile(wanted, steps, file.expanduser().absolute())
    if as_json:
        typer.echo(json.dumps(report.as_json(found), indent=2))
    else:
        out = Console(highlight=False, markup=False)
        for sheet in report.sheets(found):
            out.print(sheet.for_terminal())
        out.print(report.outcome(found))
    if hint := reading_limit.hint(wanted.data, found.share("data")):
        console.print(hint)
    console.print(f"Trace, to be opened at https://ui.perfetto.dev: {file}")
