"""What must hold for the whole repository: who may import whom, the lock file, the job files."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

FIRST_LINE_OF_A_JOB = r"#!/usr/bin/env -S (\w+=\S+ )?python -m rsrnet_platform"
FORBIDDEN_IN_RSRNET = ("ray", "mlflow", "pydantic", "rsrnet_platform")

IMPORT_RSRNET_ALONE = f"""
import importlib, pkgutil, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {FORBIDDEN_IN_RSRNET}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refuse())
import rsrnet
for module in pkgutil.walk_packages(rsrnet.__path__, "rsrnet."):
    importlib.import_module(module.name)
    print(module.name)
"""


def python(code: str, cwd: Path) -> str:
    """What a new Python process that runs ``code`` in ``cwd`` prints."""
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def files_of(repository: Path) -> list[Path]:
    """The files that are in version control or about to be."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True).stdout
    return [file for name in names.split("\0") if name and (file := repository / name).is_file()]


def imported_packages(file: Path) -> set[str]:
    """The top-level packages that a source file imports, at any depth of its code."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module)
    return {name.split(".")[0] for name in found}


def locked(repository: Path) -> list[tuple[Requirement, list[str]]]:
    """Every pin of the lock file with its options."""
    text = (repository / "infra/requirements.lock").read_text(encoding="utf-8")
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.split("#")[0].strip()]
    pins = []
    for line in lines:
        requirement, *options = re.split(r"\s+(?=--)", line.strip())
        pins.append((Requirement(requirement), options))
    return pins


class TestTheFolderPlatform:
    def test_has_no_init_file(self, repository: Path) -> None:
        assert (repository / "platform/rsrnet_platform/__init__.py").is_file()
        assert not (repository / "platform/__init__.py").exists()

    def test_does_not_hide_the_standard_library_from_the_root(self, repository: Path) -> None:
        where = python("import sys, platform; assert sys.path[0] == ''; print(platform.__file__)", repository)

        assert Path(where).parent == Path(sysconfig.get_path("stdlib"))

    @pytest.mark.ray
    def test_does_not_hide_the_standard_library_in_a_ray_worker(
        self, repository: Path, ray_cluster: Any
    ) -> None:
        import ray

        @ray.remote
        def seen_by_a_worker() -> tuple[str, bool]:
            import platform

            return platform.__file__, Path("platform/rsrnet_platform").is_dir()

        ray.shutdown()
        with ray.init(address=ray_cluster.address, runtime_env={"working_dir": str(repository)}):
            where, has_the_folder = ray.get(seen_by_a_worker.remote(), timeout=120)

        assert has_the_folder
        assert Path(where).parent == Path(sysconfig.get_path("stdlib"))


class TestThePackageRsrnet:
    def test_imports_nothing_of_the_platform(self, repository: Path) -> None:
        sources = sorted((repository / "rsrnet").rglob("*.py"))

        guilty = {file: bad for file in sources if (bad := imported_packages(file) & {*FORBIDDEN_IN_RSRNET})}

        assert sources
        assert not guilty

    def test_works_where_ray_mlflow_and_pydantic_are_missing(self, tmp_path: Path) -> None:
        imported = python(IMPORT_RSRNET_ALONE, tmp_path).split()

        assert {"rsrnet.losses", "rsrnet.metrics", "rsrnet.model.network", "rsrnet.localizer"} <= {*imported}


class TestTheLockFile:
    def test_pins_every_requirement_with_hashes_and_says_nothing_else(self, repository: Path) -> None:
        for requirement, options in locked(repository):
            assert re.fullmatch(r"==[^=*,]+", str(requirement.specifier)), requirement
            assert requirement.url is None
            assert options, f"{requirement} has no hash"
            assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", option) for option in options), requirement

    @pytest.mark.parametrize("address", ["://", "--index", "--extra-index", "--find-links", "--trusted-host"])
    def test_holds_no_address_of_an_index(self, repository: Path, address: str) -> None:
        assert address not in (repository / "infra/requirements.lock").read_text(encoding="utf-8")

    def test_satisfies_every_dependency_of_the_project(self, repository: Path) -> None:
        pins: dict[str, list[SpecifierSet]] = {}
        for requirement, _ in locked(repository):
            pins.setdefault(canonicalize_name(requirement.name), []).append(requirement.specifier)
        metadata = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))
        wanted = [*metadata["project"]["dependencies"], *metadata["build-system"]["requires"]]
        wanted += [line for extra in metadata["project"]["optional-dependencies"].values() for line in extra]

        for dependency in map(Requirement, wanted):
            versions = [
                str(pin).removeprefix("==") for pin in pins.get(canonicalize_name(dependency.name), [])
            ]
            assert versions, f"{dependency} is not in the lock file: make lock"
            assert all(dependency.specifier.contains(version, prereleases=True) for version in versions), (
                f"{dependency} does not allow {versions} of the lock file: make lock"
            )


def recorded_faults(test: ast.AST) -> list[str]:
    """Patterns of the faults that a test records for the table, as `record_property("fault", ...)` gives them."""
    return [
        pattern_of(call.args[1])
        for call in ast.walk(test)
        if isinstance(call, ast.Call)
        and getattr(call.func, "id", None) == "record_property"
        and getattr(call.args[0], "value", None) == "fault"
    ]


def pattern_of(text: ast.AST) -> str:
    """A regular expression of what a literal becomes; what is filled in may be anything."""
    if isinstance(text, ast.JoinedStr):
        return "".join(map(pattern_of, text.values))
    return re.escape(text.value) if isinstance(text, ast.Constant) else ".+"


class TestTheTableOfFaults:
    """`make faults` prints it, and the README keeps it."""

    def recorded(self, repository: Path) -> dict[str, list[str]]:
        """Of each test that records something for it: the patterns of its faults."""
        return {
            f"{file.name}: {node.name}": recorded_faults(node)
            for file in sorted((repository / "tests/faults").glob("test_*.py"))
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            if isinstance(node, ast.FunctionDef)
            and node.name.startswith("test_")
            and "record_property" in {argument.arg for argument in node.args.args}
        }

    def rows(self, repository: Path) -> list[str]:
        """The faults in the README."""
        text = (repository / "README.md").read_text(encoding="utf-8")
        section = text.partition("\n## When something fails\n")[2].partition("\n## ")[0]
        lines = [line for line in section.splitlines() if line.startswith("| ")]
        return [line.split(" | ")[0].removeprefix("| ") for line in lines[2:]]

    def test_has_a_row_for_every_test_of_a_fault(self, repository: Path) -> None:
        rows, tests = self.rows(repository), self.recorded(repository)

        assert tests
        assert all(tests.values()), "record_property is asked for, and no fault recorded"
        missing = {
            name: pattern
            for name, patterns in tests.items()
            for pattern in patterns
            if not any(re.fullmatch(pattern, row) for row in rows)
        }
        assert not missing, "make faults prints the rows that the README has not"

    def test_has_no_row_of_a_test_that_is_gone(self, repository: Path) -> None:
        patterns = [pattern for each in self.recorded(repository).values() for pattern in each]

        assert not [
            row
            for row in self.rows(repository)
            if not any(re.fullmatch(pattern, row) for pattern in patterns)
        ]


class TestTheFiles:
    def test_every_job_file_runs_itself(self, repository: Path) -> None:
        jobs = sorted((repository / "jobs").glob("*.yaml"))

        assert jobs
        for job in jobs:
            first_line = job.read_text(encoding="utf-8").splitlines()[0]
            assert re.fullmatch(FIRST_LINE_OF_A_JOB, first_line), f"{job}: {first_line}"
            assert os.access(job, os.X_OK), f"chmod +x {job}"

    def test_every_relative_link_of_the_documentation_leads_somewhere(self, repository: Path) -> None:
        pages = [file for file in files_of(repository) if file.suffix == ".md"]
        links = [
            (page, target)
            for page in pages
            for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
            if "://" not in target
        ]

        assert links
        assert not [(page, target) for page, target in links if not (page.parent / target).exists()]

    def test_ci_can_be_run(self, repository: Path) -> None:
        assert os.access(repository / ".ci/run", os.X_OK)

    @pytest.mark.parametrize(
        "pattern",
        [
            r"pypi[.]org",
            r"pythonhosted[.]org",
            r"pytorch[.]org/whl",
            r"(?<![\w.])/(root|Users|work|opt)/\w",
            r"/home/(?!ray/)\w",
        ],
        ids=["index", "files", "torch", "folder", "home"],
    )
    def test_no_file_names_a_package_index_or_a_path_of_one_machine(
        self, repository: Path, pattern: str
    ) -> None:
        texts = {
            file: file.read_bytes().decode("utf-8", errors="replace")
            for file in files_of(repository)
            if file != Path(__file__)
        }

        assert len(texts) > 1
        assert not [file for file, text in texts.items() if re.search(pattern, text)]
