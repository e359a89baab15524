"""Names in the published layout of iHarmony4: what one composite's file name says.

A composite is ``SUB/composite_images/<prefix><image id>_<mask id>_<k>.jpg``, made from the photograph
``SUB/real_images/<prefix><image id>.jpg`` by recolouring the region that
``SUB/masks/<prefix><image id>_<mask id>.png`` shows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import PurePosixPath

from rsrnet.data.errors import DataError

SUBSETS = {"HCOCO": "c", "HAdobe5k": "a", "HFlickr": "f", "Hday2night": "d", "Sample": "s"}
"""The sub-datasets, each with the first letter of its file names; ``rsrnet data sample`` makes `Sample`."""

SCENES = frozenset({"Hday2night", "Sample"})
"""Sub-datasets that hold several images of one scene; their image ids begin with ``<scene>-``."""

SCHEME = "SUB/composite_images/<prefix><image id>_<mask id>_<k>.jpg"

_CANONICAL = {name.lower(): name for name in SUBSETS}
_BY_PREFIX = {prefix: name for name, prefix in SUBSETS.items()}
_NAME = re.compile(r"(?P<prefix>[a-z])(?P<image_id>[^_\0]+)_(?P<mask_id>[^_\0]+)_(?P<k>[1-9][0-9]*)\.jpg")


@dataclass(frozen=True, slots=True)
class Composite:
    """One composite image; paths are relative to the root of the dataset and use forward slashes."""

    subset: str
    """Sub-dataset, in the spelling of ``SUBSETS``."""

    folder: str
    """Folder of the sub-dataset as spelled on disk; published copies differ in case."""

    image_id: str
    """Photograph it was made from."""

    mask_id: str
    """Region that was recoloured."""

    k: int
    """Which of the composites of this photograph and region."""

    @classmethod
    def parse(cls, path: str) -> Composite:
        """Read a line of a list or a path.

        Only the last three parts count, so the root may have any name. A bare file name is enough: its first
        letter tells the sub-dataset.

        Args:
            path: such as ``HCOCO/composite_images/c100034_658772_1.jpg``.

        Raises:
            DataError: if the path does not follow the naming scheme.
        """
        parts = PurePosixPath(path).parts
        match = _NAME.fullmatch(parts[-1]) if parts else None
        if match is None or match["prefix"] not in _BY_PREFIX:
            raise DataError(f"{path!r} is not the name of a composite; the scheme is {SCHEME}")
        subset = _BY_PREFIX[match["prefix"]]
        folder = _folder(path, parts, subset)
        return cls(subset, folder, match["image_id"], match["mask_id"], int(match["k"]))

    @property
    def name(self) -> str:
        """File name of the composite, such as ``c100034_658772_1.jpg``."""
        return f"{SUBSETS[self.subset]}{self.image_id}_{self.mask_id}_{self.k}.jpg"

    @property
    def path(self) -> str:
        """Path of the composite image."""
        return f"{self.folder}/composite_images/{self.name}"

    @property
    def mask_path(self) -> str:
        """Path of the mask of the recoloured region."""
        return f"{self.folder}/masks/{SUBSETS[self.subset]}{self.image_id}_{self.mask_id}.png"

    @property
    def real_path(self) -> str:
        """Path of the untouched photograph."""
        return f"{self.folder}/real_images/{SUBSETS[self.subset]}{self.image_id}.jpg"

    @property
    def group(self) -> str:
        """What must stay on one side of a split: the scene where there are scenes, else the photograph."""
        image = self.image_id.split("-", 1)[0] if self.subset in SCENES else self.image_id
        return f"{self.subset}/{image}"

    def in_folder(self, folder: str) -> Composite:
        """Return the same composite in a sub-dataset folder of another spelling."""
        return self if folder == self.folder else replace(self, folder=folder)


def canonical_subset(name: str) -> str:
    """Return the spelling of a sub-dataset's name used in ``SUBSETS``, whatever its case.

    Raises:
        DataError: if there is no such sub-dataset, with the nearest one.
    """
    if name.lower() in _CANONICAL:
        return _CANONICAL[name.lower()]
    near = get_close_matches(name.lower(), _CANONICAL, n=1)
    hint = f"; did you mean {_CANONICAL[near[0]]}?" if near else ""
    raise DataError(f"there is no sub-dataset {name!r}: they are {', '.join(SUBSETS)}{hint}")


def _folder(path: str, parts: tuple[str, ...], subset: str) -> str:
    """Return the sub-dataset's folder as the path spells it, checking it against the prefix of the name."""
    if len(parts) == 1:
        return subset
    if len(parts) == 2 or parts[-2] != "composite_images":
        raise DataError(f"{path!r} is not the path of a composite; the scheme is {SCHEME}")
    if canonical_subset(parts[-3]) != subset:
        raise DataError(f"{path!r} lies in {parts[-3]}, but its name begins like those of {subset}")
    return parts[-3]
