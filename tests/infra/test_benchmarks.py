"""benchmarks.json, the table of README.md and the scripts belong together."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import table
from table import Row

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "tests" / "benchmarks"


def results() -> dict:
    return json.loads((ROOT / "benchmarks.json").read_text())


def test_the_table_of_the_readme_is_that_of_the_file() -> None:
    text = (ROOT / "README.md").read_text()
    assert table.put_into(text, table.markdown(results())) == text


def test_the_readme_says_when_and_where_every_script_ran() -> None:
    text = table.markdown(results())
    for script, measured in results().items():
        day = measured["date"].split()[0]
        assert text.count(f" `{script}`, {day} |") == len(measured["rows"])
        (place,) = [
            line for line in text.splitlines() if "measured on" in line.lower() and script_is_in(script, line)
        ]
        versions = (f"{name} {version}" for name, version in measured["versions"].items())
        for part in (measured["machine"], f"Python {measured['python']}", *versions):
            assert part in place


def script_is_in(script: str, line: str) -> bool:
    """Whether a line tells of a script: the only line tells of all."""
    return line.startswith("All measured on ") or f"`{script}`" in line


def test_rows_with_a_target_are_seen_first_and_the_others_folded_away() -> None:
    first, rest = table.markdown(results()).split("<details>")
    for script, row in table.rows_of(results()):
        shown, elsewhere = (rest, first) if row.target is None else (first, rest)
        line = f"| {row.what}; {row.conditions} | {row.against} |"
        assert sum(line in each and f"`{script}`" in each for each in shown.splitlines()) == 1, (
            f"{row.what} is not where it belongs"
        )
        assert line not in elsewhere


def test_every_figure_names_a_script_its_surroundings_and_its_spread() -> None:
    assert results()
    for script, measured in results().items():
        assert (BENCHMARKS / script).is_file()
        assert "def measure(" in (BENCHMARKS / script).read_text()
        assert measured["date"]
        assert measured["machine"]
        assert measured["versions"]["torch"]
        rows = [Row(**row) for row in measured["rows"]]
        assert rows
        for row in rows:
            assert row.low <= row.ratio <= row.high
            assert row.repetitions >= 1
            assert row.conditions


def test_a_script_that_is_measured_again_replaces_its_own_rows_only(tmp_path) -> None:
    path = tmp_path / "benchmarks.json"
    table.write("bench_a.py", [Row("a", "plain", 2.0, 1.5, 2.5, target=1.5, repetitions=3)], path)
    table.write("bench_b.py", [Row("memory", "plain", 0.61234, 0.6, 0.7, target=0.5, at_most=True)], path)
    written = table.write("bench_a.py", [Row("a", "plain", 1.0, 0.9, 1.1, target=1.5, repetitions=2)], path)
    assert written == table.read(path)
    assert [row.ratio for _, row in table.rows_of(written)] == [1.0, 0.6123]


def measured(*rows: Row, date: str = "2026-11-30 18:26 UTC", machine: str = "a machine") -> dict:
    """What a script's entry in the file looks like."""
    versions = {"torch": "2.15.0", "numpy": "2.4.6"}
    given = {"date": date, "machine": machine, "python": "3.11.7", "versions": versions}
    return given | {"rows": [asdict(row) for row in rows]}


FASTER = Row("a", "plain", 1.0, 0.9, 1.1, target=1.5, repetitions=2)
SMALLER = Row("memory", "plain", 0.61234, 0.6, 0.7, target=0.5, at_most=True)
READING = Row("start", "-", 18.6, 17.0, 19.0, unit="s", conditions="1 worker", repetitions=3)


def test_what_the_readme_shows_of_one_machine() -> None:
    written = {
        "bench_a.py": measured(FASTER, READING),
        "bench_b.py": measured(SMALLER, date="2026-12-01 00:01 UTC"),
    }
    assert (
        table.markdown(written)
        == """\
| what | against | ratio | target | script, date |
| --- | --- | --- | --- | --- |
| a | plain | 1 × (0.9 to 1.1, n = 2) | ≥ 1.5 ×, missed | `bench_a.py`, 2026-11-30 |
| memory | plain | 0.612 × | ≤ 0.5 ×, missed | `bench_b.py`, 2026-12-01 |

All measured on a machine; Python 3.11.7; torch 2.15.0, numpy 2.4.6.

<details><summary>All other figures</summary>

| what | against | ratio | target | script, date |
| --- | --- | --- | --- | --- |
| start; 1 worker | - | 18.6 s (17 to 19, n = 3) | - | `bench_a.py`, 2026-11-30 |

</details>
"""
    )


def test_several_machines_are_told_apart() -> None:
    written = {
        "bench_a.py": measured(FASTER),
        "bench_b.py": measured(SMALLER, machine="another, a GPU"),
        "bench_c.py": measured(FASTER, date="2026-12-01 00:01 UTC"),
    }
    text = table.markdown(written)
    assert [line for line in text.splitlines() if line.startswith("- ")] == [
        "- `bench_a.py`, `bench_c.py`: measured on a machine; Python 3.11.7; torch 2.15.0, numpy 2.4.6.",
        "- `bench_b.py`: measured on another, a GPU; Python 3.11.7; torch 2.15.0, numpy 2.4.6.",
    ]
    assert "<details>" not in text


def test_without_targets_all_is_folded_away() -> None:
    first, rest = table.markdown({"bench_a.py": measured(READING)}).split("<details>")
    assert "|" not in first
    assert "| start; 1 worker |" in rest


def test_every_module_of_the_table_can_be_measured_without_being_told_anything() -> None:
    assert table.available() == list(table.MODULES)
    for name in table.MODULES:
        body = ast.parse((BENCHMARKS / f"{name}.py").read_text()).body
        (found,) = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == "measure"]
        assert found.returns
        assert ast.unparse(found.returns) == "list[Row]"
        assert len(found.args.defaults) == len(found.args.args)


def test_the_readme_keeps_what_is_around_the_table() -> None:
    text = f"before\n{table.BEGIN}old\n{table.END}after\n"
    assert table.put_into(text, "| new |\n") == f"before\n{table.BEGIN}\n| new |\n\n{table.END}after\n"


def test_ratios_are_of_the_pairs_of_a_round() -> None:
    faster = table.compare("step", "plain", [2.0, 4.0, 9.0], [1.0, 2.0, 3.0], target=1.5)
    assert (faster.low, faster.ratio, faster.high, faster.reached) == (2.0, 2.0, 3.0, True)
    smaller = table.compare("memory", "plain", [100.0], [80.0], target=0.7, at_most=True)
    assert (smaller.ratio, smaller.reached) == (0.8, False)


def test_an_unknown_benchmark_is_refused_with_those_there_are() -> None:
    script = BENCHMARKS / "table.py"
    run = subprocess.run([sys.executable, script, "bench_lost"], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "no such benchmark: bench_lost; there are bench_loss" in run.stderr


@pytest.mark.parametrize("script", sorted(BENCHMARKS.glob("bench_*.py")), ids=lambda path: path.stem)
def test_every_benchmark_of_the_table_explains_itself(script: Path) -> None:
    text = script.read_text()
    assert text.startswith('"""')
    assert re.search(r"^import argparse|^from (side_by_side|bench_\w+) import .*\bmain\b", text, re.MULTILINE)
    assert f"python tests/benchmarks/{script.name}" in text


@pytest.mark.slow
@pytest.mark.parametrize("script", sorted(BENCHMARKS.glob("bench_*.py")), ids=lambda path: path.stem)
def test_every_benchmark_can_be_asked_what_it_does(script: Path) -> None:
    shown = subprocess.run(
        [sys.executable, script, "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert shown.startswith("usage: ")
    assert f"python tests/benchmarks/{script.name}" in " ".join(shown.split())


@pytest.mark.slow
def test_the_gpu_benchmark_runs_on_a_processor() -> None:
    command = [sys.executable, BENCHMARKS / "bench_gpu.py", "--device", "cpu", "--tiny", "--steps", "5"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line.split("|") for line in run.stdout.splitlines() if line.startswith("| ")]
    steps = [cells for cells in lines if cells[1].strip() not in ("step", "---")]
    assert [cells[1].strip() for cells in steps] == [
        "eager float32",
        "TF32",
        "bfloat16",
        "channels last",
        "compiled in parts",
    ] * 2
    for cells in steps:
        assert float(cells[2]) > 0
        assert 0 < float(cells[3].strip().rstrip("%")) < 100
        assert float(cells[4].strip().rstrip("%")) > 0
        assert float(cells[9]) < 0.05
