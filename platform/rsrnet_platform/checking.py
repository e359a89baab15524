"""Makes dataclasses out of plain mappings and finds everything that is wrong with them at once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from rsrnet.config import ConfigError, Problem

T = TypeVar("T")

_INVALID = object()

_ALLOWED = {
    "bool_type": "true or false",
    "dict_type": "a section: keys and values",
    "finite_number": "a finite number",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "string_type": "text",
    "tuple_type": "a list",
}
"""Pydantic's error types in the words of a job file."""


def key_of(field_name: str) -> str:
    """The key of a field in a job file: its name, without the underscore that Python needs in `lambda_`."""
    return field_name.removesuffix("_")


def leaves(cls: type, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that a dataclass of dataclasses can hold.

    Args:
        cls: the dataclass.
        path: dotted path that precedes its keys.

    Yields:
        Dotted path and type of each, in the order of declaration.
    """
    for name, hint in get_type_hints(cls).items():
        where = _join(path, key_of(name))
        if is_dataclass(hint):
            yield from leaves(hint, where)  # type: ignore[arg-type]
        else:
            yield where, hint


def build(cls: type[T], given: Mapping[str, Any]) -> tuple[T | None, list[Problem]]:
    """Make a dataclass of dataclasses out of nested mappings.

    Types are checked strictly, except that a whole number may stand for a number and a list for a tuple.
    Sections that are left out, or empty, are all defaults. Rules beyond types are the dataclasses' own
    (`rsrnet.config.require`).

    Args:
        cls: the dataclass; its fields are leaves or dataclasses.
        given: values by key; sections are mappings.

    Returns:
        The instance and no problems; or None and every problem, each under its dotted path.
    """
    builder = _Builder([path for path, _ in leaves(cls)])
    built = builder.build(cls, given, "")
    return (None if builder.problems else built), builder.problems


class _Builder:
    """Collects problems while it walks a dataclass; `known_paths` are what unknown keys may have meant."""

    def __init__(self, known_paths: list[str]) -> None:
        self.problems: list[Problem] = []
        self._known_paths = known_paths

    def build(self, cls: type, given: Any, path: str) -> Any:
        if given is None:
            given = {}
        if not isinstance(given, Mapping):
            self._add(path, given, "a section: keys and values")
            return _INVALID
        declared = {key_of(field.name): field for field in fields(cls)}
        for key in given:
            if key not in declared:
                self._add(_join(path, key), given[key], f"no such key; {self._nearest(path, key, declared)}")
        hints = get_type_hints(cls)
        values, complete = {}, True
        for key, field in declared.items():
            value = self._value(field, hints[field.name], key, given, _join(path, key))
            if value is not _INVALID:
                values[field.name] = value
            elif _is_required(field):
                complete = False
        return self._construct(cls, values, path) if complete else _INVALID

    def _value(self, field: Field[Any], hint: Any, key: str, given: Mapping[str, Any], path: str) -> Any:
        if is_dataclass(hint):
            return self.build(hint, given.get(key), path)  # type: ignore[arg-type]
        if key in given:
            return self._leaf(hint, given[key], path)
        if _is_required(field):
            self.problems.append(Problem(path, None, "must be given"))
        return _INVALID

    def _leaf(self, hint: Any, value: Any, path: str) -> Any:
        section = next(filter(is_dataclass, get_args(hint)), None)
        if section is not None:
            if isinstance(value, Mapping):
                return self.build(section, value, path)  # type: ignore[arg-type]
            hint = Union[tuple(each for each in get_args(hint) if each is not section)]  # noqa: UP007
        try:
            # As JSON, because a strict tuple accepts a list there, as it should from YAML, and nowhere else.
            return _adapter(hint).validate_json(json.dumps(value))
        except ValidationError as error:
            for found in error.errors(include_url=False):
                self._add(_join(path, *found["loc"]), found["input"], _allowed(found))
            return _INVALID

    def _construct(self, cls: type, values: dict[str, Any], path: str) -> Any:
        try:
            return cls(**values)
        except ConfigError as error:
            for problem in error.problems:
                value = list(problem.value) if isinstance(problem.value, tuple) else problem.value
                self._add(_join(path, *map(key_of, problem.field.split("."))), value, problem.allowed)
            return _INVALID

    def _nearest(self, path: str, key: object, declared: Mapping[str, Any]) -> str:
        near = get_close_matches(str(key), declared, n=1)
        if near:
            return f"the nearest is {_join(path, near[0])}"
        elsewhere = {known.rpartition(".")[2]: known for known in reversed(self._known_paths)}
        near = get_close_matches(str(key), elsewhere, n=1, cutoff=0.8)
        if near:
            return f"the nearest is {elsewhere[near[0]]}"
        return f"there are {', '.join(declared)}"

    def _add(self, path: str, value: object, allowed: str) -> None:
        self.problems.append(Problem(path, value, allowed))


def _join(*parts: object) -> str:
    return ".".join(str(part) for part in parts if part != "")


def _is_required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


@cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint, config=ConfigDict(strict=True, allow_inf_nan=False))


def _allowed(found: Any) -> str:
    if found["type"] == "literal_error":
        return str(found["ctx"]["expected"]).replace("'", "")
    return _ALLOWED.get(found["type"], found["msg"])
