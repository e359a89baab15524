"""Running a linter that a package of the tests ships."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def run_linter(name: str, *arguments: str | Path) -> None:
    """Run it; what it objects to is the test's failure."""
    program = shutil.which(name, path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip(f"the package of {name} has none for this kind of machine")
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
