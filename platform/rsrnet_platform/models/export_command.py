"""`rsrnet models export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from rsrnet_platform.export import FILES, check
from rsrnet_platform.export import export as write
from rsrnet_platform.store import TrackingConfig
from rsrnet_platform.terminal import console


def export(
    model: Annotated[
        str,
        typer.Argument(
            help="NAME/VERSION, NAME@ALIAS, models:/..., VERSION of --name, runs:/ID or a checkpoint folder.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Argument(help="Folder for the files.", show_default=False)],
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help=f"{' or '.join(FILES)}; default: both. Repeatable."),
    ] = None,
    name: Annotated[
        str, typer.Option("--name", help="Registered model of a version that is a number alone.")
    ] = TrackingConfig().model or "",
    tracking: Annotated[
        str | None,
        typer.Option(
            "--tracking",
            metavar="URI",
            help="MLflow store; default: $MLFLOW_TRACKING_URI or ~/rsrnet/mlflow.db.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a model as ONNX and as a program of torch.export, checked against the network."""
    from rsrnet_platform.lookup import pin, resolve, uri_of

    out, wanted = out.expanduser(), formats or tuple(FILES)
    check(out, wanted)  # before the model is fetched, which may be a download
    uri = model if Path(model).expanduser().is_dir() else uri_of(model, name)
    with console.status("Exporting and checking"):
        uri = pin(uri, tracking)
        exported = write(resolve(uri, tracking), out, wanted)
    if as_json:
        files = [{"path": str(each.path), "difference": each.difference} for each in exported]
        typer.echo(json.dumps({"model": uri, "files": files}, indent=2))
        return
    for each in exported:
        typer.echo(f"{each.path}: differs from the network by at most {each.difference:.1e}")
