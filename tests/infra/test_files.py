"""All of infra/: no password is written down, no image floats, and the pages name files that exist."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.infra.files import SECRET
from tests.infra.linters import run_linter

PROGRAMS = ("infra/make-secrets", "infra/image/start-mlflow", "infra/slurm/run.sbatch")
NOT_SECRET = {"auth_token", "key"}
"""`auth_token` is a name here; `key` is one of a Secret, and a taint."""


def tracked(repository: Path) -> list[Path]:
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "infra"],
        cwd=repository,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [repository / name for name in names.split("\0") if name]


def documents(repository: Path) -> Iterator[tuple[Path, Any]]:
    for file in tracked(repository):
        if file.suffix == ".yaml":
            for document in yaml.safe_load_all(file.read_text(encoding="utf-8")):
                yield file, document


def pairs(found: Any) -> Iterator[tuple[str, Any]]:
    """Every key and value at any depth, and the name and value of Kubernetes' variables."""
    if isinstance(found, dict):
        if isinstance(found.get("name"), str) and "value" in found:
            yield found["name"], found["value"]
        for key, value in found.items():
            yield str(key), value
            yield from pairs(value)
    elif isinstance(found, list):
        for value in found:
            yield from pairs(value)


def test_every_yaml_file_is_read(repository: Path) -> None:
    assert len([*documents(repository)]) > 15


def test_no_password_is_written_down(repository: Path) -> None:
    found = [
        (file.name, key, value)
        for file, document in documents(repository)
        for key, value in pairs(document)
        if SECRET.search(key) and isinstance(value, str) and key not in NOT_SECRET
    ]

    assert found
    for file, key, value in found:
        path = value.startswith("~/")  # of a file that has it
        assert path or re.fullmatch(r"\$\{\w+:\?run infra/make-secrets\}", value), (file, key)


def test_no_address_carries_a_password(repository: Path) -> None:
    for file in tracked(repository):
        assert not re.search(r"\w+://[^/\s:@]+:[^/\s@]+@", file.read_text(encoding="utf-8")), file


def test_no_image_floats(repository: Path) -> None:
    images = {
        value for _, document in documents(repository) for key, value in pairs(document) if key == "image"
    }

    assert "rsrnet:slim" in images
    assert all(re.search(r":[\w.-]+$", image) and not image.endswith(":latest") for image in images), images
    one_name = {image.rpartition(":")[0] for image in images}
    assert len(images) == len(one_name) + 1  # rsrnet has two


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_have_nothing_that_a_linter_objects_to(repository: Path, program: str) -> None:
    run_linter("shellcheck", repository / program)
    assert (repository / program).stat().st_mode & 0o111


def test_every_folder_has_a_page_and_the_page_of_infra_lists_everything(repository: Path) -> None:
    page = (repository / "infra/README.md").read_text(encoding="utf-8")
    listed = {name.rstrip("/") for name in re.findall(r"^\| \[?`([\w./-]+)`", page, re.MULTILINE)}
    there = {file.relative_to(repository / "infra").parts[0] for file in tracked(repository)} - {"README.md"}

    assert listed == there
    for folder in ("kuberay", "vm", "slurm"):
        assert (repository / "infra" / folder / "README.md").is_file()


def test_the_pages_name_files_that_exist(repository: Path) -> None:
    for page in (file for file in tracked(repository) if file.suffix == ".md"):
        named = re.findall(
            r"(?<![\w./])((?:infra|jobs|docs|tests)/[\w./-]*\w)", page.read_text(encoding="utf-8")
        )
        # `.env` is made by make-secrets.
        assert not [
            name for name in named if not (repository / name).exists() and not name.endswith(".env")
        ], page


@pytest.mark.parametrize("page", ["README.md", "kuberay/README.md", "vm/README.md", "slurm/README.md"])
def test_the_pages_say_how_a_job_gets_there(repository: Path, page: str) -> None:
    text = (repository / "infra" / page).read_text(encoding="utf-8")

    assert "sbatch infra/slurm/run.sbatch" in text or re.search(
        r"rsrnet submit \S+ --address http://\S+", text
    )
