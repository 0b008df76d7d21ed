"""The layout of a profile's file: its keys checked, its text written. The README specifies it in ten bullets."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgejpeg.errors import InvalidInputError, ProfileError
from edgejpeg.jpeg.colour import SUBSAMPLINGS
from edgejpeg.jpeg.tables import QuantTable, dead_zone_thresholds

FORMAT, VERSION = "edgejpeg-profile", 1
CHANNELS = ("y", "cb", "cr")
KINDS = ("adaptive", "fixed", "ladder")
MAX_LEVELS = 16

_TOP_KEYS = {"format", "version", "name", "kind", "subsampling", "effort", "provenance", *KINDS}
_ADAPTIVE_KEYS = {"water_level", "chroma_water_level", "q_max", "sensitivity", "standard_error", "dead_zone"}
_FIXED_KEYS = {"luma", "chroma", "dead_zone"}
_LADDER_KEYS = {"level", "levels"}
_LEVEL_KEYS = {"rate", "luma", "chroma", "dead_zone"}

ProvenanceValue = str | int | float | bool | list[Any]


@dataclass(frozen=True, eq=False)
class DeadZone:
    """Zeroing thresholds: a coefficient C with |C| < t q becomes 0, and is rounded otherwise.

    Attributes:
        luma: (8, 8) float64, row-major, t of every frequency, .5 (plain rounding) to 1; DC, at [0, 0], is .5.
        chroma: the same for Cb and Cr; None where the profile has no chroma.
    """

    luma: NDArray[np.float64]
    chroma: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "luma", dead_zone_thresholds(self.luma))
        if self.chroma is not None:
            object.__setattr__(self, "chroma", dead_zone_thresholds(self.chroma))

    def to_document(self) -> dict[str, Any]:
        """The section ``dead_zone`` of the file."""
        return _tables_document(self.luma, self.chroma)


@dataclass(frozen=True, eq=False)
class Level:
    """One level of a ladder.

    Attributes:
        rate: bits per pixel measured at the design, headers included; it orders the levels and sets the slope at which
            bytes are traded between frames, and does not change what a level does to a frame.
        luma, chroma: the tables; chroma is None for ``"gray"``.
        dead_zone: the thresholds; None for plain rounding.
    """

    rate: float
    luma: QuantTable
    chroma: QuantTable | None = None
    dead_zone: DeadZone | None = None

    def to_document(self) -> dict[str, Any]:
        """One entry of ``ladder.levels`` in the file."""
        document: dict[str, Any] = {"rate": self.rate, **_tables_document(self.luma, self.chroma)}
        if self.dead_zone is not None:
            document["dead_zone"] = self.dead_zone.to_document()
        return document


def _check_integers(document: Mapping[str, Any]) -> None:
    """TOML's integers have 64 bits; Python's go on, past what a float holds and what can be printed."""
    waiting: list[tuple[str, Any]] = [("", document)]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += [(f"{key}.{name}" if key else str(name), entry) for name, entry in value.items()]
        elif isinstance(value, list):
            waiting += [(f"{key}[{index}]", entry) for index, entry in enumerate(value)]
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ProfileError(f'key "{key}" is an integer of {value.bit_length()} bits; TOML has 64')


def read_fields(document: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a profile from its document.

    Raises:
        ProfileError: an unknown format or version, an unknown key, or a value that is not allowed; it names the key.
    """
    _check_integers(document)
    if document.get("format") != FORMAT:
        raise ProfileError(f'key "format" is {document.get("format")!r}; an edgejpeg profile has {FORMAT!r}')
    if document.get("version") != VERSION or isinstance(document["version"], bool):
        raise ProfileError(
            f'key "version" is {document.get("version")!r}; this edgejpeg reads version {VERSION}; '
            "install the edgejpeg that wrote the profile, or write it anew"
        )
    _only(document, _TOP_KEYS, "")
    kind = _choice(document, "kind", KINDS)
    for other in KINDS:
        if other != kind and other in document:
            raise ProfileError(f'key "{other}" does not belong into a profile of kind {kind!r}')
    subsampling = _choice(document, "subsampling", tuple(SUBSAMPLINGS))
    common = {
        "name": _name(document),
        "kind": kind,
        "subsampling": subsampling,
        "effort": _integer(document.get("effort", 0), "effort", 0, 1),
        "provenance": _provenance(document.get("provenance", {})),
    }
    section = document.get(kind)
    if not isinstance(section, Mapping):
        raise ProfileError(f'the section "[{kind}]" is missing')
    read = {"adaptive": _adaptive, "fixed": _fixed, "ladder": _ladder}[kind]
    return common | read(section, subsampling)


def channels_document(values: ArrayLike, key: str) -> dict[str, Any]:
    """``(3, 8, 8)`` numbers as the keys y, cb, cr."""
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (3, 8, 8):
        raise ProfileError(f"{key} has shape (3, 8, 8), row-major, Y, Cb, Cr; got {array.shape}")
    return dict(zip(CHANNELS, array.tolist(), strict=True))


def positive(value: Any, key: str) -> float:
    """A positive, finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not (0 < value < math.inf):
        raise ProfileError(f'key "{key}" is {value!r}; it is a positive, finite number')
    return float(value)


def _adaptive(section: Mapping[str, Any], subsampling: str) -> dict[str, Any]:
    _only(section, _ADAPTIVE_KEYS, "adaptive.")
    sensitivity = _maps(section.get("sensitivity"), "adaptive.sensitivity")
    if not sensitivity[0].max() > 0:
        raise ProfileError('key "adaptive.sensitivity.y" has no positive number; a luma sensitivity is needed')
    water_level = positive(section.get("water_level"), "adaptive.water_level")
    chroma = section.get("chroma_water_level", water_level)
    error = section.get("standard_error")
    return {
        "sensitivity": sensitivity,
        "water_level": water_level,
        "chroma_water_level": positive(chroma, "adaptive.chroma_water_level"),
        "q_max": _integer(section.get("q_max", 100), "adaptive.q_max", 1, 255),
        "standard_error": None if error is None else _maps(error, "adaptive.standard_error"),
        "dead_zone": _dead_zone(section, "adaptive.", subsampling),
    }


def _fixed(section: Mapping[str, Any], subsampling: str) -> dict[str, Any]:
    _only(section, _FIXED_KEYS, "fixed.")
    return _tables(section, "fixed.", subsampling)


def _ladder(section: Mapping[str, Any], subsampling: str) -> dict[str, Any]:
    _only(section, _LADDER_KEYS, "ladder.")
    entries = section.get("levels")
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_LEVELS:
        received = f"has {len(entries)} entries" if isinstance(entries, list) else f"is {entries!r:.60}"
        raise ProfileError(f'key "ladder.levels" {received}; it is a list of 1 to {MAX_LEVELS} levels')
    levels: list[Level] = []
    for index, entry in enumerate(entries):
        key = f"ladder.levels[{index}]"
        if not isinstance(entry, Mapping):
            raise ProfileError(f'key "{key}" is {entry!r:.60}; a level has the keys {", ".join(sorted(_LEVEL_KEYS))}')
        _only(entry, _LEVEL_KEYS, f"{key}.")
        rate = positive(entry.get("rate"), f"{key}.rate")
        if levels and not rate > levels[-1].rate:
            raise ProfileError(
                f'key "{key}.rate" is {rate!r} after {levels[-1].rate!r}; levels come in the order of rising rates'
            )
        levels.append(Level(rate, **_tables(entry, f"{key}.", subsampling)))
    return {
        "levels": tuple(levels),
        "level": _integer(section.get("level", len(levels) - 1), "ladder.level", 0, len(levels) - 1),
    }


def _tables(section: Mapping[str, Any], prefix: str, subsampling: str) -> dict[str, Any]:
    """luma, chroma and dead_zone of a fixed profile or of a level."""
    if subsampling != "gray" and "chroma" not in section:
        raise ProfileError(f'key "{prefix}chroma" is missing; subsampling {subsampling!r} needs a chroma table')
    return {
        "luma": _table(section.get("luma"), f"{prefix}luma"),
        "chroma": _table(section["chroma"], f"{prefix}chroma") if "chroma" in section else None,
        "dead_zone": _dead_zone(section, prefix, subsampling),
    }


def _tables_document(luma: ArrayLike, chroma: ArrayLike | None) -> dict[str, Any]:
    document = {"luma": np.asarray(luma).tolist()}
    if chroma is not None:
        document["chroma"] = np.asarray(chroma).tolist()
    return document


def _dead_zone(section: Mapping[str, Any], prefix: str, subsampling: str) -> DeadZone | None:
    if "dead_zone" not in section:
        return None
    thresholds, key = section["dead_zone"], f"{prefix}dead_zone"
    if not isinstance(thresholds, Mapping):
        raise ProfileError(f'key "{key}" is {thresholds!r:.60}; it has the keys luma and chroma, each an 8x8 array')
    _only(thresholds, {"luma", "chroma"}, f"{key}.")
    if subsampling != "gray" and "chroma" not in thresholds:
        raise ProfileError(f'key "{key}.chroma" is missing; subsampling {subsampling!r} has chroma')
    return DeadZone(
        _thresholds(thresholds.get("luma"), f"{key}.luma"),
        _thresholds(thresholds["chroma"], f"{key}.chroma") if "chroma" in thresholds else None,
    )


def _thresholds(value: Any, key: str) -> NDArray[np.float64]:
    grid = _grid(value, key)
    _numbers(grid, key)
    try:
        return dead_zone_thresholds(grid)
    except InvalidInputError as error:
        raise ProfileError(f'key "{key}": {error}') from None


def _only(section: Mapping[str, Any], allowed: set[str], prefix: str) -> None:
    for key in section:
        if key not in allowed:
            raise ProfileError(f'unknown key "{prefix}{key}"; allowed are {", ".join(sorted(allowed))}')


def _choice(document: Mapping[str, Any], key: str, allowed: tuple[str, ...]) -> str:
    value = document.get(key)
    if value not in allowed:
        raise ProfileError(f'key "{key}" is {value!r}; allowed are {", ".join(allowed)}')
    return str(value)


def _name(document: Mapping[str, Any]) -> str:
    name = document.get("name")
    if not isinstance(name, str) or not name or len(name) > 200 or not name.isprintable():
        raise ProfileError(f'key "name" is {name!r}; it is a printable text of 1 to 200 characters')
    return name


def _integer(value: Any, key: str, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not low <= value <= high:
        raise ProfileError(f'key "{key}" is {value!r}; it is an integer from {low} to {high}')
    return int(value)


def _grid(value: Any, key: str) -> list[list[Any]]:
    if not isinstance(value, list) or len(value) != 8 or any(not isinstance(r, list) or len(r) != 8 for r in value):
        raise ProfileError(f'key "{key}" is no 8x8 array (8 rows of 8 numbers, row-major)')
    return value


def _numbers(grid: list[list[Any]], key: str) -> None:
    for row, numbers in enumerate(grid):
        for column, number in enumerate(numbers):
            is_number = isinstance(number, (int, float)) and not isinstance(number, bool)
            if not (is_number and 0 <= number < math.inf):
                raise ProfileError(f'key "{key}" has {number!r} at row {row}, column {column}; it is finite and >= 0')


def _maps(value: Any, key: str) -> NDArray[np.float64]:
    if not isinstance(value, Mapping) or set(value) != set(CHANNELS):
        raise ProfileError(f'key "{key}" has the three keys {", ".join(CHANNELS)}, each an 8x8 array')
    for channel in CHANNELS:
        _numbers(_grid(value[channel], f"{key}.{channel}"), f"{key}.{channel}")
    array = np.array([value[channel] for channel in CHANNELS], dtype=np.float64)
    array.setflags(write=False)
    return array


def _table(value: Any, key: str) -> QuantTable:
    grid = _grid(value, key)
    try:
        return QuantTable(np.array(grid))
    except (InvalidInputError, ValueError, TypeError) as error:
        raise ProfileError(f'key "{key}": {error}') from None


def _provenance(value: Any) -> dict[str, ProvenanceValue]:
    if not isinstance(value, Mapping):
        raise ProfileError(f'key "provenance" is {value!r}; it is a section of names and plain values')
    for key, entry in value.items():
        entries = entry if isinstance(entry, list) else [entry]
        if not isinstance(key, str) or any(not isinstance(e, (str, int, float, bool)) for e in entries):
            raise ProfileError(
                f'key "provenance.{key}" is {entry!r}; texts, numbers, booleans and lists of them go there'
            )
    return dict(value)


def to_toml(document: Mapping[str, Any], prefix: str = "") -> str:
    """TOML text of nested dictionaries of numbers, texts, booleans and lists: plain values first, then sections.

    A list of dictionaries becomes an array of tables.
    """
    lines, sections = [], []
    for key, value in document.items():
        name = f"{prefix}{_toml_key(key)}"
        if isinstance(value, Mapping):
            sections.append(f"\n[{name}]\n" + to_toml(value, f"{name}."))
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            sections += [f"\n[[{name}]]\n" + to_toml(entry, f"{name}.") for entry in value]
        elif isinstance(value, list) and value and isinstance(value[0], list):
            rows = "".join(f"    {_toml_value(row)},\n" for row in value)
            lines.append(f"{_toml_key(key)} = [\n{rows}]\n")
        else:
            lines.append(f"{_toml_key(key)} = {_toml_value(value)}\n")
    return "".join(lines + sections)


def _toml_key(key: str) -> str:
    bare = key and all(c.isascii() and (c.isalnum() or c in "-_") for c in key)
    return key if bare else json.dumps(key)


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for DEL, which TOML wants escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return "[" + ", ".join(_toml_value(v) for v in value) + "]"
    if isinstance(value, float):
        if math.isnan(value) or math.isinf(value):
            return str(value)
        text = repr(value)
        return text if any(c in text for c in ".e") else f"{text}.0"
    return str(value)
