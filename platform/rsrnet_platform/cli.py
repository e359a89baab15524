"""The command line. Nothing heavy is imported before it is needed, so help and refusals come at once."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

import rsrnet
from rsrnet_platform import spec
from rsrnet_platform.cluster import foresee, settle_environment
from rsrnet_platform.doctor.command import doctor
from rsrnet_platform.errors import is_user_error
from rsrnet_platform.models.commands import app as models_app
from rsrnet_platform.profiling.command import profile
from rsrnet_platform.secrecy import masked
from rsrnet_platform.store import resolve_uri
from rsrnet_platform.submit import submit
from rsrnet_platform.terminal import console

RUNNERS = {
    "train": "rsrnet_platform.train:run",
    "tune": "rsrnet_platform.tune:run",
    "evaluate": "rsrnet_platform.evaluate:run",
    "iterations": "rsrnet_platform.iterations:run",
    "robustness": "rsrnet_platform.robustness:run",
    "ablate": "rsrnet_platform.ablate:run",
    "predict": "rsrnet_platform.predict:run",
}
"""The function that runs each `kind:` of job, called as ``run(job, fresh=...)``."""

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
data_app = typer.Typer(no_args_is_help=True)
app.add_typer(data_app, name="data", help="Make and check datasets.")
app.add_typer(models_app, name="models", help="Look at registered models, and change which is champion.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and leave the process.

    The exit code is 0 after success, 2 if the user asked for something impossible (one message), 1 after any
    other failure (with its traceback).

    Args:
        arguments: the command and its options; default: those of the process.
    """
    settle_environment()
    # So that an ended job says so in MLflow: Python would leave without running any `finally`.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        app(arguments, prog_name="rsrnet")
    except Exception as error:
        if not is_user_error(error):
            raise
        console.print(Text("Error: ", style="bold red") + Text(masked(str(error))))
        sys.exit(2)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rsrnet {rsrnet.__version__}")
        raise typer.Exit


@app.callback(help=(rsrnet.__doc__ or "").split("\n\n")[0])
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and leave."),
    ] = False,
) -> None:
    pass


@app.command()
def run(
    job: Annotated[Path, typer.Argument(help="Job file (YAML); see jobs/.", show_default=False)],
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="PATH=VALUE", help="Override one value, such as fit.lr=3e-4. Repeatable."
        ),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over instead of going on.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Check the file and the room for it, print it resolved, start nothing."
        ),
    ] = False,
) -> None:
    """Run a job file: training, prediction, whatever its `kind` is."""
    wanted = spec.load(job, overrides or ())
    if dry_run:
        _describe(wanted)
        return
    resolve_name(RUNNERS[wanted.kind])(wanted, fresh=fresh)


def _describe(job: spec.Job) -> None:
    """The resolved job on the standard output, where it can become a file; what it would use beside it."""
    place = foresee(job.cluster)
    if isinstance(job, spec.SearchJob):
        with console.status("Timing a few training steps"):
            console.print(str(resolve_name("rsrnet_platform.search.forecast:forecast")(job, place)))
    else:
        console.print(f"Computes with {place}.")
    use = "Models are looked up" if isinstance(job, spec.PredictJob) else "Tracked"
    console.print(f"{use} in {resolve_uri(job.tracking)}.")
    typer.echo(spec.to_yaml(job), nl=False)


app.command()(submit)
app.command()(doctor)
app.command()(profile)


@app.command()
def demo() -> None:
    """Sample dataset, quick training, prediction and comparison: everything once, in minutes."""
    resolve_name("rsrnet_platform.demo:main")()


@data_app.command()
def sample(
    out: Annotated[Path, typer.Argument(help="The folder to make.", show_default=False)],
    train: Annotated[int | None, typer.Option(help="Composites for training.")] = None,
    val: Annotated[int | None, typer.Option(help="Composites for validation.")] = None,
    test: Annotated[int | None, typer.Option(help="Composites for the test.")] = None,
    size: Annotated[int | None, typer.Option(help="Side of a composite, in pixels.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same bytes.")] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of your own photographs, instead of the built-in ones.")
    ] = None,
    masks: Annotated[
        Path | None, typer.Option(help="Folder with a mask for each of your photographs, of the same name.")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(help="Processes to use; default: one for each processor.")
    ] = None,
) -> None:
    """Make composites from real photographs, split by photograph into training, validation and test."""
    from rsrnet.synthesis.sample import SampleConfig, build_sample

    asked: dict[str, Any] = {"train": train, "val": val, "test": test, "size": size, "seed": seed}
    config = SampleConfig(**{name: value for name, value in asked.items() if value is not None})
    with Progress(console=console) as bar:
        task = bar.add_task("Composites", total=config.train + config.val + config.test)
        report = build_sample(
            out.expanduser(),
            config,
            images=images and images.expanduser(),
            masks=masks and masks.expanduser(),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
            processes=processes,
        )
        bar.update(task, completed=bar.tasks[task].total)
    counts = ", ".join(f"{count} {split}" for split, count in report.composites.items())
    typer.echo(f"{report.root}: {counts} composites{' (already there)' if report.reused else ''}")


@data_app.command()
def check(
    root: Annotated[Path, typer.Argument(help="The dataset's folder.", show_default=False)],
    lists: Annotated[
        list[str] | None,
        typer.Option(
            "--list",
            metavar="NAME",
            help="A list to check; default: the le50 lists, or IHD_*.txt. Repeatable.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print everything that was found as JSON, instead of a table.")
    ] = False,
    write_lists: Annotated[
        bool,
        typer.Option("--write-lists", help="Write the le50 lists that IHD_*.txt give, if there are none."),
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Decode everything again, also what earlier checks have seen.")
    ] = False,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes to use; default: one for each processor.")
    ] = None,
) -> None:
    """Check a dataset: its lists, every file they name, and the published counts. Ends with 1 if there are errors."""
    import json

    from rsrnet.data import check as checking
    from rsrnet_platform.check_table import show

    root = root.expanduser()
    if write_lists:
        checking.require_derivable(root, lists or ())
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("Files", total=None)
        report = checking.check(
            root,
            lists or (),
            processes=processes,
            fresh=fresh,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if as_json:
        typer.echo(json.dumps(report.as_json(), indent=2))
    else:
        show(report, Console(highlight=False, markup=False, soft_wrap=True))
    if write_lists:
        for path in checking.write_lists(report):
            console.print(f"Written: {path}")
    elif report.derived:
        names = " and ".join(report.derived)
        console.print(f"{names} were derived, not written: --write-lists writes them.")
    if not report.ok:
        raise typer.Exit(1)


@data_app.command()
def pack(
    root: Annotated[Path, typer.Argument(help="The dataset's folder.", show_default=False)],
    out: Annotated[
        str, typer.Argument(help="Folder or URI (s3://bucket/pack) of the pack.", show_default=False)
    ],
    side: Annotated[
        int | None, typer.Option(help="Shorter side of a packed image, in pixels; default: 256.")
    ] = None,
    format_: Annotated[
        str | None, typer.Option("--format", help="jpeg, the default, or png, which loses nothing.")
    ] = None,
    quality: Annotated[int | None, typer.Option(help="Of JPEG, 1 to 100; default: 95.")] = None,
    lists: Annotated[
        list[str] | None,
        typer.Option("--list", metavar="NAME", help="A list to pack; default: the le50 lists. Repeatable."),
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out what cannot be read, instead of refusing to finish.")
    ] = False,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes to use; default: one for each processor.")
    ] = None,
) -> None:
    """Pack a dataset at the training size; `data.root` of a job may then be the pack. Goes on if interrupted."""
    from rsrnet.data.pack.layout import PackConfig
    from rsrnet.data.pack.write import pack as write_pack
    from rsrnet.uris import is_uri

    asked: dict[str, Any] = {"side": side, "format": format_, "quality": quality}
    config = PackConfig(**{name: value for name, value in asked.items() if value is not None})
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("Composites", total=None)
        report = write_pack(
            root.expanduser(),
            out if is_uri(out) else str(Path(out).expanduser()),
            config,
            lists or (),
            skip_bad=skip_bad,
            processes=processes,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    for reason in report.skipped:
        console.print(f"Left out: {reason}")
    counts = ", ".join(f"{count:,} of {name}" for name, count in report.composites.items())
    there = f", {report.reused} of them there already" if report.reused else ""
    typer.echo(f"{out}: {counts}; {report.shards} shards{there}, {report.bytes / 1e6:,.1f} MB")
