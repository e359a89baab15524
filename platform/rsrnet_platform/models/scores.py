"""Test scores of a registered version, which an evaluation adds to it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rsrnet_platform.models.lock import changing
from rsrnet_platform.store import explained, open_client

if TYPE_CHECKING:
    from rsrnet.evaluation.summary import Slice


def add_test_scores(
    uri: str, model: str, slices: Sequence[Slice], *, fingerprint: str, size: int, run_id: str
) -> None:
    """Keep test scores on a registered version, as tags ``test/...``, in place of those of an earlier evaluation.

    Args:
        uri: the store.
        model: what was evaluated; nothing is kept unless it is ``models:/NAME/VERSION``.
        slices: means of M_fnl under the published protocol; each gives ``test/SLICE/iou`` and so on, that of all
            images ``test/iou``.
        fingerprint: of the test images.
        size: side of the network's input that they were scored at, in pixels.
        run_id: the run that measured them.

    Raises:
        TrackingError: if the store cannot be used.
    """
    from rsrnet.evaluation.columns import PAPERS
    from rsrnet.evaluation.published import ALL

    version = re.fullmatch(r"models:/([^/@]+)/(\d+)", model)
    if version is None:
        return
    name, number = version.groups()
    tags = {"test_fingerprint": fingerprint, "test_size": str(size), "test_run": run_id}
    for part in slices:
        where = "/".join(filter(None, ["test", part.name.removeprefix(ALL).strip(", ").replace(", ", "_")]))
        scores = {**part.scores(PAPERS)._asdict(), "images": part.images}
        tags |= {f"{where}/{metric}": str(value) for metric, value in scores.items()}
    with explained(uri):
        client = open_client(uri)
        with changing(client, uri, name):
            old = client.get_model_version(name, number).tags
            for key in [key for key in old if key.startswith("test/") and key not in tags]:
                client.delete_model_version_tag(name, number, key)
            for key, value in tags.items():
                client.set_model_version_tag(name, number, key, value)
