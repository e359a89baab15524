"""infra/Dockerfile. No engine is needed: its install steps run in a folder instead of a container."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.infra.files import compose, pins
from tests.infra.linters import run_linter
from tests.infra.test_setup import NETWORK

SYSTEM = ("apt-get", "useradd", "pip install")
"""Beginnings of steps that are the container's alone."""


@pytest.fixture(scope="module")
def dockerfile(repository: Path) -> str:
    return (repository / "infra/Dockerfile").read_text(encoding="utf-8")


def stages(dockerfile: str) -> dict[str, list[str]]:
    """Instructions of each stage, on one line each, by the stage's name; the first is the `FROM`."""
    text = re.sub(r"^\s*#.*\n", "", dockerfile, flags=re.MULTILINE)
    found: dict[str, list[str]] = {}
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        if named := re.match(r"FROM (\S+) AS (\S+)", line):
            current = found.setdefault(named[2], [])
        if line and found:
            current.append(line)
    return found


def steps(stage: list[str]) -> list[str]:
    """Commands of a stage that install something."""
    commands = [
        re.sub(r"--mount=\S+ +", "", line.removeprefix("RUN ")) for line in stage if line.startswith("RUN ")
    ]
    return [command for command in commands if not command.startswith(SYSTEM)]


class TestTheFile:
    def test_has_nothing_that_a_linter_objects_to(self, repository: Path) -> None:
        run_linter("hadolint", repository / "infra/Dockerfile")

    def test_has_the_python_of_the_lock_file(self, repository: Path, dockerfile: str) -> None:
        (of_the_lock,) = re.findall(
            r"--python-version ([\d.]+)", (repository / "Makefile").read_text(encoding="utf-8")
        )
        base = {
            line for stage in stages(dockerfile).values() for line in stage if line.startswith("FROM python:")
        }

        assert f"ARG PYTHON={of_the_lock}\n" in dockerfile
        assert all(re.match(r"FROM python:\$\{PYTHON\}-slim-\w+ ", line) for line in base), base

    def test_runs_as_nobody_special(self, dockerfile: str) -> None:
        runtime = stages(dockerfile)["runtime"]

        assert [line for line in runtime if line.startswith("USER ")] == ["USER 1000"]
        for target in ("slim", "gpu"):
            assert stages(dockerfile)[target][0] == f"FROM runtime AS {target}"
            assert not [line for line in stages(dockerfile)[target] if line.startswith("USER ")]

    def test_asks_for_the_token_unless_told_otherwise(self, dockerfile: str) -> None:
        (environment,) = [line for line in stages(dockerfile)["runtime"] if line.startswith("ENV ")]

        assert "RAY_AUTH_MODE=token" in environment.split()

    def test_no_layer_has_a_secret(self, dockerfile: str) -> None:
        set_here = re.findall(r"^(?:ARG|ENV) (\w+)|^    (\w+)=", dockerfile, re.MULTILINE)

        assert set_here
        assert not [
            names
            for names in set_here
            if re.search("(?i)token|password|key|secret|index_url", "".join(names))
        ]

    def test_has_what_the_health_checks_call(self, repository: Path, dockerfile: str) -> None:
        ours = [
            each for each in compose(repository)["services"].values() if each["image"].startswith("rsrnet:")
        ]
        called = {service["healthcheck"]["test"][1] for service in ours}

        assert len(ours) == 4
        assert called == {"wget"}
        assert " wget " in next(line for line in stages(dockerfile)["runtime"] if "apt-get install" in line)

    def test_copies_only_files_that_are_sent_to_the_engine(self, repository: Path, dockerfile: str) -> None:
        kept = re.findall(
            r"^!(\S+)$", (repository / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE
        )
        copied = re.findall(r"^COPY (?:--chmod=\d+ )?((?:[\w./-]+ )+)\S+$", dockerfile, re.MULTILINE)
        files = {name for names in copied for name in names.split()} - {"."}

        assert "infra/requirements.lock" in files
        for name in files:
            assert (repository / name).exists(), name
            assert any(name == each or name.startswith(f"{each}/") for each in kept), name
        assert all((repository / name).exists() for name in kept)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_slim_variant_has_the_packages_of_the_lock_file_and_pytorch_for_cpus(
    repository: Path, dockerfile: str, tmp_path: Path
) -> None:
    """All of its install steps. The index of PyTorch for CPUs is a folder with empty packages of the right names."""
    built = folder_of_the_build(repository, dockerfile, tmp_path)
    versions = pins(repository)
    index = tmp_path / "index"
    for name in ("torch", "torchvision"):
        empty_wheel(index / name, name, f"{versions[name]}+cpu")
    run(steps(stages(dockerfile)["slim-packages"]), built, tmp_path, TORCH_INDEX=index.as_uri())

    installed = packages(tmp_path / "venv")
    assert installed.pop("rsrnet")
    assert installed.pop("torch") == f"{versions['torch']}+cpu"
    assert installed.pop("torchvision") == f"{versions['torchvision']}+cpu"
    assert installed == {name: versions[name] for name in installed}
    assert {"ray", "mlflow", "psycopg", "boto3", "onnx"} <= {*installed}
    assert not [
        name for name in installed if name.startswith(("nvidia-", "cuda-", "triton", "pytest", "mypy"))
    ]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_package_that_is_not_the_one_of_the_lock_file_is_refused(
    repository: Path, dockerfile: str, tmp_path: Path
) -> None:
    built = folder_of_the_build(repository, dockerfile, tmp_path)
    lock = built / "requirements.lock"
    before, pin, after = lock.read_text(encoding="utf-8").partition("\nrich==")
    hashes, end, rest = after.partition("# via")
    lock.write_text(before + pin + re.sub("sha256:[0-9a-f]{64}", f"sha256:{'0' * 64}", hashes) + end + rest)

    refused = run(steps(stages(dockerfile)["gpu-packages"])[:1], built, tmp_path, check=False)

    assert refused.returncode != 0
    assert "Hash mismatch for `rich" in refused.stderr


def folder_of_the_build(repository: Path, dockerfile: str, folder: Path) -> Path:
    """A folder as `/src` when packages are installed: an empty environment beside it, the project's wheel in it."""
    source = folder / "source"
    for name in ("LICENSE", "README.md", "pyproject.toml", "infra/requirements.lock"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(repository / name, source / name)
    for name in ("rsrnet", "platform"):
        shutil.copytree(repository / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    run(steps(stages(dockerfile)["wheel"]), source, folder)
    built = folder / "src"
    built.mkdir()
    shutil.copy(repository / "pyproject.toml", built)
    shutil.copy(repository / "infra/requirements.lock", built)
    shutil.copytree(source / "dist", built / "dist")
    run(steps(stages(dockerfile)["builder"]), built, folder)
    return built


def run(
    commands: list[str], cwd: Path, folder: Path, *, check: bool = True, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run commands of a Dockerfile with the variables that it sets, but with uv's cache."""
    kept = {name: value for name, value in os.environ.items() if name.upper() in NETWORK | {"PATH", "HOME"}}
    kept |= {"VIRTUAL_ENV": str(folder / "venv"), "UV_PYTHON_DOWNLOADS": "never", "UV_SYSTEM_CERTS": "1"}
    assert commands
    for command in commands:
        done = subprocess.run(
            ["sh", "-euc", command],
            cwd=cwd,
            env=kept | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0 or not check, done.stderr
    return done


def empty_wheel(folder: Path, name: str, version: str) -> None:
    """A package without anything in it, in a folder that is the page of an index."""
    folder.mkdir(parents=True)
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    about = f"{name}-{version}.dist-info"
    files = {
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
        archive.writestr(f"{about}/RECORD", "".join(f"{path},,\n" for path in [*files, f"{about}/RECORD"]))
    (folder / "index.html").write_text(f'<a href="{wheel.name}">{wheel.name}</a>')


def packages(environment: Path) -> dict[str, str]:
    """What is installed in an environment, with versions."""
    listed = subprocess.run(
        ["uv", "pip", "freeze", "--python", environment], capture_output=True, text=True, check=True
    ).stdout
    direct = dict(line.split("==") for line in listed.splitlines() if "==" in line)
    return direct | {line.split(" @ ")[0]: "here" for line in listed.splitlines() if " @ " in line}
