"""YAML as a person expects it: the core schema of YAML 1.2, and no key twice.

PyYAML follows YAML 1.1, which reads ``1e-4`` as text, ``no`` as false, ``1:30`` as 90 and ``010`` as 8.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

_CORE_SCALARS = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
)
"""Plain scalars that are not text: tag, pattern, and the characters it may start with."""

_CORE_TAGS = ("null", "bool", "int", "float", "str", "seq", "map")


def _tag(name: str) -> str:
    return f"tag:yaml.org,2002:{name}"


class _Loader(yaml.SafeLoader):
    """Reads the core schema only; a repeated key is an error."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own)
    yaml_constructors = {  # noqa: RUF012
        tag: construct
        for tag, construct in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag in map(_tag, _CORE_TAGS)
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands here twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Writes what both YAML 1.1 and `_Loader` read back as the same value."""

    def represent_sequence(
        self, tag: str, sequence: Any, flow_style: bool | None = None
    ) -> yaml.SequenceNode:
        return super().represent_sequence(tag, sequence, flow_style=True)


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    # PyYAML writes some characters, such as NEL, so that they read back as others, unless they are escaped.
    return dumper.represent_scalar(_tag("str"), text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _represent_text)
for _name, _pattern, _first in _CORE_SCALARS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_tag(_name), re.compile(rf"(?:{_pattern})\Z"), _first)


def read(text: str) -> Any:
    """Read one YAML document.

    Args:
        text: the document.

    Returns:
        Its value, made of dict, list, str, int, float, bool and None.

    Raises:
        yaml.YAMLError: if the text is not YAML, holds a key twice or a type outside the core schema.
    """
    return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader with fewer types)


def write(value: Any) -> str:
    """Write a value that `read` gives back unchanged; lists on one line, keys in their own order."""
    return yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True, width=110
    )
