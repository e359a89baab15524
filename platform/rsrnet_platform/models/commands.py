"""``rsrnet models ...``: look at registered models, and change which of them is champion."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rsrnet_platform.models.export_command import export
from rsrnet_platform.store import TrackingConfig, connect, explained, resolve_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from rich.console import Console

NAME = TrackingConfig().model or ""
WIDTH = 100
"""Columns of the tables where there is no terminal."""

app = typer.Typer(no_args_is_help=True)
app.command()(export)

Tracking = Annotated[
    str | None,
    typer.Option(
        "--tracking", metavar="URI", help="MLflow store; default: $MLFLOW_TRACKING_URI or ~/rsrnet/mlflow.db."
    ),
]
Name = Annotated[str, typer.Option("--name", help="Registered model of a version that is a number alone.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Version = Annotated[
    str,
    typer.Argument(help="NAME/VERSION, NAME@ALIAS, models:/..., or VERSION of --name.", show_default=False),
]


@app.command("list")
def list_models(tracking: Tracking = None, as_json: AsJson = False) -> None:
    """Every registered model and version: scores, date, and why it is or is not champion."""
    from rsrnet_platform.models import reading, tables

    with _store(tracking) as (client, store):
        models = reading.every_model(client)
        if as_json:
            _print_json([asdict(model) for model in models])
            return
        out = _out()
        for model in models:
            out.print(tables.listing(model).for_terminal())
        if not models:
            out.print(f"No model is registered in {store} yet: train one.")


@app.command()
def show(
    model: Version,
    name: Name = NAME,
    tracking: Tracking = None,
    as_json: AsJson = False,
    job: Annotated[
        bool, typer.Option("--job", help="Print the resolved job file, for `rsrnet run`.")
    ] = False,
) -> None:
    """Everything about a version: scores by sub-dataset, data, code, decision, and the champions so far."""
    from rsrnet_platform import strict_yaml
    from rsrnet_platform.lookup import find_version
    from rsrnet_platform.models import reading, tables

    with _store(tracking) as (client, store):
        found = find_version(client, store, model, name)
        if job:
            text = reading.job_text(client, store, found)
            if as_json:
                _print_json(strict_yaml.read(text))
            else:
                typer.echo(text, nl=False)
            return
        whole = reading.one_model(client, found.name)
        version = reading.version_in(whole, int(found.version))
        if as_json:
            _print_json(asdict(version) | {"history": [asdict(event) for event in whole.history]})
            return
        out = _out()
        out.print(tables.facts(version))
        for sheet in filter(None, (tables.scores(version), tables.events(whole))):
            out.print(sheet.for_terminal())


@app.command()
def compare(
    first: Version, second: Version, name: Name = NAME, tracking: Tracking = None, as_json: AsJson = False
) -> None:
    """Two versions side by side: scores, and the settings, data and code that differ."""
    from rsrnet_platform.lookup import find_version
    from rsrnet_platform.models import comparison, reading, tables

    with _store(tracking) as (client, store):
        versions = [find_version(client, store, model, name) for model in (first, second)]
        one, other = (
            reading.version_in(reading.one_model(client, version.name), int(version.version))
            for version in versions
        )
        settings = (
            reading.settings_of(client, store, versions[0]),
            reading.settings_of(client, store, versions[1]),
        )
    found = comparison.compare(one, other, settings)
    if as_json:
        lines = [asdict(line) | {"difference": line.difference} for line in found.scores]
        _print_json(asdict(found) | {"scores": lines})
        return
    out = _out()
    for part in tables.comparison(found):
        out.print(part if isinstance(part, str) else part.for_terminal())


@app.command()
def promote(
    version: Version,
    force: Annotated[bool, typer.Option("--force", help="Make it champion without a comparison.")] = False,
    data: Annotated[
        str | None,
        typer.Option(metavar="ROOT", help="Where its dataset lies now; default: data.root of its job file."),
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Workers on Ray that score; 0: this process.")] = 0,
    name: Name = NAME,
    tracking: Tracking = None,
    as_json: AsJson = False,
) -> None:
    """Make a version champion if it beats the champion on its validation images. Ends with 1 if it does not."""
    from rsrnet_platform import promotion
    from rsrnet_platform.lookup import find_version
    from rsrnet_platform.models import changes, reading

    with _store(tracking) as (client, store):
        found = find_version(client, store, version, name)
    if force:
        promotion.force(client, store, found)
    else:
        changes.promote(client, store, found, data, workers)
    with explained(store):
        now = reading.version_in(reading.one_model(client, found.name), int(found.version))
    if as_json:
        _print_json(asdict(now))
    else:
        typer.echo(f"{now.name}/{now.version} is {'' if now.champion else 'not '}champion: {now.why}.")
    if not now.champion:
        raise typer.Exit(1)


@app.command()
def rollback(
    model: Annotated[str, typer.Argument(metavar="[NAME]", help="The registered model.")] = NAME,
    tracking: Tracking = None,
    as_json: AsJson = False,
) -> None:
    """Make the champion before this one champion again; once more goes back further."""
    from rsrnet_platform import promotion
    from rsrnet_platform.lookup import require_model

    with _store(tracking) as (client, store):
        require_model(client, store, model)
    event = promotion.rollback(client, store, model)
    if as_json:
        _print_json(asdict(event))
    else:
        instead = "" if event.before is None else f", instead of version {event.before}"
        typer.echo(f"{model}: version {event.version} is champion again{instead}.")


@app.command()
def delete(
    version: Version,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    name: Name = NAME,
    tracking: Tracking = None,
    as_json: AsJson = False,
) -> None:
    """Delete a version that is not champion. Its run stays, with all that it holds."""
    from rsrnet_platform import promotion
    from rsrnet_platform.lookup import find_version

    with _store(tracking) as (client, store):
        found = find_version(client, store, version, name)
        promotion.require_no_champion(client, found)
    uri = f"models:/{found.name}/{found.version}"
    if not yes:
        typer.confirm(f"Delete {uri} for good?", abort=True, err=True)
    promotion.delete(client, store, found)
    if as_json:
        _print_json({"deleted": uri, "run_id": found.run_id})
    else:
        stays = (
            f" Its run stays, with all that it holds: runs:/{found.run_id} still loads the weights."
            if found.run_id
            else ""
        )
        typer.echo(f"{uri} is deleted, and its number is not given again.{stays}")


@contextmanager
def _store(tracking: str | None) -> Iterator[tuple[MlflowClient, str]]:
    """The store that a command is about, which must exist."""
    store = resolve_uri(TrackingConfig(uri=tracking))
    client = connect(store)
    with explained(store):
        yield client, store


def _out() -> Console:
    from rich.console import Console

    out = Console(highlight=False, markup=False)
    if not out.is_terminal:
        out.width = max(out.width, WIDTH)
    return out


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, allow_nan=False))
