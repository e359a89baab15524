"""`make setup`: what it installs on a fresh machine, and what it says where it cannot."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

# How this machine reaches a package index is no part of what is tested.
NETWORK = {
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "PIP_CERT",
    "PIP_INDEX_URL",
    "SSL_CERT_FILE",
    "UV_DEFAULT_INDEX",
}

# Runs the code after `-c` as an interpreter of that version would.
OLD_PYTHON = f"""#!/bin/sh
exec {sys.executable} -c 'import sys; sys.version_info = (3, 10, 14); exec(sys.argv[2])' "$@"
"""


def run(folder: Path, *command: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Run a command with nothing in its environment but PATH, HOME and the way to the network."""
    environment = {name: value for name, value in os.environ.items() if name.upper() in NETWORK}
    environment |= {"PATH": os.environ["PATH"], "HOME": str(home)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1500)


@pytest.fixture
def clone(repository: Path, tmp_path: Path) -> Iterator[Path]:
    """A fresh clone of the last commit; it is removed afterwards, for an environment takes gigabytes."""
    folder = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(repository), str(folder)], check=True)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def empty_home(tmp_path: Path) -> Iterator[Path]:
    """A home without anything; what uv keeps in it is removed afterwards."""
    folder = tmp_path / "home"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def bare(repository: Path, tmp_path: Path) -> Path:
    """A folder with the files that `make setup` reads before it installs anything, as they are now."""
    folder = tmp_path / "bare"
    for name in ("Makefile", "pyproject.toml", "infra/requirements.lock"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(repository / name, folder / name)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fresh_clone_with_an_empty_home_gets_a_working_rsrnet_once(
    repository: Path, clone: Path, empty_home: Path
) -> None:
    first = run(clone, "make", "setup", home=empty_home)
    assert first.returncode == 0, first.stdout + first.stderr

    version = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    answer = run(clone, ".venv/bin/rsrnet", "--version", home=empty_home)
    assert answer.returncode == 0, answer.stderr
    assert version in answer.stdout

    second = run(clone, "make", "setup", home=empty_home)
    assert "Nothing to be done" in second.stdout


def test_old_python_is_refused_with_the_remedy(bare: Path, empty_home: Path, tmp_path: Path) -> None:
    old = tmp_path / "python3.10"
    old.write_text(OLD_PYTHON, encoding="utf-8")
    old.chmod(0o755)

    done = run(bare, "make", "setup", f"PYTHON={old}", home=empty_home)

    assert done.returncode != 0
    assert f"{old} is older than Python 3.11: make setup PYTHON=" in done.stderr
    assert not (bare / ".venv").exists()


def test_folder_without_wheels_is_refused_with_the_remedy(
    bare: Path, empty_home: Path, tmp_path: Path
) -> None:
    done = run(bare, "make", "setup", f"WHEELS={tmp_path}", home=empty_home)

    assert done.returncode != 0
    assert f"No wheels in {tmp_path}" in done.stderr
    assert "make wheels WHEELS=" in done.stderr
    assert not (bare / ".venv").exists()
