"""What ``rsrnet models promote`` does: the gate again, with the data of the version's own job file."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from rsrnet.uris import is_uri
from rsrnet_platform import promotion
from rsrnet_platform.cluster import ClusterConfig, connect
from rsrnet_platform.lookup import RegistryError
from rsrnet_platform.models.reading import number_in, training_of
from rsrnet_platform.store import explained

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from rsrnet.data.naming import Composite
    from rsrnet_platform.models.gate import Gate
    from rsrnet_platform.spec import TrainJob


def promote(client: MlflowClient, store: str, version: ModelVersion, root: str | None, workers: int) -> None:
    """Make a version champion if there is none or it beats the champion; record what was found.

    Args:
        client: of the store.
        store: its URI.
        version: the candidate; nobody is compared if it is champion.
        root: where its dataset lies; None: where its job file says.
        workers: on Ray, as in :class:`ClusterConfig`.

    Raises:
        UserError: (and the other errors of ``errors.USER_ERRORS``) if the data or the job file are not there.
    """
    with explained(store):
        champion = promotion.champion_of(client, version.name)
    if champion is not None and champion.version == version.version:
        promotion.complete(client, store, champion)
        return
    with ExitStack() as stack:

        @cache
        def gate() -> Gate:
            from rsrnet_platform.models.gate import gate_of

            try:
                with explained(store):
                    job = training_of(client, store, version)
            except RegistryError as error:
                raise RegistryError(f"{error}. Without it only --force promotes it") from error
            if root is not None:
                place = root if is_uri(root) else str(Path(root).expanduser().absolute())
                job = replace(job, data=replace(job.data, root=place))
            composites, fingerprint = _validation(job, version)
            cluster = stack.enter_context(connect(ClusterConfig(workers=workers)))
            parts = Path(stack.enter_context(TemporaryDirectory()))
            uri = f"models:/{version.name}/{version.version}"
            return gate_of(job, uri, composites, fingerprint, cluster, store, parts)

        score = number_in(version.tags.get("val/iou"))
        score = math.nan if score is None else score
        promotion.decide(client, store, version, score, lambda champion: gate()(champion))


def _validation(job: TrainJob, version: ModelVersion) -> tuple[Sequence[Composite], str]:
    """The images that a version was validated on, and their fingerprint.

    Raises:
        RegistryError: if they are not there: on others it may have been trained.
    """
    from rsrnet.data.errors import DataError
    from rsrnet.data.lists import fingerprint
    from rsrnet_platform.preflight import read_lists

    remedy = "Name the folder or the pack that it was trained on with --data, or promote it with --force"
    try:
        composites = read_lists(job).val
        found = fingerprint(job.data.root, composites)
    except DataError as error:
        raise RegistryError(
            f"{version.name}/{version.version}: its data cannot be read: {error}. {remedy}"
        ) from error
    if (known := version.tags.get("validation_fingerprint", found)) != found:
        raise RegistryError(
            f"{job.data.root}: these are not the images that {version.name}/{version.version} was validated on "
            f"(fingerprint {known[:12]}, here {found[:12]}). {remedy}"
        )
    return composites, found
