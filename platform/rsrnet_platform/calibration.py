"""The threshold of a model's score, chosen on validation composites and the photographs they were made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import Progress

from rsrnet_platform import pool, spec
from rsrnet_platform.cluster import Cluster
from rsrnet_platform.pictures import evenly
from rsrnet_platform.terminal import console

if TYPE_CHECKING:
    from rsrnet import Localizer
    from rsrnet.data.naming import Composite

PHOTOGRAPHS = 1000
"""At most so many are scored, each with one composite: the rates are then known to 2 % or better."""

_BATCH = 16


def calibrate(checkpoint: Path, job: spec.TrainJob, composites: Sequence[Composite], place: Cluster) -> None:
    """Give a checkpoint the threshold of its score, unless it has one; say so where that is impossible.

    Args:
        checkpoint: its folder; ``config.json`` is replaced.
        job: the training.
        composites: its validation images, those that can be used.
        place: where to compute.
    """
    from rsrnet import detection
    from rsrnet.checkpoint import read_card, write_card

    card = read_card(checkpoint)
    if card.detection is not None:
        return
    photographs = Path(job.data.photographs or job.data.root)  # a pack's URI is a folder that is not there
    pairs = _pairs(photographs, composites)
    if not pairs:
        console.print(
            f"No real photographs in {photographs} (real_images), so the model gets no threshold that tells composites "
            "from photographs: set data.photographs to a dataset's folder that has them."
        )
        return
    scores = _scores(checkpoint, job, pairs, photographs, place)
    if not scores:
        console.print(
            f"None of the photographs in {photographs} (real_images) can be decoded, so the model gets no threshold "
            "that tells composites from photographs."
        )
        return
    found = detection.calibrate([score for score, _ in scores], [score for _, score in scores])
    write_card(checkpoint, replace(card, detection=found))
    console.print(
        f"Score of a composite: at least {found.threshold:.3f}, which {found.true_positive_rate:.0%} of "
        f"{found.composites:,} validation composites reach, and {found.false_positive_rate:.0%} of their photographs "
        f"(AUC {found.auc:.3f})."
    )


def _pairs(photographs: Path, composites: Sequence[Composite]) -> list[Composite]:
    """One composite of each photograph that is there, of some photographs if they are many."""
    first = {composite.real_path: composite for composite in reversed(composites)}
    return evenly([first[path] for path in sorted(first) if (photographs / path).is_file()], PHOTOGRAPHS)


def _scores(
    checkpoint: Path, job: spec.TrainJob, pairs: list[Composite], photographs: Path, place: Cluster
) -> list[tuple[float, float]]:
    """Scores of composites, each with that of its photograph."""
    tasks = [pairs[start : start + _BATCH] for start in range(0, len(pairs), _BATCH)]
    make = partial(
        Scorer, str(checkpoint), job.data.root, str(photographs), place.use_gpu, place.cpus_per_worker
    )
    scores: list[tuple[float, float]] = []
    with Progress(console=console, transient=True) as bar:
        shown = bar.add_task("Composites and their photographs", total=len(pairs))
        for _, done in pool.deal(place, make, tasks, job.cluster.max_failures):
            scores += done
            bar.update(shown, completed=len(scores))
    return scores


@dataclass
class Scorer:
    """Scores composites and their photographs; each worker has one."""

    checkpoint: str
    root: str
    photographs: str
    use_gpu: bool
    threads: int

    def __post_init__(self) -> None:
        import torch

        from rsrnet import Localizer

        torch.set_num_threads(self.threads)
        device = "cuda" if self.use_gpu else "cpu"
        self.localizer: Localizer = Localizer(self.checkpoint, device=device, batch_size=_BATCH)

    def __call__(self, composites: Sequence[Composite]) -> list[tuple[float, float]]:
        """The score of each composite and of its photograph; pairs with a photograph that is damaged are left out."""
        from rsrnet.data.decode import read_rgb
        from rsrnet.data.errors import DecodeError
        from rsrnet.data.source import open_source

        source = open_source(self.root)
        pairs = []
        for composite in composites:
            try:
                photograph = read_rgb(Path(self.photographs) / composite.real_path).pixels
            except (DecodeError, FileNotFoundError):
                continue
            pairs.append((source.open_pair(composite)[0], photograph))
        scores = [
            found.score for found in self.localizer.examine([image for pair in pairs for image in pair])
        ]
        return list(zip(scores[::2], scores[1::2], strict=True))
