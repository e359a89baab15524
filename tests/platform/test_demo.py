"""The demo as a user meets it: `rsrnet demo` in an empty home, at its real size."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


def demo(home: Path, repository: Path) -> str:
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "TMPDIR": os.environ.get("TMPDIR", "/tmp")}
    command = [sys.executable, "-c", "from rsrnet_platform.cli import main; main(['demo'])"]
    environment["PYTHONPATH"] = f"{repository}{os.pathsep}{repository / 'platform'}"
    done = subprocess.run(
        command, cwd=repository, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def scores(output: str) -> dict[str, float]:
    """F1 by method, from the table that the demo prints."""
    rows = re.findall(r"^│ (.+?) +│ ([0-9.]+) │ ([0-9.]+) │ ([0-9.]+) │$", output, re.MULTILINE)
    return {method: float(f1) for method, _, f1, _ in rows}


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_demo_beats_the_trivial_baselines_and_reuses_what_is_there(tmp_home, repository) -> None:
    output = demo(tmp_home, repository)
    f1 = scores(output)
    assert set(f1) == {"RSRNet", "2-means of colours", "all foreground"}
    assert f1["RSRNet"] >= max(f1["2-means of colours"], f1["all foreground"]) + 0.15
    overlays = tmp_home / "rsrnet" / "demo" / "overlays"
    assert len(list(overlays.rglob("*.png"))) == 120
    assert str(overlays) in output
    assert f"mlflow ui --backend-store-uri sqlite:///{tmp_home}/rsrnet/mlflow.db" in output

    again = demo(tmp_home, repository)
    assert "already there" in again
    assert "is trained already" in again
    assert scores(again) == f1
