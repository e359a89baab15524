"""What is imported in the background is there for whoever needs it, and holds nobody up."""

from __future__ import annotations

import importlib
import subprocess
import sys
import threading
from pathlib import Path

from rsrnet_platform.preload import preload


def test_modules_are_imported_and_what_is_missing_is_left_to_others(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "slow_to_import.py").write_text("import time\ntime.sleep(0.2)\nanswer = 42\n")
    monkeypatch.syspath_prepend(tmp_path)
    preload("nothing_of_this_name", "slow_to_import")
    assert importlib.import_module("slow_to_import").answer == 42  # waits for the other thread
    monkeypatch.delitem(sys.modules, "slow_to_import")
    assert not any(each.name == "rsrnet-preload" and each.daemon for each in threading.enumerate())


def test_a_process_that_leaves_meanwhile_keeps_its_exit_code() -> None:
    program = (
        "import sys; from rsrnet_platform.preload import preload; preload('torch', 'mlflow'); sys.exit(2)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "Fatal" not in done.stderr


def test_what_a_training_is_refused_for_is_found_out_before_pytorch_is_imported() -> None:
    """Its import takes seconds: it is left to the time in which Ray starts."""
    program = """
import sys
from rsrnet_platform import train
from rsrnet_platform.cluster import TrainClusterConfig, foresee
from rsrnet_platform.errors import UserError

place = foresee(TrainClusterConfig(workers=1, address="local"))
assert place.workers == 1, place
try:
    foresee(TrainClusterConfig(workers=10_000, address="local"))
except UserError as error:
    assert "10000 workers" in str(error)
else:
    raise AssertionError
assert not {"torch", "mlflow"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
