"""Reading the files of infra/ in tests."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement

VARIABLE = re.compile(r"\$\{(\w+)(?::([?-])([^}]*))?\}")
"""A variable of a compose file: `${NAME}`, `${NAME:-default}` or `${NAME:?message}`."""

SECRET = re.compile(r"(password|token|secret|key)(_id)?$", re.IGNORECASE)
"""Names of settings whose values nobody may know."""


def compose(repository: Path) -> dict[str, Any]:
    """compose.yaml with its anchors resolved and its variables as they are written."""
    return load(repository / "infra/compose.yaml")


def load(file: Path) -> dict[str, Any]:
    """The only document of a YAML file."""
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def interpolated(text: str, values: Mapping[str, str]) -> str:
    """A value of a compose file, with its variables replaced.

    Raises:
        KeyError: if one is missing that has no default.
    """

    def replace(found: re.Match[str]) -> str:
        name, kind, rest = found.groups()
        return values.get(name, rest) if kind == "-" else values[name]

    return VARIABLE.sub(replace, text)


def dotenv(file: Path) -> dict[str, str]:
    """What a `.env` file sets."""
    return dict(line.split("=", 1) for line in file.read_text(encoding="utf-8").splitlines())


@cache
def manifests(repository: Path) -> list[dict[str, Any]]:
    """Every Kubernetes object of infra/kuberay; those that jobs are, last. They are read once, so change none."""
    files = sorted(
        (repository / "infra/kuberay").rglob("*.yaml"), key=lambda file: (file.parent.name == "jobs", file)
    )
    texts = [file.read_text(encoding="utf-8") for file in files if file.name != "kustomization.yaml"]
    return [document for text in texts for document in yaml.safe_load_all(text)]


def pod_templates(found: Any) -> Iterator[dict[str, Any]]:
    """Every pod template inside an object, at any depth."""
    if isinstance(found, dict):
        spec = found.get("spec")
        if isinstance(spec, dict) and "containers" in spec:
            yield {"metadata": found.get("metadata", {}), "spec": spec}
        for value in found.values():
            yield from pod_templates(value)
    elif isinstance(found, list):
        for value in found:
            yield from pod_templates(value)


def pins(repository: Path) -> dict[str, str]:
    """Versions in the lock file that this Python on this machine gets, by name."""
    text = (repository / "infra/requirements.lock").read_text(encoding="utf-8")
    lines = re.findall(r"^([\w.-]+==[^\\\n]+)", text, re.MULTILINE)
    pinned = [Requirement(line) for line in lines]
    return {
        each.name: str(each.specifier).removeprefix("==")
        for each in pinned
        if each.marker is None or each.marker.evaluate()
    }
