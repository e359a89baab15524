"""What a check of a dataset reports, and its form in JSON.

The keys of :meth:`Report.as_json` are stable: new ones may be added, none changes its meaning.

===============  ======================================================================================
``format``       1
``root``         the dataset's folder
``ok``           whether there is no error (warnings do not count)
``derived``      whether the le50 lists were missing and made of the official ones
``lists``        names of the lists
``files``        ``checked``: files the lists need and that are there; ``decoded``: those decoded now, not remembered
``counts``       for each list and sub-dataset: ``list``, ``subset``, ``composites`` (different ones), ``published``
                 (composites of the published list, or null), ``masks``, ``photographs``, and ``findings``: how many
                 findings of each kind (see ``KINDS``) concern its files
``shared``       for each two lists and sub-dataset with something in common: ``lists``, ``subset``, ``photographs``,
                 ``scenes`` (in both), ``composites`` (of the second list, from a common photograph), ``published``
                 (whether the published lists share as much)
``findings``     all of them: ``kind``, ``severity`` (error, warning), ``file``, ``reason``
===============  ======================================================================================
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

Severity: TypeAlias = Literal["error", "warning"]


class Kind(NamedTuple):
    """One kind of finding."""

    severity: Severity
    title: str
    """What the findings have in common, for a heading."""


KINDS = {
    "bad_name": Kind("error", "lines of lists that do not name a composite"),
    "duplicate": Kind("error", "composites listed twice"),
    "in_two_lists": Kind("error", "composites in two lists"),
    "missing_subset": Kind("error", "sub-datasets without a folder"),
    "missing_composite": Kind("error", "composites that are missing"),
    "missing_mask": Kind("error", "masks that are missing"),
    "undecodable_composite": Kind("error", "composites that cannot be decoded"),
    "undecodable_mask": Kind("error", "masks that cannot be decoded"),
    "other_size": Kind("error", "composites whose mask has another size"),
    "other_orientation": Kind("error", "composites whose mask differs in size by the orientation only"),
    "unclear_orientation": Kind(
        "warning", "composites turned by EXIF, their masks not, of the same size either way"
    ),
    "mask_empty": Kind("error", "masks without foreground"),
    "mask_full": Kind("error", "masks without background"),
    "mask_over_half": Kind("warning", "masks with more than half of the image as foreground"),
    "missing_real": Kind("warning", "photographs (real_images) that are missing; no training needs them"),
    "undecodable_real": Kind("warning", "photographs (real_images) that cannot be decoded"),
    "missing_list": Kind("warning", "lists that are missing"),
    "other_count": Kind("warning", "counts that differ from the published ones"),
    "shared_photographs": Kind("warning", "photographs or scenes in two lists, not so in the published ones"),
    "unknown_file": Kind("warning", "files whose name is outside the naming scheme"),
}
"""Every kind, in the order of reports. An error is what stops a training, or makes its result wrong."""


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be."""

    kind: str
    """A key of ``KINDS``."""

    file: str
    """The file or list, relative to the dataset's folder."""

    reason: str
    """What is wrong with it."""

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return KINDS[self.kind].severity


@dataclass(frozen=True)
class Count:
    """What a list holds of one sub-dataset."""

    list: str
    subset: str
    composites: int
    published: int | None
    masks: int
    photographs: int
    findings: dict[str, int]


@dataclass(frozen=True)
class Shared:
    """What two lists have in common in one sub-dataset."""

    lists: tuple[str, str]
    subset: str
    photographs: int
    scenes: int
    composites: int
    published: bool


@dataclass(frozen=True)
class Report:
    """What a check found."""

    root: Path
    lists: tuple[str, ...]
    derived: dict[str, tuple[str, ...]]
    """Where the le50 lists were missing: their lines, by name."""

    unjudged: int
    """Composites that are in no derived list because their mask cannot be used."""

    checked: int
    """Files that the lists need and that are there."""

    decoded: int
    """Files that were decoded, not remembered."""

    counts: tuple[Count, ...]
    shared: tuple[Shared, ...]
    findings: tuple[Finding, ...]
    """In the order of ``KINDS``, then of files."""

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return all(finding.severity != "error" for finding in self.findings)

    def by_kind(self) -> dict[str, list[Finding]]:
        """The findings of each kind that has any."""
        kinds: dict[str, list[Finding]] = {}
        for finding in self.findings:
            kinds.setdefault(finding.kind, []).append(finding)
        return kinds

    def number(self, severity: Severity) -> int:
        """How many findings are as bad as this."""
        return Counter(finding.severity for finding in self.findings)[severity]

    def as_json(self) -> dict[str, Any]:
        """The whole report, for ``json.dumps``; see the module for the keys."""
        return {
            "format": 1,
            "root": str(self.root),
            "ok": self.ok,
            "derived": bool(self.derived),
            "lists": list(self.lists),
            "files": {"checked": self.checked, "decoded": self.decoded},
            "counts": [asdict(count) for count in self.counts],
            "shared": [asdict(shared) for shared in self.shared],
            "findings": [{**asdict(finding), "severity": finding.severity} for finding in self.findings],
        }
