"""benchmarks.json, the table of README.md and the scripts belong together."""

from __future__ import annotations

import json
import re
import subprocess
import sys
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
    lines = table.markdown(written).splitlines()
    assert lines[2] == "| a | plain | 1 × (0.9 to 1.1, n = 2) | ≥ 1.5 ×, missed | `bench_a.py` |"
    assert lines[3] == "| memory | plain | 0.612 × | ≤ 0.5 ×, missed | `bench_b.py` |"


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
    command = [sys.executable, BENCHMARKS / "bench_gpu.py", "--device", "cpu", "--tiny", "--steps", "4"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line.split("|") for line in run.stdout.splitlines() if line.startswith("| ")]
    steps = [cells for cells in lines if cells[1].strip() not in ("step", "---")]
    assert [cells[1].strip() for cells in steps] == [
        "eager float32",
        "TF32",
        "bfloat16",
        "channels last",
    ] * 2
    for cells in steps:
        assert float(cells[2]) > 0
        assert 0 < float(cells[3].strip().rstrip("%")) < 100
        assert float(cells[8]) < 0.05
