"""Sections of a recipe from plain values: kinds, ranges, and the nearest name of a key that is unknown."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any, TypeVar

from edgejpeg.errors import InvalidInputError

_NONE = "none"
_KINDS = {
    "bool": "true or false",
    "int": "an integer",
    "float": "a number",
    "str": "a string",
    "ints": "a list of integers",
    "floats": "a list of numbers",
}


def key(kind: str, default: Any, **limits: Any) -> Any:
    """A field with its kind, and ``low``, ``high`` (inclusive), ``above``, ``below``, ``choices``, ``length``."""
    return field(default=default, metadata={"kind": kind, "optional": default is None, **limits})


_Section = TypeVar("_Section")


def read_section(kind: type[_Section], document: Any, path: str, source: str) -> _Section:
    """A frozen dataclass from a mapping; ``path`` and ``source`` are for messages.

    Raises:
        InvalidInputError: an unknown key, another type, or a value out of range.
    """
    if not isinstance(document, Mapping):
        raise InvalidInputError(f"{source}: [{path}] is a section with keys; got {document!r}")
    known = {entry.name: entry for entry in fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for word, value in document.items():
        name = f"{path}.{word}" if path else str(word)
        if word not in known:
            nearest = difflib.get_close_matches(str(word), known, n=1, cutoff=0.5)
            meant = f"did you mean {nearest[0]}? " if nearest else ""
            where = f"[{path}]" if path else "a recipe"
            raise InvalidInputError(f"{source}: unknown key {name}: {meant}{where} has {', '.join(known)}")
        entry = known[word]
        if entry.metadata:
            values[word] = _checked(value, entry.metadata, name, source)
        else:
            values[word] = read_section(entry.default_factory, value, name, source)  # type: ignore[arg-type]
    return kind(**values)


def _checked(value: Any, rules: Mapping[str, Any], name: str, source: str) -> Any:
    if rules["optional"] and (value is None or value == _NONE):
        return None
    kind = rules["kind"]
    if type(value) is int and str(value) in rules.get("choices", ()):
        value = str(value)  # subsampling = 420, window = 5
    if "choices" in rules and value not in rules["choices"]:
        raise _wrong(source, name, " or ".join(map(repr, rules["choices"])), value)
    if not _is_kind(value, kind):
        raise _wrong(source, name, _KINDS[kind] + (" or none" if rules["optional"] else ""), value)
    if "length" in rules and len(value) != rules["length"]:
        raise _wrong(source, name, f"{_KINDS[kind]}, {rules['length']} of them", value)
    for number in value if kind in ("ints", "floats") else [value] if kind in ("int", "float") else []:
        if not _in_range(number, rules):
            raise _wrong(source, name, _range_in_words(rules), value)
    if kind in ("ints", "floats"):
        return tuple(float(one) if kind == "floats" else one for one in value)
    return float(value) if kind == "float" else value


def _is_kind(value: Any, kind: str) -> bool:
    if kind in ("ints", "floats"):
        return isinstance(value, (list, tuple)) and all(_is_kind(one, kind[:-1]) for one in value)
    if kind == "float":
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return type(value) is {"bool": bool, "int": int, "str": str}[kind]


def _in_range(value: float, rules: Mapping[str, Any]) -> bool:
    # Written so that NaN is out of every range.
    inside = rules.get("low", float("-inf")) <= value <= rules.get("high", sys.float_info.max)
    return inside and rules.get("above", float("-inf")) < value and value < rules.get("below", float("inf"))


def _range_in_words(rules: Mapping[str, Any]) -> str:
    words = {"low": "at least", "above": "above", "high": "at most", "below": "below"}
    return " and ".join(f"{said} {rules[rule]}" for rule, said in words.items() if rule in rules) or "finite"


def _wrong(source: str, name: str, allowed: str, value: Any) -> InvalidInputError:
    return InvalidInputError(f"{source}: {name} is {allowed}; got {value!r}")
