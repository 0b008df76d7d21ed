"""Profiles: all that a device needs to encode for a network, in one TOML file.

An *adaptive* profile has the network's sensitivities and a water level; the encoder designs the tables of every frame
from them (OptS). A *fixed* profile has two integer tables. Both have the subsampling and say where they come from.
The format is specified in the README.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgejpeg.errors import InvalidInputError, ProfileError
from edgejpeg.jpeg.colour import SUBSAMPLINGS
from edgejpeg.jpeg.tables import QuantTable

FORMAT, VERSION = "edgejpeg-profile", 1
CHANNELS = ("y", "cb", "cr")

_TOP_KEYS = {"format", "version", "name", "kind", "subsampling", "effort", "adaptive", "fixed", "provenance"}
_ADAPTIVE_KEYS = {"water_level", "chroma_water_level", "q_max", "sensitivity", "standard_error"}
_FIXED_KEYS = {"luma", "chroma"}

ProvenanceValue = str | int | float | bool | list[Any]


@dataclass(frozen=True, eq=False)
class Profile:
    """What an encoder needs to know about the network at the other end. Immutable.

    Build one with :meth:`adaptive` or :meth:`fixed`, read one with :func:`load_profile`.

    Attributes:
        name: a short name, for people.
        kind: ``"adaptive"`` or ``"fixed"``.
        subsampling: ``"444"``, ``"422"``, ``"420"`` or ``"gray"``.
        effort: entropy coding, 0 for stored Huffman tables, 1 for optimal ones.
        sensitivity: (3, 8, 8) float64, row-major, Y, Cb, Cr: the raw s_i of [OptS eq. 9]; None when fixed.
        standard_error: (3, 8, 8) float64, the standard errors of ``sensitivity``, where known.
        water_level: the luma water level d in normalised units, d = d_raw / (10 max s_Y); None when fixed.
        chroma_water_level: the chroma water level, in the same units; None when fixed.
        q_max: the largest step that a designed table may have, 1..255.
        luma, chroma: the tables of a fixed profile; chroma is None for ``"gray"``; None when adaptive.
        provenance: where the numbers come from (network, weights' sha256, data, images, date, tool version).
    """

    name: str
    kind: str
    subsampling: str
    effort: int = 0
    sensitivity: NDArray[np.float64] | None = None
    standard_error: NDArray[np.float64] | None = None
    water_level: float | None = None
    chroma_water_level: float | None = None
    q_max: int = 100
    luma: QuantTable | None = None
    chroma: QuantTable | None = None
    provenance: Mapping[str, ProvenanceValue] = field(default_factory=dict)

    @classmethod
    def adaptive(
        cls,
        *,
        name: str,
        sensitivity: ArrayLike,
        water_level: float,
        chroma_water_level: float | None = None,
        q_max: int = 100,
        subsampling: str = "420",
        effort: int = 0,
        standard_error: ArrayLike | None = None,
        provenance: Mapping[str, ProvenanceValue] | None = None,
    ) -> Profile:
        """A profile whose tables are designed for every frame [OptS Algorithms 1 and 2].

        Raises:
            ProfileError: a wrong shape, NaN, a negative number, no positive luma sensitivity, or a value out of range;
                the message names the key.
        """
        document: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "name": name,
            "kind": "adaptive",
            "subsampling": subsampling,
            "effort": effort,
            "adaptive": {
                "water_level": water_level,
                "q_max": q_max,
                "sensitivity": _channels(sensitivity, "sensitivity"),
            },
            "provenance": dict(provenance or {}),
        }
        if chroma_water_level is not None:
            document["adaptive"]["chroma_water_level"] = chroma_water_level
        if standard_error is not None:
            document["adaptive"]["standard_error"] = _channels(standard_error, "standard_error")
        return profile_from_document(document)

    @classmethod
    def fixed(
        cls,
        *,
        name: str,
        luma: QuantTable | ArrayLike,
        chroma: QuantTable | ArrayLike | None = None,
        subsampling: str = "420",
        effort: int = 0,
        provenance: Mapping[str, ProvenanceValue] | None = None,
    ) -> Profile:
        """A profile with two integer tables, the same for every frame.

        Raises:
            ProfileError: a step outside 1..255, or a chroma table missing; the message names the key.
        """
        tables = {"luma": np.asarray(luma).tolist()}
        if chroma is not None:
            tables["chroma"] = np.asarray(chroma).tolist()
        return profile_from_document(
            {
                "format": FORMAT,
                "version": VERSION,
                "name": name,
                "kind": "fixed",
                "subsampling": subsampling,
                "effort": effort,
                "fixed": tables,
                "provenance": dict(provenance or {}),
            }
        )

    @property
    def profile_id(self) -> str:
        """Twelve hex digits that name what the profile does to a frame; its name and provenance do not count."""
        document = self.to_document()
        content = {key: document[key] for key in ("kind", "subsampling", "effort", self.kind)}
        content[self.kind].pop("standard_error", None)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    def with_water_level(self, water_level: float, chroma_water_level: float | None = None) -> Profile:
        """The same adaptive profile at another water level (normalised d)."""
        if self.kind != "adaptive":
            raise ProfileError(f"profile {self.name!r} is fixed: it has tables and no water level to change")
        level = _positive(water_level, "water_level")
        chroma = level if chroma_water_level is None else _positive(chroma_water_level, "chroma_water_level")
        return replace(self, water_level=level, chroma_water_level=chroma)

    def to_document(self) -> dict[str, Any]:
        """The profile as plain dictionaries and lists, in the layout of the file."""
        document: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "name": self.name,
            "kind": self.kind,
            "subsampling": self.subsampling,
            "effort": self.effort,
        }
        if self.sensitivity is not None:
            document["adaptive"] = {"water_level": self.water_level, "q_max": self.q_max}
            if self.chroma_water_level != self.water_level:
                document["adaptive"]["chroma_water_level"] = self.chroma_water_level
            document["adaptive"]["sensitivity"] = dict(zip(CHANNELS, self.sensitivity.tolist(), strict=True))
            if self.standard_error is not None:
                document["adaptive"]["standard_error"] = dict(zip(CHANNELS, self.standard_error.tolist(), strict=True))
        if self.luma is not None:
            document["fixed"] = {"luma": self.luma.array.tolist()}
            if self.chroma is not None:
                document["fixed"]["chroma"] = self.chroma.array.tolist()
        document["provenance"] = dict(self.provenance)
        return document

    def to_toml(self) -> str:
        """The profile as the text of its file."""
        return _toml(self.to_document())

    def save(self, path: str | Path) -> None:
        """Write the profile; the file is replaced in one step, so a reader never sees half of it.

        Raises:
            ProfileError: the file cannot be written.
        """
        path = Path(path)
        temporary = path.with_name(f".{path.name}.writing")
        try:
            temporary.write_text(self.to_toml(), encoding="utf-8")
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise ProfileError(f"cannot write profile {path}: {error.strerror or error}") from error


def list_profiles() -> list[str]:
    """The names of the shipped profiles."""
    return sorted(path.stem for folder in _shipped_folders() for path in folder.glob("*.toml"))


def load_profile(name_or_path: str | Path) -> Profile:
    """Read a shipped profile by name, or a profile file by path.

    A text with a path separator or the suffix ``.toml`` is a path; anything else is the name of a shipped profile.

    Raises:
        ProfileError: no such profile (with the nearest names), unreadable, no TOML, of an unknown version, or with a
            value that is not allowed (with its key).
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or "/" in text or "\\" in text or text.endswith(".toml"):
        return _read(Path(name_or_path))
    for folder in _shipped_folders():
        if (folder / f"{text}.toml").is_file():
            return _read(folder / f"{text}.toml")
    names = list_profiles()
    near = get_close_matches(text, names, n=3, cutoff=0.4) or names
    raise ProfileError(
        f"no shipped profile {text!r}; there are: {', '.join(near)} (a file is given by its path, as in ./{text}.toml)"
    )


def profile_from_document(document: Mapping[str, Any], source: str = "profile") -> Profile:
    """Check a parsed document and build the profile.

    Args:
        document: the layout of the file, as plain dictionaries and lists.
        source: named at the beginning of every error, such as the file's path.
    """
    try:
        return _build(document)
    except ProfileError as error:
        raise ProfileError(f"{source}: {error}") from None


def _shipped_folders() -> list[Path]:
    import edgejpeg

    return [Path(p) / "models" / "profiles" for p in edgejpeg.__path__ if (Path(p) / "models" / "profiles").is_dir()][
        :1
    ]


def _read(path: Path) -> Profile:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ProfileError(f"cannot read profile {path}: {reason}") from error
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"{path}: not a TOML file: {error}") from error
    return profile_from_document(document, str(path))


def _build(document: Mapping[str, Any]) -> Profile:
    if document.get("format") != FORMAT:
        raise ProfileError(f'key "format" is {document.get("format")!r}; an edgejpeg profile has {FORMAT!r}')
    if document.get("version") != VERSION or isinstance(document["version"], bool):
        raise ProfileError(
            f'key "version" is {document.get("version")!r}; this edgejpeg reads version {VERSION}; '
            "install the edgejpeg that wrote the profile, or write it anew"
        )
    _only(document, _TOP_KEYS, "")
    kind = _choice(document, "kind", ("adaptive", "fixed"))
    other = "fixed" if kind == "adaptive" else "adaptive"
    if other in document:
        raise ProfileError(f'key "{other}" does not belong into a profile of kind {kind!r}')
    common: dict[str, Any] = {
        "name": _name(document),
        "kind": kind,
        "subsampling": _choice(document, "subsampling", tuple(SUBSAMPLINGS)),
        "effort": _integer(document.get("effort", 0), "effort", 0, 1),
        "provenance": _provenance(document.get("provenance", {})),
    }
    section = document.get(kind)
    if not isinstance(section, Mapping):
        raise ProfileError(f'the section "[{kind}]" is missing')
    return Profile(**common, **(_adaptive if kind == "adaptive" else _fixed)(section, common["subsampling"]))


def _adaptive(section: Mapping[str, Any], subsampling: str) -> dict[str, Any]:
    _only(section, _ADAPTIVE_KEYS, "adaptive.")
    sensitivity = _maps(section.get("sensitivity"), "adaptive.sensitivity")
    if not sensitivity[0].max() > 0:
        raise ProfileError('key "adaptive.sensitivity.y" has no positive number; a luma sensitivity is needed')
    water_level = _positive(section.get("water_level"), "adaptive.water_level")
    chroma = section.get("chroma_water_level", water_level)
    error = section.get("standard_error")
    return {
        "sensitivity": sensitivity,
        "water_level": water_level,
        "chroma_water_level": _positive(chroma, "adaptive.chroma_water_level"),
        "q_max": _integer(section.get("q_max", 100), "adaptive.q_max", 1, 255),
        "standard_error": None if error is None else _maps(error, "adaptive.standard_error"),
    }


def _fixed(section: Mapping[str, Any], subsampling: str) -> dict[str, Any]:
    _only(section, _FIXED_KEYS, "fixed.")
    if subsampling != "gray" and "chroma" not in section:
        raise ProfileError(f'key "fixed.chroma" is missing; subsampling {subsampling!r} needs a chroma table')
    return {
        "luma": _table(section.get("luma"), "fixed.luma"),
        "chroma": _table(section["chroma"], "fixed.chroma") if "chroma" in section else None,
    }


def _channels(values: ArrayLike, key: str) -> dict[str, Any]:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (3, 8, 8):
        raise ProfileError(f"{key} has shape (3, 8, 8), row-major, Y, Cb, Cr; got {array.shape}")
    return dict(zip(CHANNELS, array.tolist(), strict=True))


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


def _positive(value: Any, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not (0 < value < math.inf):
        raise ProfileError(f'key "{key}" is {value!r}; it is a positive, finite number')
    return float(value)


def _grid(value: Any, key: str) -> list[list[Any]]:
    if not isinstance(value, list) or len(value) != 8 or any(not isinstance(r, list) or len(r) != 8 for r in value):
        raise ProfileError(f'key "{key}" is no 8x8 array (8 rows of 8 numbers, row-major)')
    return value


def _maps(value: Any, key: str) -> NDArray[np.float64]:
    if not isinstance(value, Mapping) or set(value) != set(CHANNELS):
        raise ProfileError(f'key "{key}" has the three keys {", ".join(CHANNELS)}, each an 8x8 array')
    for channel in CHANNELS:
        for row, numbers in enumerate(_grid(value[channel], f"{key}.{channel}")):
            for column, number in enumerate(numbers):
                is_number = isinstance(number, (int, float)) and not isinstance(number, bool)
                if not (is_number and 0 <= number < math.inf):
                    raise ProfileError(
                        f'key "{key}.{channel}" has {number!r} at row {row}, column {column}; it is finite and >= 0'
                    )
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


def _toml(document: Mapping[str, Any], prefix: str = "") -> str:
    """TOML text of nested dictionaries of numbers, texts, booleans and lists: plain values first, then sections."""
    lines, sections = [], []
    for key, value in document.items():
        if isinstance(value, Mapping):
            sections.append(f"\n[{prefix}{_toml_key(key)}]\n" + _toml(value, f"{prefix}{_toml_key(key)}."))
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
