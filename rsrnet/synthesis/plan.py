"""What a sample consists of: how many composites, and which photograph each is made from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rsrnet.config import require
from rsrnet.synthesis.compose import COMPOSITES_PER_VIEW
from rsrnet.synthesis.photos import SPLITS, Photograph, PhotographError, Split

_REFERENCES_PER_VIEW = 8


@dataclass(frozen=True)
class SampleConfig:
    """What to build. The same configuration and photographs give the same bytes."""

    train: int = 1200
    """Composites for training."""

    val: int = 120
    """Composites for validation."""

    test: int = 120
    """Composites for the test."""

    size: int = 160
    """Side of a crop, or longest side of a photograph that has a mask of its own, in pixels."""

    seed: int = 42
    """Seed of every random choice."""

    def __post_init__(self) -> None:
        require(
            self,
            train=(self.train >= 1, "a whole number, at least 1"),
            val=(self.val >= 1, "a whole number, at least 1"),
            test=(self.test >= 1, "a whole number, at least 1"),
            size=(32 <= self.size <= 1024, "32 to 1024 (pixels)"),
            seed=(self.seed >= 0, "a whole number, at least 0"),
        )


@dataclass(frozen=True)
class Job:
    """One view to compose."""

    photograph: Photograph
    references: tuple[Photograph, ...]
    view: int
    composites: int
    size: int
    seed: np.random.SeedSequence


def split_photographs(
    photographs: Sequence[Photograph], config: SampleConfig
) -> dict[Split, tuple[Photograph, ...]]:
    """Split photographs at random, in the proportions of the composites asked for, at least one to each.

    Raises:
        PhotographError: if there are fewer than three.
    """
    count = len(photographs)
    if count < len(SPLITS):
        raise PhotographError(
            f"{photographs[0].path.parent} holds {count} photographs; train, val and test need one each: "
            f"add {len(SPLITS) - count} or more"
        )
    composites = config.train + config.val + config.test
    most = (count - 1) // 2
    val, test = (min(max(1, round(count * part / composites)), most) for part in (config.val, config.test))
    order = np.random.default_rng(config.seed).permutation(count)
    shuffled = tuple(photographs[index] for index in order)
    return {"train": shuffled[test + val :], "val": shuffled[test : test + val], "test": shuffled[:test]}


def plan_views(
    config: SampleConfig, photographs: dict[Split, tuple[Photograph, ...]]
) -> dict[Split, list[Job]]:
    """Share the composites of each split out evenly over its photographs, and cut them into views.

    Each view has a seed of its own, so that it does not matter in which process or order views are composed.
    """
    plan: dict[Split, list[Job]] = {}
    for split_index, split in enumerate(SPLITS):
        photos = photographs[split]
        share, rest = divmod(getattr(config, split), len(photos))
        plan[split] = [
            job
            for index in range(len(photos))
            for job in _views(photos, index, share + (index < rest), config, split_index)
        ]
    return plan


def _views(
    photos: tuple[Photograph, ...], index: int, composites: int, config: SampleConfig, split_index: int
) -> Iterator[Job]:
    others = photos[index + 1 :] + photos[:index]
    # Every drawn region gets a crop of its own; photographs with their own mask have but one view.
    per_view = 1 if photos[index].mask is None else COMPOSITES_PER_VIEW
    for view, start in enumerate(range(0, composites, per_view)):
        # Every photograph gets its turn to lend colours, though a view has only a few to choose from.
        turn = view % len(others) if others else 0
        references = (others[turn:] + others[:turn])[:_REFERENCES_PER_VIEW]
        count = min(per_view, composites - start)
        seed = np.random.SeedSequence(config.seed, spawn_key=(split_index, index, view))
        yield Job(photos[index], references, view, count, config.size, seed)
