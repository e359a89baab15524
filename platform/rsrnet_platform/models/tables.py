"""What ``rsrnet models list``, ``show`` and ``compare`` print: tables of 100 columns at most."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from rsrnet.evaluation.published import ALL
from rsrnet_platform.models.comparison import Comparison
from rsrnet_platform.models.reading import METRICS, Model, Registered
from rsrnet_platform.sheet import Sheet

HEADS = {"ap": "AP", "f1": "F1", "iou": "IoU"}
_TIME = slice(0, 16)
"""Of an ISO time: to the minute."""


def listing(model: Model) -> Sheet:
    """The versions of a model, the newest first."""
    rows = [
        [
            f"{version.version} champion" if version.champion else str(version.version),
            *(_text(scores.get(ALL, {}).get("iou")) for scores in (version.val, version.test)),
            _day(version.created),
            version.why or "not decided yet",
        ]
        for version in model.versions
    ]
    words = ("registered", "why")
    return Sheet(model.name, ["version", "val IoU", "test IoU", *words], rows, words=words)


def facts(version: Registered) -> Table:
    """What is known of a version, a line each."""
    known = {
        "model": f"{version.uri}{', champion' if version.champion else ''}",
        "registered": f"{_minute(version.created)}, run {version.run_id}",
    }
    if version.why:
        known["why"] = version.why
    if version.champion_before is not None:
        known["champion then"] = f"version {version.champion_before}"
    if version.difference is not None:
        spread = "not known" if version.spread is None else f"{version.spread:.4f}"
        known["difference"] = f"{version.difference:+.4f}, spread {spread}"
    known |= {**version.data, **version.code, **version.tested}
    table = Table.grid(padding=(0, 2))
    for key, value in known.items():
        table.add_row(Text(key), Text(value))
    return table


def scores(version: Registered) -> Sheet | None:
    """Scores by sub-dataset, validation and test; None if there are none."""
    rows = [
        [subset, split, _count(values.get("images")), *(_text(values.get(metric)) for metric in METRICS)]
        for split, parts in (("validation", version.val), ("test", version.test))
        for subset, values in parts.items()
        if subset != ALL or len(parts) != 2  # a single sub-dataset is all there is
    ]
    heads = ["dataset", "images of", "number", *HEADS.values()]
    return Sheet("M_fnl, published protocol", heads, rows, words=("images of",)) if rows else None


def events(model: Model) -> Sheet | None:
    """Who was champion, the latest first; None if no change was kept."""
    rows = [
        [_minute(event.time), _version(event.version), _version(event.before), event.how, event.reason]
        for event in model.history
    ]
    heads = ["since", "champion", "before", "how", "why"]
    words = ("champion", "before", "how", "why")
    return Sheet(f"Champions of {model.name}", heads, rows, words=words) if rows else None


def comparison(found: Comparison) -> Iterator[Sheet | str]:
    """Scores side by side, then what else differs, and what makes the scores hard to compare."""
    first, second = found.names
    rows = [
        [
            f"{line.split}, {line.subset}: {HEADS[line.metric]}",
            *map(_text, (line.first, line.second)),
            _change(line.difference),
        ]
        for line in found.scores
        if line.subset != ALL or len({each.subset for each in found.scores}) != 2
    ]
    if rows:
        yield Sheet("M_fnl, published protocol", ["scores", first, second, "difference"], rows)
    for title, differing in (
        ("Settings that differ", found.settings),
        ("Data and code that differ", found.origin),
    ):
        rows = [[key, *values] for key, values in differing.items()]
        yield Sheet(title, ["", first, second], rows, words=(first, second)) if rows else f"{title}: none."
    yield from found.doubts


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _change(value: float | None) -> str:
    return "" if value is None else f"{value:+.4f}"


def _count(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _version(number: int | None) -> str:
    return "none" if number is None else str(number)


def _minute(time: str) -> str:
    return time[_TIME].replace("T", " ")


def _day(time: str) -> str:
    return time[:10]
