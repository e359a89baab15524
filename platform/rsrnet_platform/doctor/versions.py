"""Versions of packages: here against the lock file, and on the nodes of a cluster against here.

A checkout has the lock at ``infra/requirements.lock``; a wheel carries a copy of it among its metadata.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

import rsrnet_platform
from rsrnet_platform.doctor.finding import Finding

_PACKAGE = Path(rsrnet_platform.__file__).parent
_LOCK = "requirements.lock"
_COMPARED = ("ray", "torch", "torchvision", "mlflow")
"""Packages of which every node must have the same version: they talk to each other, or read each other's files."""

_NAMED = 4
"""Packages that are named; of more the number is told."""


def find_lock() -> Path | None:
    """The lock file that belongs to this code; None: there is none."""
    checkout = _PACKAGE.parents[1]
    if (checkout / "pyproject.toml").is_file():
        return checkout / "infra" / _LOCK
    try:
        carried = metadata.files("rsrnet") or ()
    except metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in carried if file.name == _LOCK), None)


def pins(lock: Path) -> list[Requirement]:
    """The packages that a lock file pins for this system and this Python."""
    lines = lock.read_text(encoding="utf-8").splitlines()
    given = [line.rstrip(" \\") for line in lines if line[:1].isalnum()]
    requirements = map(Requirement, given)
    return [each for each in requirements if each.marker is None or each.marker.evaluate()]


def requirements() -> Iterator[Finding]:
    """What the platform needs is installed, as new as it must be."""
    try:
        needed = map(Requirement, metadata.requires("rsrnet") or ())
    except metadata.PackageNotFoundError:
        yield Finding("packages", "warning", "not checked: rsrnet runs from a folder, it is not installed")
        return
    wrong = [
        f"{each.name} {_installed(each.name) or 'is missing'} ({each.specifier})"
        for each in needed
        if each.marker is None or each.marker.evaluate({"extra": "platform"})
        if not each.specifier.contains(_installed(each.name) or "0.dev0", prereleases=True)
    ]
    if wrong:
        yield Finding("packages", "problem", _some(wrong), "make setup, or pip install 'rsrnet[platform]'")
    else:
        yield Finding("packages", "ok", "everything that the platform needs is there")


def against_lock() -> Iterator[Finding]:
    """What is installed has the versions that the project was tested with; others may work."""
    name = "lock file"
    lock = find_lock()
    if lock is None:
        yield Finding(name, "warning", "not checked: this installation has no lock file")
        return
    pinned = [each for each in pins(lock) if _installed(each.name)]
    wrong = [
        f"{each.name} {_installed(each.name)} ({each.specifier})"
        for each in pinned
        if not each.specifier.contains(str(_installed(each.name)), prereleases=True)
    ]
    if wrong:
        remedy = f"make setup, or pip install --require-hashes -r {lock}"
        yield Finding(name, "warning", f"{len(wrong)} of {len(pinned)} differ: {_some(wrong)}", remedy)
    else:
        yield Finding(name, "ok", f"all {len(pinned)} installed packages that it pins have its versions")


def here() -> dict[str, str]:
    """Versions that the machines of a cluster must have in common."""
    own = {name: _installed(name) or "missing" for name in _COMPARED}
    return {"Python": ".".join(platform.python_version_tuple()[:2])} | own


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
