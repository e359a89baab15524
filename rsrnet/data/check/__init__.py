"""Whether a dataset is whole: its lists, its files, and what both say about each other.

Unlike the reader, which stops at the first name or file that it cannot use, a check goes on and reports all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rsrnet.data.check import files, listings
from rsrnet.data.check.findings import KINDS, Finding, Report
from rsrnet.data.check.memory import Memory
from rsrnet.data.check.run import Progress, look_at_all
from rsrnet.data.errors import DataError
from rsrnet.data.folder import folders_on_disk


def check(
    root: str | Path,
    lists: Sequence[str] = (),
    *,
    processes: int | None = None,
    fresh: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Look at everything that the lists of a dataset name.

    Without le50 lists, those of iHarmony4 itself are checked, and the le50 lists are derived from them by leaving
    out composites whose foreground is over half of the image; nothing is written.

    What was found about a file is remembered, so that a check which is repeated, or was interrupted, does not
    decode it again until its size or its time of change differs.

    Args:
        root: folder of the dataset.
        lists: names of lists, relative to the folder or absolute; none: the le50 lists that are there.
        processes: processes to use; default: one for each processor. More than one are spawned, so a script that
            calls this must guard its main part with ``if __name__ == "__main__"``.
        fresh: forget what earlier checks found.
        progress: told how many files are known so far, and of how many.

    Raises:
        DataError: if there is no such folder or list, no list at all, or a process was killed.
    """
    root = Path(root)
    names, findings = listings.choose(root, lists)
    on_disk = folders_on_disk(root)
    listed = []
    for name in names:
        listing, wrong = listings.read(root, name, on_disk)
        listed.append(listing)
        findings += wrong
    composites = list(dict.fromkeys(composite for listing in listed for composite in listing.composites))
    there, missing = files.on_disk(root, composites)
    with Memory(root, fresh) as memory:
        decoded = sum(memory.recall(*each) is None for each in there.items())
        facts = look_at_all(root, there, memory, processes, progress)
    large_ones_belong = not lists and listings.are_official(names)
    findings += [*missing, *files.undecodable(there, composites, facts), *files.sizes(composites, facts)]
    findings += files.masks(there, facts, over_half=not large_ones_belong)
    findings += files.unknown(root, {composite.folder for composite in composites})
    derived = [listings.derive(listing, facts) for listing in listed] if large_ones_belong else []
    shared = listings.shared(derived or listed)
    findings += [*listings.in_two(listed), *listings.other_counts([*listed, *derived])]
    findings += listings.unexpected(shared)
    return Report(
        root=root,
        lists=tuple(names),
        derived={
            listing.name: tuple(composite.path for composite in listing.composites) for listing in derived
        },
        unjudged=sum(listings.share(composite, facts) is None for composite in composites) if derived else 0,
        checked=len(there),
        decoded=decoded,
        counts=tuple(listings.counts([*listed, *derived], findings)),
        shared=tuple(shared),
        findings=_in_order(findings),
    )


def require_derivable(root: str | Path, lists: Sequence[str] = ()) -> None:
    """Make sure, before a check, that it will derive the le50 lists.

    Args:
        root: folder of the dataset.
        lists: names of the lists to check; none: the usual ones.

    Raises:
        DataError: if lists are named, or le50 lists are there.
    """
    names, _ = listings.choose(Path(root), lists)
    if lists or not listings.are_official(names):
        raise _nothing_to_write(root, names)


def write_lists(report: Report) -> list[Path]:
    """Write the le50 lists that a check derived.

    Raises:
        DataError: if there is nothing to write (:func:`require_derivable` says so before the check), some
            composites could not be judged, or a list is there already or cannot be written.
    """
    if not report.derived:
        raise _nothing_to_write(report.root, report.lists)
    if report.unjudged:
        raise DataError(
            f"{report.root}: the masks of {report.unjudged:,} composites cannot be used, so that nobody can tell"
            " whether they belong into the le50 lists; repair them first"
        )
    written = []
    for name, lines in report.derived.items():
        path = report.root / name
        try:
            with path.open("x", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in lines)
        except OSError as error:
            raise DataError(f"{path}: cannot be written ({error.strerror})") from error
        written.append(path)
    return written


def _nothing_to_write(root: str | Path, names: Sequence[str]) -> DataError:
    return DataError(f"nothing to write: {root} has {', '.join(names)}")


def _in_order(findings: list[Finding]) -> tuple[Finding, ...]:
    order = {kind: number for number, kind in enumerate(KINDS)}
    # Those of one list stay in the order of its lines.
    return tuple(sorted(findings, key=lambda found: (order[found.kind], found.file)))
