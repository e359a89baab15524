"""`rsrnet models export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rsrnet_platform.export import FILES, check
from rsrnet_platform.export import export as write
from rsrnet_platform.terminal import console


def export(
    model: Annotated[
        str,
        typer.Argument(help="models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID or a checkpoint folder."),
    ],
    out: Annotated[Path, typer.Argument(help="Folder for the files.")],
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help=f"{' or '.join(FILES)}; default: both. Repeatable."),
    ] = None,
    tracking: Annotated[
        str | None,
        typer.Option(
            "--tracking",
            metavar="URI",
            help="MLflow store; default: $MLFLOW_TRACKING_URI or ~/rsrnet/mlflow.db.",
        ),
    ] = None,
) -> None:
    """Write a model as ONNX and as a program of torch.export, checked against the network."""
    from rsrnet_platform.lookup import resolve

    out, wanted = out.expanduser(), formats or tuple(FILES)
    check(out, wanted)  # before the model is fetched, which may be a download
    with console.status("Exporting and checking"):
        exported = write(resolve(model, tracking), out, wanted)
    for each in exported:
        typer.echo(f"{each.path}: differs from the network by at most {each.difference:.1e}")
