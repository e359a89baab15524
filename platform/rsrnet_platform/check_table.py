"""The report of a dataset's check, for people."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rsrnet.data.check.findings import KINDS, Finding, Report, Severity, Shared

LISTED = 20
"""Findings of a kind that are named; ``--json`` names all."""

COLUMNS = {
    "missing_composite": "images\nmissing",
    "missing_mask": "masks\nmissing",
    "missing_real": "photos\nmissing",
    "undecodable_composite": "images\nunreadable",
    "undecodable_mask": "masks\nunreadable",
    "undecodable_real": "photos\nunreadable",
    "other_size": "other\nsize",
    "other_orientation": "other\norientation",
    "mask_empty": "masks\nempty",
    "mask_full": "masks\nfull",
    "mask_over_half": "masks\n> 50 %",
}
"""Heading of the column of each kind of finding that concerns a file of a sub-dataset."""

_STYLES: dict[Severity, str] = {"error": "red", "warning": "yellow"}
_WIDTH = 160
"""Columns of the report where there is no terminal."""


def show(report: Report, console: Console) -> None:
    """Print a report: the counts, what lists have in common, every kind of finding, and the outcome."""
    if not console.is_terminal:
        console.width = max(console.width, _WIDTH)
    console.print(_counts(report))
    for shared in report.shared:
        console.print(_common(shared))
    for kind, findings in report.by_kind().items():
        _print_findings(kind, findings, console)
    console.print(_outcome(report))


def _counts(report: Report) -> Table:
    """A row for each list and sub-dataset; columns for those kinds of findings only that there are."""
    kinds = [kind for kind in COLUMNS if any(kind in count.findings for count in report.counts)]
    table = Table()
    table.add_column("list", no_wrap=True)
    table.add_column("sub-dataset", no_wrap=True)
    for heading in ("composites", "published", *(COLUMNS[kind] for kind in kinds)):
        table.add_column(heading, justify="right")
    for number, count in enumerate(report.counts):
        begins = number == 0 or report.counts[number - 1].list != count.list
        if begins and number:
            table.add_section()
        name = f"{count.list} (derived)" if count.list in report.derived else count.list
        expected = Text("" if count.published is None else f"{count.published:,}")
        if count.published not in (None, count.composites):
            expected.stylize(_STYLES["warning"])
        cells = [_number(kind, count.findings.get(kind, 0)) for kind in kinds]
        table.add_row(name if begins else "", count.subset, f"{count.composites:,}", expected, *cells)
    return table


def _number(kind: str, number: int) -> Text:
    return Text(f"{number:,}", _STYLES[KINDS[kind].severity] if number else "dim")


def _common(shared: Shared) -> str:
    amounts = {"photographs": shared.photographs, "scenes": shared.scenes}
    common = " and ".join(f"{number:,} {noun}" for noun, number in amounts.items() if number)
    of_these = f" ({shared.composites:,} composites of the latter)" if shared.composites else ""
    usual = ", as in the published lists" if shared.published else ""
    return f"{shared.subset}: {common} are in both {shared.lists[0]} and {shared.lists[1]}{of_these}{usual}."


def _print_findings(kind: str, findings: list[Finding], console: Console) -> None:
    severity, title = KINDS[kind]
    console.print(Text(f"{severity.capitalize()} ({len(findings):,}): ", _STYLES[severity]) + Text(title))
    for finding in findings[:LISTED]:
        console.print(f"  {finding.file}: {finding.reason}")
    if len(findings) > LISTED:
        console.print(f"  ... and {len(findings) - LISTED:,} more; --json names all")


def _outcome(report: Report) -> str:
    remembered = report.checked - report.decoded
    known = f" ({remembered:,} of them remembered from earlier checks)" if remembered else ""
    found = " and ".join(_amount(report.number(severity), severity) for severity in _STYLES)
    return f"{report.root}: {_amount(report.checked, 'file')} checked{known}: {found}."


def _amount(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
