"""Profiles: all that a device needs to encode for a network, in one TOML file.

An *adaptive* profile has the network's sensitivities and a water level; the encoder designs the tables of every frame
from them (OptS). A *fixed* profile has two integer tables, and a *ladder* up to sixteen pairs of them, ordered by rate.
All have the subsampling, may have dead-zone thresholds, and say where they come from. The README specifies the format.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgejpeg._profile_document import (
    CHANNELS,
    FORMAT,
    VERSION,
    ProvenanceValue,
    channels_document,
    positive,
    read_fields,
    to_toml,
)
from edgejpeg._profile_document import DeadZone as DeadZone
from edgejpeg._profile_document import Level as Level
from edgejpeg.errors import ProfileError
from edgejpeg.jpeg.tables import QuantTable


@dataclass(frozen=True, eq=False)
class Profile:
    """What an encoder needs to know about the network at the other end. Immutable.

    Build one with :meth:`adaptive`, :meth:`fixed` or :meth:`ladder`, read one with :func:`load_profile`.

    Attributes:
        name: a short name, for people.
        kind: ``"adaptive"``, ``"fixed"`` or ``"ladder"``.
        subsampling: ``"444"``, ``"422"``, ``"420"`` or ``"gray"``.
        effort: entropy coding, 0 for stored Huffman tables, 1 for optimal ones.
        sensitivity: (3, 8, 8) float64, row-major, Y, Cb, Cr: the raw s_i of [OptS eq. 9]; None unless
            adaptive.
        standard_error: (3, 8, 8) float64, the standard errors of ``sensitivity``, where known.
        water_level: the luma water level d in normalised units, d = d_raw / (10 max s_Y); None unless adaptive.
        chroma_water_level: the chroma water level, in the same units; None unless adaptive.
        q_max: the largest step that a designed table may have, 1..255.
        luma, chroma: the tables of a fixed profile; chroma is None for ``"gray"``; None unless fixed.
        dead_zone: zeroing thresholds of an adaptive or fixed profile; None for plain rounding. A ladder's levels have
            their own.
        levels: the levels of a ladder in the order of rising rates; empty unless a ladder.
        level: the index of the level that a ladder takes when no other is asked for; None unless a ladder.
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
    dead_zone: DeadZone | None = None
    levels: tuple[Level, ...] = ()
    level: int | None = None
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
        dead_zone: DeadZone | None = None,
        provenance: Mapping[str, ProvenanceValue] | None = None,
    ) -> Profile:
        """A profile whose tables are designed for every frame [OptS Algorithms 1 and 2].

        Raises:
            ProfileError: a wrong shape, NaN, a negative number, no positive luma sensitivity, or a value out of range;
                the message names the key.
        """
        section: dict[str, Any] = {
            "water_level": water_level,
            "q_max": q_max,
            "sensitivity": channels_document(sensitivity, "sensitivity"),
        }
        if chroma_water_level is not None:
            section["chroma_water_level"] = chroma_water_level
        if standard_error is not None:
            section["standard_error"] = channels_document(standard_error, "standard_error")
        if dead_zone is not None:
            section["dead_zone"] = dead_zone.to_document()
        return profile_from_document(_document(name, "adaptive", subsampling, effort, section, provenance))

    @classmethod
    def fixed(
        cls,
        *,
        name: str,
        luma: QuantTable | ArrayLike,
        chroma: QuantTable | ArrayLike | None = None,
        dead_zone: DeadZone | None = None,
        subsampling: str = "420",
        effort: int = 0,
        provenance: Mapping[str, ProvenanceValue] | None = None,
    ) -> Profile:
        """A profile with two integer tables, the same for every frame.

        Raises:
            ProfileError: a step outside 1..255, or a chroma table missing; the message names the key.
        """
        section: dict[str, Any] = {"luma": np.asarray(luma).tolist()}
        if chroma is not None:
            section["chroma"] = np.asarray(chroma).tolist()
        if dead_zone is not None:
            section["dead_zone"] = dead_zone.to_document()
        return profile_from_document(_document(name, "fixed", subsampling, effort, section, provenance))

    @classmethod
    def ladder(
        cls,
        *,
        name: str,
        levels: Sequence[Level],
        level: int | None = None,
        subsampling: str = "420",
        effort: int = 0,
        provenance: Mapping[str, ProvenanceValue] | None = None,
    ) -> Profile:
        """A profile with 1 to 16 levels of tables and thresholds, for a byte budget or a slope per frame.

        Args:
            levels: in the order of rising rates.
            level: the index of the one to take when no other is asked for; default: the last, of the highest rate.

        Raises:
            ProfileError: no levels or more than 16, rates that do not rise, a chroma table missing, an index out of
                range; the message names the key, such as ``ladder.levels[3].luma``.
        """
        section: dict[str, Any] = {"levels": [entry.to_document() for entry in levels]}
        if level is not None:
            section["level"] = level
        return profile_from_document(_document(name, "ladder", subsampling, effort, section, provenance))

    @property
    def profile_id(self) -> str:
        """Twelve hex digits that name what the profile does to a frame.

        Its name and provenance, standard errors and the rates of a ladder's levels do not count.
        """
        document = self.to_document()
        content = {key: document[key] for key in ("kind", "subsampling", "effort", self.kind)}
        content[self.kind].pop("standard_error", None)
        for entry in content[self.kind].get("levels", ()):
            del entry["rate"]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    def with_water_level(self, water_level: float, chroma_water_level: float | None = None) -> Profile:
        """The same adaptive profile at another water level (normalised d)."""
        if self.kind != "adaptive":
            raise ProfileError(f"profile {self.name!r} is {self.kind}: it has tables and no water level to change")
        level = positive(water_level, "water_level")
        chroma = level if chroma_water_level is None else positive(chroma_water_level, "chroma_water_level")
        return replace(self, water_level=level, chroma_water_level=chroma)

    def at_level(self, level: int) -> Profile:
        """One level of a ladder as a fixed profile, named after the ladder and the level.

        Args:
            level: 0 (the lowest rate) to the number of levels - 1.
        """
        if self.kind != "ladder":
            raise ProfileError(f"profile {self.name!r} is {self.kind}: it has no levels; a ladder has")
        if isinstance(level, bool) or not isinstance(level, (int, np.integer)) or not 0 <= level < len(self.levels):
            raise ProfileError(
                f"profile {self.name!r} has the levels 0 (the lowest rate) to {len(self.levels) - 1}; got {level!r}"
            )
        entry = self.levels[level]
        return Profile(
            name=f"{self.name}[{level}]",
            kind="fixed",
            subsampling=self.subsampling,
            effort=self.effort,
            luma=entry.luma,
            chroma=entry.chroma,
            dead_zone=entry.dead_zone,
            provenance=self.provenance,
        )

    def to_document(self) -> dict[str, Any]:
        """The profile as plain dictionaries and lists, in the layout of the file."""
        section: dict[str, Any] = {}
        if self.sensitivity is not None:
            section = {"water_level": self.water_level, "q_max": self.q_max}
            if self.chroma_water_level != self.water_level:
                section["chroma_water_level"] = self.chroma_water_level
            section["sensitivity"] = dict(zip(CHANNELS, self.sensitivity.tolist(), strict=True))
            if self.standard_error is not None:
                section["standard_error"] = dict(zip(CHANNELS, self.standard_error.tolist(), strict=True))
        if self.luma is not None:
            section = {"luma": self.luma.array.tolist()}
            if self.chroma is not None:
                section["chroma"] = self.chroma.array.tolist()
        if self.dead_zone is not None:
            section["dead_zone"] = self.dead_zone.to_document()
        if self.levels:
            section = {"level": self.level, "levels": [entry.to_document() for entry in self.levels]}
        return _document(self.name, self.kind, self.subsampling, self.effort, section, self.provenance)

    def to_toml(self) -> str:
        """The profile as the text of its file."""
        return to_toml(self.to_document())

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
        return Profile(**read_fields(document))
    except ProfileError as error:
        raise ProfileError(f"{source}: {error}") from None


def _document(
    name: str,
    kind: str,
    subsampling: str,
    effort: int,
    section: dict[str, Any],
    provenance: Mapping[str, ProvenanceValue] | None,
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "name": name,
        "kind": kind,
        "subsampling": subsampling,
        "effort": effort,
        kind: section,
        "provenance": dict(provenance or {}),
    }


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
    except RecursionError:
        raise ProfileError(f"{path}: not a profile: its arrays or tables are nested too deeply") from None
    except ValueError as error:  # TOMLDecodeError is one, an integer of thousands of digits raises another
        raise ProfileError(f"{path}: not a TOML file: {error}") from error
    return profile_from_document(document, str(path))
