"""The form of the benchmarks: rows of ratios, how they are timed, and the file and the table they end up in.

Every module ``bench_NAME.py`` beside this one that belongs to the table has ``measure() -> list[Row]``.
``python tests/benchmarks/table.py`` (``make bench``) calls them, each in a process of its own, writes
``benchmarks.json``, and puts the tables into README.md.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RESULTS = ROOT / "benchmarks.json"
README = ROOT / "README.md"
OTHERS = "All other figures"
BEGIN, END = "<!-- benchmarks: written by make bench -->\n", "<!-- end of benchmarks -->\n"
PACKAGES = ("torch", "numpy", "ray", "mlflow")

MODULES = (
    "bench_loss",
    "bench_training_step",
    "bench_evaluation",
    "bench_ray_train",
    "bench_scaling",
    "bench_startup",
    "bench_cost",
    "bench_average_precision",
    "bench_readers",
    "bench_predict",
    "bench_search_overhead",
    "bench_asha",
    "bench_scheduler_simulation",
)
"""What makes up the table, in its order."""


@dataclass(frozen=True)
class Row:
    """One figure of the table: a ratio, measured side by side in one run."""

    what: str
    """What was measured, in a few words."""

    against: str
    """What it was measured against."""

    ratio: float
    """Median over the repetitions; above 1 is better where the target is a least value."""

    low: float
    """The lowest of the repetitions."""

    high: float
    """The highest of the repetitions."""

    target: float | None = None
    """What the ratio shall be at least (at most, if ``at_most``); None: there is none, the figure is for reading."""

    unit: str = "times"
    """Of the ratio, low, high and target: ``times``, ``s``, ``MiB``, ..."""

    conditions: str = ""
    """Sizes, threads, versions: what else must be the same for the same figure."""

    repetitions: int = 1
    at_most: bool = False

    @property
    def reached(self) -> bool | None:
        """Whether the target is reached; None without target."""
        if self.target is None:
            return None
        return self.ratio <= self.target if self.at_most else self.ratio >= self.target


def interleaved(
    contenders: Mapping[str, Callable[[], Any]], rounds: int, warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds of each contender in each round.

    Rounds alternate between the contenders, so that other work on the machine slows all of them.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(warm_up + rounds):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def compare(
    what: str,
    against: str,
    plain: Sequence[float],
    ours: Sequence[float],
    *,
    target: float | None = None,
    conditions: str = "",
    at_most: bool = False,
) -> Row:
    """The row of pairs of figures, measured side by side: plain / ours of seconds, ours / plain of what is ``at_most``.

    Args:
        what: see :class:`Row`.
        against: see :class:`Row`.
        plain: of what is compared against, one a round.
        ours: in the same rounds.
        target: see :class:`Row`.
        conditions: see :class:`Row`.
        at_most: the smaller the ratio the better, as for memory.
    """
    pairs = zip(plain, ours, strict=True)
    ratios = [mine / theirs if at_most else theirs / mine for theirs, mine in pairs]
    return summary(what, against, ratios, target=target, conditions=conditions, at_most=at_most)


def summary(what: str, against: str, values: Sequence[float], **rest: Any) -> Row:
    """The row of a figure that was measured several times: its median, lowest and highest value."""
    return Row(
        what,
        against,
        statistics.median(values),
        min(values),
        max(values),
        repetitions=len(values),
        **rest,
    )


def surroundings() -> dict[str, Any]:
    """Where and when a benchmark ran."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": _machine(),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # some benchmarks need torch alone
        return None


def _machine() -> str:
    """The processor, how many of them, and a GPU if there is one."""
    import torch

    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        name = names[0].split(":", 1)[1].strip() if names else name
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{name}, {len(os.sched_getaffinity(0))} processors{gpu}"


def read(path: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """What ``benchmarks.json`` holds: for each script its surroundings and its rows; empty if there is no file."""
    return json.loads(path.read_text()) if path.exists() else {}


def rows_of(results: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Row]]:
    """All rows with their script's name, in the order of the table."""
    return [(script, Row(**row)) for script in _in_order(results) for row in results[script]["rows"]]


def _in_order(scripts: Iterable[str]) -> list[str]:
    order = [f"{name}.py" for name in MODULES]
    return sorted(scripts, key=lambda script: order.index(script) if script in order else len(order))


def write(script: str, rows: Sequence[Row], path: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """Put a script's rows into ``benchmarks.json``, in place of its earlier ones; all of the file's contents."""
    results = {**read(path), script: {**surroundings(), "rows": [asdict(_rounded(row)) for row in rows]}}
    path.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    return results


def _rounded(row: Row) -> Row:
    """Figures to four digits: the others are noise."""
    ratio, low, high = (float(f"{value:.4g}") for value in (row.ratio, row.low, row.high))
    return replace(row, ratio=ratio, low=low, high=high)


def markdown(results: Mapping[str, Mapping[str, Any]]) -> str:
    """What README.md shows: the rows that have a target, where all was measured, and folded away the other rows."""
    rows = rows_of(results)
    aimed = [(script, row) for script, row in rows if row.target is not None]
    others = [(script, row) for script, row in rows if row.target is None]
    parts = [_table(aimed, results)] if aimed else []
    parts.append(_places(results))
    if others:
        # GitHub reads Markdown within HTML only behind an empty line.
        parts.append(f"<details><summary>{OTHERS}</summary>\n\n{_table(others, results)}\n</details>\n")
    return "\n".join(parts)


def _table(rows: Sequence[tuple[str, Row]], results: Mapping[str, Mapping[str, Any]]) -> str:
    """Rows with their script and the day it ran."""
    lines = ["| what | against | ratio | target | script, date |", "| --- | --- | --- | --- | --- |"]
    lines += [f"{_cells(row)} `{script}`, {results[script]['date'].split()[0]} |" for script, row in rows]
    return "\n".join(lines) + "\n"


def _places(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Where the scripts ran: a sentence, or an item of a list for each place if there are several."""
    scripts: dict[str, list[str]] = {}
    for script in _in_order(results):
        scripts.setdefault(_place(results[script]), []).append(f"`{script}`")
    if len(scripts) == 1:
        return f"All measured on {next(iter(scripts))}.\n"
    return "".join(f"- {', '.join(names)}: measured on {place}.\n" for place, names in scripts.items())


def _place(measured: Mapping[str, Any]) -> str:
    """Machine, Python and packages in words."""
    versions = ", ".join(f"{name} {version}" for name, version in measured["versions"].items())
    return f"{measured['machine']}; Python {measured['python']}; {versions}"


def markdown_rows(rows: Sequence[Row]) -> str:
    """The table of one script."""
    return "\n".join(["| what | against | ratio | target |", "| --- | --- | --- | --- |", *map(_cells, rows)])


def _cells(row: Row) -> str:
    what = f"{row.what}; {row.conditions}" if row.conditions else row.what
    return f"| {what} | {row.against} | {_figure(row)} | {_target(row)} |"


def _figure(row: Row) -> str:
    spread = f" ({row.low:.3g} to {row.high:.3g}, n = {row.repetitions})" if row.repetitions > 1 else ""
    return f"{row.ratio:.3g}{_unit(row)}{spread}"


def _target(row: Row) -> str:
    if row.target is None:
        return "-"
    limit = f"{'≤' if row.at_most else '≥'} {row.target:.3g}{_unit(row)}"
    return limit if row.reached else f"{limit}, missed"


def _unit(row: Row) -> str:
    return " ×" if row.unit == "times" else f" {row.unit}"


def put_into(text: str, table: str) -> str:
    """A document with what :func:`markdown` writes between the two marks."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + "\n" + table + "\n" + END + rest.split(END)[1]


def available() -> list[str]:
    """The modules of the table that are there."""
    return [name for name in MODULES if (HERE / f"{name}.py").exists()]


def _measure(name: str) -> list[Row]:
    return importlib.import_module(name).measure()


def run(name: str) -> list[Row]:
    """Measure one module in a fresh process, so that none disturbs the next."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure, name).result()


def main() -> None:
    """Run benchmarks and write what they found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", help=f"of these, default all: {', '.join(n[6:] for n in available())}"
    )
    args = parser.parse_args()
    chosen = [f"bench_{name.removeprefix('bench_').removesuffix('.py')}" for name in args.names]
    if unknown := [name for name in chosen if name not in available()]:
        parser.error(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(available())}")
    results = read()
    for name in chosen or available():
        print(f"{name} ...", flush=True)
        results = write(f"{name}.py", run(name))
    table = markdown(results)
    README.write_text(put_into(README.read_text(), table))
    print(table)


if __name__ == "__main__":
    main()
