"""Which composites to train and test on, and how they are read.

Imports no torch: it is part of the schema of job files, which must be parsed fast.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rsrnet.config import require
from rsrnet.data.errors import DataError
from rsrnet.data.naming import SUBSETS, canonical_subset
from rsrnet.uris import is_uri


@dataclass(frozen=True)
class DataConfig:
    """A dataset in the published layout, or packed. The defaults are the paper's."""

    root: str
    """Folder that holds the sub-datasets and the lists; or a pack of them (`rsrnet data pack`): folder or URI, and the
    lists below are those that were packed."""

    photographs: str | None = None
    """Folder in the published layout whose `real_images` teach a model's score what a photograph looks like; null:
    `root`. A pack holds none."""

    train: str = "le50_train.txt"
    """List of training composites, relative to `root` or absolute (paper: foregrounds up to 50 %)."""

    val: str | None = None
    """List of validation composites; none: hold out `val_fraction` of the training list."""

    val_fraction: float = 0.1
    """Share of the training list held out when there is no `val` list; no photograph or scene is split."""

    test: str = "le50_test.txt"
    """List of test composites, relative to `root` or absolute."""

    subsets: tuple[str, ...] = ()
    """Sub-datasets to use, such as HCOCO; empty: all that the lists name."""

    size: int = 224
    """Side of the square that images and masks are resized to, in pixels (paper: 224)."""

    on_bad_image: Literal["stop", "skip"] = "stop"
    """What to do when the check before the training finds an image that cannot be decoded, has no mask or one of
    another size."""

    loader_processes: int = 2
    """Processes that read and augment images for each worker; 0: the worker itself."""

    def __post_init__(self) -> None:
        require(
            self,
            root=(bool(self.root), "the path of a folder, or of a pack"),
            photographs=(
                self.photographs != "" and not is_uri(self.photographs or ""),
                "the path of a folder, or null",
            ),
            train=(bool(self.train), "the name of a list"),
            val=(self.val != "", "the name of a list, or null"),
            val_fraction=(0 < self.val_fraction < 1, "a number above 0 and below 1"),
            test=(bool(self.test), "the name of a list"),
            subsets=_check_subsets(self.subsets),
            size=(self.size >= 32, "a whole number, at least 32"),
            on_bad_image=(self.on_bad_image in ("stop", "skip"), "stop or skip"),
            loader_processes=(self.loader_processes >= 0, "a whole number, at least 0"),
        )


def _check_subsets(subsets: tuple[str, ...]) -> tuple[bool, str]:
    """Tell whether all sub-datasets exist and, if not, what is wrong with the first that does not."""
    try:
        for name in subsets:
            canonical_subset(name)
    except DataError as error:
        return False, str(error)
    return True, f"some of {', '.join(SUBSETS)}"
