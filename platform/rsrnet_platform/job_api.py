"""The job API of a Ray cluster: where it is, whether it answers, and what its refusals mean."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from textwrap import shorten
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rsrnet_platform.cluster import running_here, token_source
from rsrnet_platform.cluster.config import host_and_port
from rsrnet_platform.errors import UserError, causes
from rsrnet_platform.terminal import console

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_SECONDS_TO_ANSWER = 10
_ADDRESSES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
_USUAL = "http://HEAD:8265"


class LostError(UserError):
    """Raised when the cluster does not answer, which may pass."""


class NotReadyError(UserError):
    """Raised when a cluster that is starting takes no jobs yet."""


def find(given: str | None) -> str:
    """The address of the job API.

    Args:
        given: `http://host:8265`, `https://...` or `host:8265`; None: `$RAY_API_SERVER_ADDRESS`, `$RAY_ADDRESS`, or
            the cluster that runs on this machine.

    Returns:
        A URL without a slash at its end.

    Raises:
        UserError: if there is no address, or it is not one of a job API.
    """
    if given:
        return _url(given, "--address")
    if given := os.environ.get("RAY_API_SERVER_ADDRESS"):
        return _url(given, "$RAY_API_SERVER_ADDRESS")
    given = os.environ.get("RAY_ADDRESS", "")
    if "://" in given:
        return _url(given, "$RAY_ADDRESS")
    gcs = given if given not in ("", "auto", "local") else running_here()
    if gcs is None:
        raise UserError(
            f"There is no cluster to send the job to: name one with --address {_USUAL} or in $RAY_ADDRESS, or start "
            "one on this machine with `ray start --head`.\n"
            "  `rsrnet run JOB` needs none."
        )
    return _of_cluster(gcs)


def connect(url: str) -> JobSubmissionClient:
    """Open the job API at a URL that :func:`find` returned.

    Raises:
        UserError: if nobody answers there, or another program, or one that does not let this user in, or a Ray that is
            too old for this code.
    """
    with explained(url):
        _check_version(url, _version(url))
        from ray.job_submission import JobSubmissionClient

        # It tells every step of its own.
        logging.getLogger("ray").setLevel(logging.WARNING)
        for part in (
            "dashboard.modules.dashboard_sdk",
            "dashboard.modules.job.sdk",
            "_private.runtime_env.packaging",
        ):
            logging.getLogger(f"ray.{part}").setLevel(logging.WARNING)
        # Ray would prefer them to its argument.
        hidden = {name: os.environ.pop(name) for name in _ADDRESSES if name in os.environ}
        try:
            return JobSubmissionClient(url)
        finally:
            os.environ.update(hidden)


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Turn what Ray's client raises into a :class:`UserError`.

    Raises:
        LostError: if nobody answers.
        NotReadyError: if no node of the cluster takes jobs yet.
        UserError: if this user is not let in, or the answer is an error.
    """
    import aiohttp
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise UserError(_refusal(url)) from error
    except aiohttp.WSServerHandshakeError as error:
        if error.status in _GATEWAY:
            raise _lost(url, error) from error
        refused = error.status in (401, 403)
        raise UserError(_refusal(url) if refused else f"{url} answers with {error.status}.") from error
    except (requests.exceptions.InvalidJSONError, requests.exceptions.HTTPError) as error:
        if error.response is not None and error.response.status_code in _GATEWAY:
            raise _lost(url, error) from error
        raise UserError(_not_the_job_api(url, shorten(str(error), 200))) from error
    except (
        ConnectionError,
        TimeoutError,
        socket.gaierror,
        requests.RequestException,
        aiohttp.ClientError,
    ) as error:
        raise _lost(url, error) from error
    except RuntimeError as error:  # Ray's client has no other class for an answer that is an error
        if "No available agent" in str(error):
            raise NotReadyError(
                f"No node of the cluster at {url} takes jobs: it is starting, or another cluster on the same machine "
                "holds the port of its agent.\n"
                "  Wait; if that does not help, start it with a port of its own (`--dashboard-agent-listen-port`)."
            ) from error
        if any(f"status code {status}" in str(error) for status in _GATEWAY):
            raise _lost(url, error) from error
        raise UserError(f"The cluster at {url} refuses: {shorten(str(error), 500)}") from error


_GATEWAY = (502, 503, 504)
"""What a proxy answers that does not reach the cluster."""


def _lost(url: str, error: Exception) -> LostError:
    reason = shorten(str(list(causes(error))[-1]), 200)
    return LostError(
        f"No Ray cluster answers at {url} ({reason}).\n"
        f"  Its job API is usually at {_USUAL}. Where that is not reachable from here, bring it here, with "
        "`ssh -L 8265:127.0.0.1:8265 HEAD` or `kubectl port-forward service/HEAD 8265`, and use --address "
        "127.0.0.1:8265."
    )


def _url(given: str, source: str) -> str:
    text = given.strip()
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        known = False
    if "@" in text:
        raise UserError(f"{source}: a name or password does not belong into an address. {_TOKEN}")
    if not known or parts.query or parts.fragment:
        raise UserError(
            f"{given} ({source}) is not the address of a job API: name it as {_USUAL}, https://HEAD or HEAD:8265."
        )
    return parts.geturl().rstrip("/")


def _of_cluster(gcs: str) -> str:
    """The job API of a cluster that is known as `host:port`, by asking it."""
    from ray.dashboard.utils import ray_address_to_api_server_url
    from ray.exceptions import AuthenticationError, RayError

    if host_and_port(gcs) is None:
        raise UserError(
            f"{gcs} ($RAY_ADDRESS) is not the address of a Ray cluster: use host:port or {_USUAL}."
        )
    try:
        return str(ray_address_to_api_server_url(gcs))
    except AuthenticationError as error:
        raise UserError(_refusal(gcs)) from error
    except (RayError, RuntimeError, ValueError, ConnectionError) as error:
        raise UserError(
            f"The Ray cluster at {gcs} does not tell where its job API is ({shorten(str(error), 200)}).\n"
            f"  Name it: --address {_USUAL}. It is part of Ray's dashboard, without which a cluster has none."
        ) from error


def ask(url: str) -> None:
    """Ask whether the job API answers; what is raised if it does not, :func:`explained` explains."""
    _version(url)


def _version(url: str) -> str | None:
    """The version of the cluster's Ray; None: it tells only those whom it lets in."""
    import requests

    answer = requests.get(f"{url}/api/version", timeout=_SECONDS_TO_ANSWER)
    if answer.status_code in (401, 403):
        return None
    answer.raise_for_status()
    try:
        return str(answer.json()["ray_version"])
    except (KeyError, TypeError) as error:
        raise UserError(_not_the_job_api(url, "its /api/version tells no version of Ray")) from error


def _check_version(url: str, theirs: str | None) -> None:
    """A job brings its own code, which needs as new a Ray as is needed here."""
    from packaging.requirements import Requirement
    from packaging.version import InvalidVersion, Version

    ours = metadata.version("ray")
    if theirs is None or theirs == ours:
        return
    try:
        needed = [each for each in map(Requirement, metadata.requires("rsrnet") or ()) if each.name == "ray"]
    except metadata.PackageNotFoundError:
        needed = []  # run from a folder
    try:
        wrong = [str(each.specifier) for each in needed if not each.specifier.contains(Version(theirs), True)]
    except InvalidVersion:
        wrong = []
    if wrong:
        raise UserError(
            f"The cluster at {url} runs Ray {theirs}, and this code needs ray{wrong[0]}; {ours} is here.\n"
            "  Install infra/requirements.lock on its machines and start it again, or name another cluster."
        )
    console.print(f"The cluster runs Ray {theirs}; this machine has {ours}. The job uses the cluster's.")


_TOKEN = "Set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or keep the token in ~/.ray/auth_token"  # noqa: S105 (none)


def _refusal(where: str) -> str:
    source = token_source()
    if os.environ.get("RAY_AUTH_MODE", "disabled") == "disabled" and source:
        why, remedy = f"and RAY_AUTH_MODE keeps that of {source} from being sent", "Set RAY_AUTH_MODE=token"
    elif source:
        why, remedy = f"and that of {source} is not the one of this cluster", _TOKEN
    else:
        why, remedy = "and there is none here", _TOKEN
    return (
        f"The cluster at {where} asks for an access token, {why}.\n"
        f"  {remedy}. Whoever started the cluster has it: `ray get-auth-token` on the head prints it."
    )


def _not_the_job_api(url: str, why: str) -> str:
    return (
        f"What answers at {url} is not the job API of a Ray cluster ({why}).\n"
        f"  It is part of Ray's dashboard, usually at {_USUAL}."
    )
