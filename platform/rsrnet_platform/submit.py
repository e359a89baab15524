"""``rsrnet submit``: send a job file and this code to a running cluster, and follow what becomes of it.

The job runs in the environment of the cluster's machines. Nothing of this machine's environment goes along but the
commit of the code: what a job needs of tokens and keys, the cluster's machines have.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rsrnet_platform import job_api, spec
from rsrnet_platform.cluster import code_folders
from rsrnet_platform.errors import JobError
from rsrnet_platform.files import telling_of_full_disk
from rsrnet_platform.outage import pauses
from rsrnet_platform.terminal import console, duration

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

JOB = "job.yaml"
"""Name of the job file in the folder that is sent."""

PATIENCE = 60.0
"""Seconds for which the cluster may be away while a job is followed, or may not be ready to take it."""

INTERRUPTED = 130
"""Exit code after Ctrl-C; the job goes on."""

SECONDS_BETWEEN_QUESTIONS = 30.0
"""While a job is followed, the cluster is asked that often whether it is still there."""

_NO_PROGRAM = 127
_KILLED = 128


def submit(
    job: Annotated[Path, typer.Argument(help="Job file (YAML); see jobs/.", show_default=False)],
    address: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="The cluster's job API, http://HEAD:8265. Default: $RAY_API_SERVER_ADDRESS, $RAY_ADDRESS, or the "
            "cluster of this machine.",
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Override one value, as for `rsrnet run`."),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over instead of going on.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Follow the job until it ends, or leave at once.")
    ] = True,
) -> None:
    """Send a job file to a running cluster and show its log; ends with the job's exit code. Ctrl-C stops only that."""
    wanted = spec.load_for_elsewhere(job, overrides or ())
    if wanted.cluster.address == "local":
        problem = "cluster.address = 'local': leave it out; the job runs on the cluster that it is sent to"
        raise JobError(str(job), [problem])
    url = job_api.find(address)
    client = job_api.connect(url)
    submission = _send(client, url, wanted, fresh)
    console.print(f"Sent to {url} as {submission}. {_whereabouts(wanted)}")
    if wait:
        code = follow(client, url, submission)
        raise typer.Exit(code)
    console.print(_what_next(url, submission))


def _send(client: JobSubmissionClient, url: str, job: spec.Job, fresh: bool) -> str:
    """Upload the code and the job file, and start it; the cluster's name for it."""
    from rsrnet_platform import provenance

    begin = time.monotonic()
    with telling_of_full_disk(gettempdir()), TemporaryDirectory(prefix="rsrnet-submit-") as temporary:
        folder = Path(temporary)
        pack(folder, job)
        for pause in pauses():
            try:
                with job_api.explained(url):
                    return client.submit_job(
                        entrypoint=f"./{JOB} --fresh" if fresh else f"./{JOB}",
                        runtime_env={
                            "working_dir": str(folder),
                            "env_vars": provenance.environment_of_code(),
                        },
                        metadata={"job_name": job.name},
                    )
            except job_api.NotReadyError:
                if time.monotonic() - begin > PATIENCE:
                    raise
            time.sleep(pause)
    raise AssertionError("pauses never end")


def pack(folder: Path, job: spec.Job) -> None:
    """Fill a folder with what a cluster needs to run a job: the two packages, laid out as in a checkout, and the file.

    Args:
        folder: an empty one.
        job: as :func:`rsrnet_platform.spec.load_for_elsewhere` returned it.
    """
    method, platform = code_folders()
    ignored = shutil.ignore_patterns("__pycache__", ".*")
    shutil.copytree(method, folder / "rsrnet", ignore=ignored)
    shutil.copytree(platform, folder / "platform" / "rsrnet_platform", ignore=ignored)
    file = folder / JOB
    file.write_text(spec.to_yaml(job), encoding="utf-8")
    file.chmod(0o755)


def _whereabouts(job: spec.Job) -> str:
    """Where the job's folders are, which are none of this machine."""
    if isinstance(job, spec.PredictJob):
        paths = {"input": job.input, "output": job.output}
    else:
        paths = {"data.root": job.data.root, "storage": job.storage}
    told = ", ".join(f"{key} = {path}" for key, path in paths.items())
    return f"Paths are those of its machines: {told}."


def _what_next(url: str, submission: str) -> str:
    # Ray's own commands send a token only if they are told to.
    mode = os.environ.get("RAY_AUTH_MODE")
    ray = f"RAY_AUTH_MODE={mode} ray job" if mode else "ray job"
    return (
        f"Follow it: {ray} logs --follow --address {url} {submission}\n"
        f"Stop it:   {ray} stop --address {url} {submission}"
    )


def follow(client: JobSubmissionClient, url: str, submission: str) -> int:
    """Show the log of a job until it ends, and tell how.

    Args:
        client: of the job API.
        url: of the job API.
        submission: the cluster's name for the job.

    Returns:
        The exit code for this program: the job's own, or :data:`INTERRUPTED` after Ctrl-C.

    Raises:
        LostError: as :func:`watch`.
    """
    try:
        details = watch(client, url, submission, lambda text: print(text, end="", flush=True))
    except KeyboardInterrupt:
        console.print(f"\nNo longer following {submission}; the job goes on.\n{_what_next(url, submission)}")
        return INTERRUPTED
    except job_api.LostError:
        console.print(f"Whether {submission} goes on is not known from here.\n{_what_next(url, submission)}")
        raise
    return _outcome(details, submission)


def watch(client: JobSubmissionClient, url: str, submission: str, show: Callable[[str], Any]) -> JobDetails:
    """Follow a job until it has ended; a connection that breaks is made again.

    Args:
        client: of the job API.
        url: of the job API.
        submission: the cluster's name for the job.
        show: takes each new piece of the log.

    Returns:
        The job as the cluster knows it at its end.

    Raises:
        LostError: if the cluster is away for longer than :data:`PATIENCE`.
    """
    shown = 0
    lost_since: float | None = None

    def show_new(text: str) -> None:
        nonlocal shown
        shown += len(text)
        show(text)
        answered()

    def answered() -> None:
        nonlocal lost_since
        lost_since = None

    for pause in pauses():
        try:
            with job_api.explained(url):
                asyncio.run(_tail(client, url, submission, shown, show_new, answered))
                details = client.get_job_info(submission)
        except job_api.LostError:
            if lost_since is None:
                lost_since = time.monotonic()
                console.print(f"The connection to {url} broke; trying again for {duration(PATIENCE)}.")
            if time.monotonic() - lost_since > PATIENCE:
                raise
        else:
            answered()
            if details.status.is_terminal():
                return details
        time.sleep(pause)
    raise AssertionError("pauses never end")


async def _tail(
    client: JobSubmissionClient,
    url: str,
    submission: str,
    known: int,
    show: Callable[[str], Any],
    answered: Callable[[], None],
) -> None:
    """Show the log of a job from a character on, until it ends or the connection does."""
    log = asyncio.create_task(_show_log(client, submission, known, show))
    try:
        # A machine that lost its power ends no connection: a job that is silent and one that is gone look alike.
        while not (await asyncio.wait({log}, timeout=SECONDS_BETWEEN_QUESTIONS))[0]:
            await asyncio.to_thread(job_api.ask, url)
            answered()
        await log
    finally:
        log.cancel()


async def _show_log(
    client: JobSubmissionClient, submission: str, known: int, show: Callable[[str], Any]
) -> None:
    try:
        async for text in client.tail_job_logs(submission):
            new, known = text[known:], max(0, known - len(text))
            if new:
                show(new)
    except RuntimeError as error:  # Ray's word for a connection that broke
        raise ConnectionError(str(error)) from error


def _outcome(details: JobDetails, submission: str) -> int:
    """Tell how a job ended; its exit code."""
    code = details.driver_exit_code
    if details.status == "SUCCEEDED":
        console.print(f"{submission} succeeded.")
        return 0
    if details.status == "STOPPED":
        console.print(f"{submission} was stopped.")
        return _exit_code(code) or 1
    if code is None:
        console.print(
            f"{submission} could not be started or was lost: {details.message or 'no reason is known'}"
        )
        return 1
    console.print(f"{submission} failed with exit code {code}.")
    if code == _NO_PROGRAM or "ModuleNotFoundError" in (details.message or ""):
        console.print(
            "The cluster's `python` has not the packages of infra/requirements.lock: install them on its machines, and "
            "start Ray there with their environment activated."
        )
    return _exit_code(code)


def _exit_code(code: int | None) -> int:
    """What a shell would report of the job's own process."""
    return _KILLED - code if code is not None and code < 0 else code or 0
