"""``rsrnet doctor``: the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rsrnet_platform import spec
from rsrnet_platform.terminal import console

WIDTH = 140
"""Columns of the table where there is no terminal."""


def doctor(
    job: Annotated[Path | None, typer.Argument(help="Job file; default: the defaults of job files.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Override one value, as for `rsrnet run`."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Look at what a job needs: packages, GPU, cluster, store, storage, data. Ends with 1 if it could not run."""
    from rsrnet_platform.doctor import report

    if job is None and overrides:
        raise typer.BadParameter("needs a job file", param_hint="--set")
    wanted = None if job is None else spec.load(job, overrides or ())
    with console.status("") as status:
        findings = list(report.examine(wanted, lambda name: status.update(f"Looking at: {name}")))
    if as_json:
        typer.echo(json.dumps(report.as_json(findings), indent=2))
    else:
        out = Console(highlight=False, markup=False)
        if not out.is_terminal:
            out.width = max(out.width, WIDTH)
        out.print(report.table(findings))
        out.print(report.outcome(findings, wanted))
    if any(each.state == "problem" for each in findings):
        raise typer.Exit(1)
