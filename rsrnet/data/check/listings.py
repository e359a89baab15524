"""What lists name, what is wrong with that, and what lists have in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from rsrnet.data.check import published
from rsrnet.data.check.facts import Facts, usable
from rsrnet.data.check.findings import KINDS, Count, Finding, Shared
from rsrnet.data.errors import DataError
from rsrnet.data.folder import read_lines, require_folder
from rsrnet.data.naming import SCENES, SUBSETS, Composite


@dataclass(frozen=True)
class Listing:
    """What a list names."""

    name: str
    """The list's, as it was asked for."""

    composites: tuple[Composite, ...]
    """Different ones, in the list's order."""


def choose(root: Path, asked: Sequence[str]) -> tuple[list[str], list[Finding]]:
    """Choose the lists to check: those asked for, else the usual ones that are there.

    Returns:
        Their names, and a finding for each that one would expect beside them.

    Raises:
        DataError: if there is no such folder, it may not be read, or no list is in it.
    """
    require_folder(root)
    if asked:
        return list(dict.fromkeys(asked)), []
    for usual in (published.LISTS, tuple(published.OFFICIAL)):
        there = [name for name in usual if (root / name).is_file()]
        absent = [name for name in usual if name not in there and name in published.COUNTS]
        if there:
            return there, [Finding("missing_list", name, f"not in {root}") for name in absent]
    found = ", ".join(sorted(path.name for path in root.glob("*.txt"))) or "no list"
    raise DataError(
        f"{root} holds {found}; put le50_train.txt and le50_test.txt (or IHD_train.txt and IHD_test.txt) there, or"
        " name the lists with --list"
    )


def are_official(names: Sequence[str]) -> bool:
    """Whether these are iHarmony4's own lists, to which large foregrounds belong."""
    return all(name in published.OFFICIAL for name in names)


def read(root: Path, name: str, folders: Mapping[str, str]) -> tuple[Listing, list[Finding]]:
    """Read a list, and say what is wrong with its lines.

    Args:
        root: folder of the dataset.
        name: the list.
        folders: the folders of the dataset as spelled on disk, by their names in lower case.

    Raises:
        DataError: if there is no such list, it may not be read, or it is not text.
    """
    findings = []
    lines: dict[Composite, int] = {}
    for number, line in enumerate(read_lines(root, root / name), start=1):
        if not line.strip():
            continue
        try:
            composite = Composite.parse(line.strip())
        except DataError as error:
            findings.append(Finding("bad_name", name, f"line {number}: {error}"))
            continue
        composite = composite.in_folder(folders.get(composite.folder.lower(), composite.folder))
        first = lines.setdefault(composite, number)
        if first != number:
            findings.append(
                Finding("duplicate", name, f"line {number}: {composite.path} is on line {first} already")
            )
    for folder, count in Counter(composite.folder for composite in lines).items():
        if folder.lower() not in folders:
            findings.append(Finding("missing_subset", folder, f"{name} lists {count:,} composites of it"))
    return Listing(name, tuple(lines)), findings


def derive(official: Listing, facts: Mapping[str, Facts]) -> Listing:
    """Derive the le50 list from an official one: leave large foregrounds out, and masks that cannot be used."""
    kept = (
        composite
        for composite in official.composites
        if (part := share(composite, facts)) is not None and part <= published.LARGEST_FOREGROUND
    )
    return Listing(published.OFFICIAL[official.name], tuple(kept))


def share(composite: Composite, facts: Mapping[str, Facts]) -> float | None:
    """The part of a composite's image that is foreground; none if its mask cannot be used."""
    mask = usable(facts.get(composite.mask_path))
    return None if mask is None else mask.share


def in_two(listings: Sequence[Listing]) -> Iterator[Finding]:
    """Find composites that are in two lists."""
    for one, other in combinations(listings, 2):
        for composite in {*one.composites} & {*other.composites}:
            yield Finding("in_two_lists", composite.path, f"in {one.name} and {other.name}")


def other_counts(listings: Sequence[Listing]) -> Iterator[Finding]:
    """Find sub-datasets of which a list holds more or less than the published list of its name."""
    for listing in listings:
        for subset in _subsets(listing):
            count = sum(composite.subset == subset for composite in listing.composites)
            expected = _published(listing, subset)
            if expected not in (None, count):
                reason = f"{subset}: {count:,} composites; the published list has {expected:,}"
                yield Finding("other_count", listing.name, reason)


def counts(listings: Sequence[Listing], findings: Sequence[Finding]) -> Iterator[Count]:
    """Count, for each list and sub-dataset, what it holds and the findings about its files."""
    kinds: dict[str, list[str]] = {}
    for finding in findings:
        kinds.setdefault(finding.file, []).append(finding.kind)
    for listing in listings:
        for subset in _subsets(listing):
            members = [composite for composite in listing.composites if composite.subset == subset]
            composites, masks, reals = (
                {path(composite) for composite in members}
                for path in (lambda c: c.path, lambda c: c.mask_path, lambda c: c.real_path)
            )
            found = Counter(kind for path in composites | masks | reals for kind in kinds.get(path, ()))
            yield Count(
                list=listing.name,
                subset=subset,
                composites=len(composites),
                published=_published(listing, subset),
                masks=len(masks),
                photographs=len(reals),
                findings={kind: found[kind] for kind in KINDS if found[kind]},
            )


def shared(listings: Sequence[Listing]) -> list[Shared]:
    """Find what each two lists have in common."""
    return [
        common
        for one, other in combinations(listings, 2)
        for subset in SUBSETS
        if (common := _common(one, other, subset)) is not None
    ]


def unexpected(found: Sequence[Shared]) -> Iterator[Finding]:
    """Turn what the published lists do not have in common into findings."""
    for each in found:
        if not each.published:
            scenes = f" and {each.scenes:,} scenes" if each.scenes else ""
            reason = f"{each.subset}: {each.photographs:,} photographs{scenes} are in {each.lists[0]} too"
            yield Finding("shared_photographs", each.lists[1], reason)


def _common(one: Listing, other: Listing, subset: str) -> Shared | None:
    first, second = (
        [composite for composite in listing.composites if composite.subset == subset]
        for listing in (one, other)
    )
    reals = {composite.real_path for composite in first} & {composite.real_path for composite in second}
    groups = {composite.group for composite in first} & {composite.group for composite in second}
    scenes = len(groups) if subset in SCENES else 0
    if not reals and not scenes:
        return None
    return Shared(
        lists=(one.name, other.name),
        subset=subset,
        photographs=len(reals),
        scenes=scenes,
        composites=sum(composite.real_path in reals for composite in second),
        published=(one.name, other.name) == published.SPLIT
        and len(reals) <= published.SHARED_PHOTOGRAPHS.get(subset, 0)
        and scenes <= published.SHARED_SCENES.get(subset, 0),
    )


def _subsets(listing: Listing) -> list[str]:
    """The sub-datasets of a list and, if it holds any of iHarmony4, all of the published list of its name."""
    there = {composite.subset for composite in listing.composites}
    expected = {*published.COUNTS.get(listing.name, ())}
    return [subset for subset in SUBSETS if subset in (there | expected if there & expected else there)]


def _published(listing: Listing, subset: str) -> int | None:
    return published.COUNTS.get(listing.name, {}).get(subset)
