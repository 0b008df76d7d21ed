"""A profile as a C header, for programs that encode without Python: see ``runtime/native/examples``."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from edgejpeg._version import __version__
from edgejpeg.design.opts import raw_water_level
from edgejpeg.jpeg.tables import QuantTable
from edgejpeg.profile import DeadZone, Profile

_TEMPLATE = """\
/* A profile of edgejpeg {version}, written by "edgejpeg info --c-header". Do not edit it. */
#ifndef EDGEJPEG_PROFILE_H
#define EDGEJPEG_PROFILE_H

#include <edgejpeg.h>
#include <string.h>

#define EDGEJPEG_PROFILE_NAME {name}
#define EDGEJPEG_PROFILE_ID "{identity}"
#define EDGEJPEG_PROFILE_SUBSAMPLING EDGEJPEG_{subsampling}
#define EDGEJPEG_PROFILE_EFFORT {effort}

{arrays}
/* An encoder with this profile, for frames of any size; destroy it with edgejpeg_encoder_destroy. */
static inline edgejpeg_status edgejpeg_profile_create(int32_t threads, edgejpeg_encoder** encoder) {{
  edgejpeg_options options;
  edgejpeg_status status;
  memset(&options, 0, sizeof(options));
  options.subsampling = EDGEJPEG_PROFILE_SUBSAMPLING;
  options.effort = EDGEJPEG_PROFILE_EFFORT;
  options.threads = threads;
  status = edgejpeg_encoder_create(&options, encoder);
  if (status != EDGEJPEG_OK) return status;
{calls}
  if (status != EDGEJPEG_OK) {{
    edgejpeg_encoder_destroy(*encoder);
    *encoder = NULL;
  }}
  return status;
}}

#endif /* EDGEJPEG_PROFILE_H */
"""


def profile_header(profile: Profile) -> str:
    """C99 and C++ source: the profile's numbers, and ``edgejpeg_profile_create``, which makes an encoder of them.

    The encoder gives the bytes of ``Encoder(profile)``. Sensitivities are raw, in the units of ``edgejpeg.h``; so are
    the water levels. All numbers are written so that reading them gives the same double.

    Args:
        profile: adaptive, fixed or a ladder.
    """
    arrays: list[str] = []
    if profile.sensitivity is not None and profile.water_level is not None:
        arrays.append(_array("double", "sensitivity", profile.sensitivity))
        chroma = profile.water_level if profile.chroma_water_level is None else profile.chroma_water_level
        raw = {
            "LUMA_WATER_LEVEL": raw_water_level(profile.water_level, profile.sensitivity),
            "CHROMA_WATER_LEVEL": raw_water_level(chroma, profile.sensitivity),
            "Q_MAX": profile.q_max,
        }
        arrays.append("".join(f"#define EDGEJPEG_PROFILE_{name} {value!r}\n" for name, value in raw.items()))
        names = ", ".join(f"EDGEJPEG_PROFILE_{name}" for name in raw)
        call = f"set_design(*encoder, edgejpeg_profile_sensitivity,\n                                       {names})"
        calls = [call, *_dead_zone(profile.dead_zone, "", arrays)]
    elif profile.luma is not None:
        luma, chroma_name = _tables(profile.luma, profile.chroma, "", arrays)
        calls = [f"set_tables(*encoder, {luma}, {chroma_name})", *_dead_zone(profile.dead_zone, "", arrays)]
    else:
        calls = [_ladder(profile, arrays)]
    steps = [f"  status = edgejpeg_encoder_{calls[0]};"]
    steps += [f"  if (status == EDGEJPEG_OK) status = edgejpeg_encoder_{call};" for call in calls[1:]]
    return _TEMPLATE.format(
        version=__version__,
        name=_string(profile.name),
        identity=profile.profile_id,
        subsampling=profile.subsampling.upper(),
        effort=profile.effort,
        arrays="\n".join(arrays),
        calls="\n".join(steps),
    )


def _tables(luma: QuantTable, chroma: QuantTable | None, suffix: str, arrays: list[str]) -> tuple[str, str]:
    arrays.append(_array("uint8_t", f"luma{suffix}", luma.array))
    if chroma is None:
        return f"edgejpeg_profile_luma{suffix}", "NULL"
    arrays.append(_array("uint8_t", f"chroma{suffix}", chroma.array))
    return f"edgejpeg_profile_luma{suffix}", f"edgejpeg_profile_chroma{suffix}"


def _thresholds(zone: DeadZone | None, suffix: str, arrays: list[str]) -> tuple[str, str]:
    names = []
    for part in ("luma", "chroma"):
        values = None if zone is None else getattr(zone, part)
        if values is not None:
            arrays.append(_array("double", f"{part}_dead_zone{suffix}", values))
        names.append("NULL" if values is None else f"edgejpeg_profile_{part}_dead_zone{suffix}")
    return names[0], names[1]


def _dead_zone(zone: DeadZone | None, suffix: str, arrays: list[str]) -> list[str]:
    return [] if zone is None else [f"set_dead_zone(*encoder, {', '.join(_thresholds(zone, suffix, arrays))})"]


def _ladder(profile: Profile, arrays: list[str]) -> str:
    rows = []
    for index, level in enumerate(profile.levels):
        suffix = f"_{index}"
        names = [*_tables(level.luma, level.chroma, suffix, arrays), *_thresholds(level.dead_zone, suffix, arrays)]
        rows.append(f"    {{{', '.join(names)}, {level.rate!r}}},")
    body = "\n".join(rows)
    arrays.append(f"static const edgejpeg_level edgejpeg_profile_levels[{len(rows)}] = {{\n{body}\n}};\n")
    return f"set_ladder(*encoder, edgejpeg_profile_levels, {len(rows)}, {profile.level})"


def _array(kind: str, name: str, values: ArrayLike) -> str:
    flat: Iterable[object] = np.asarray(values).ravel().tolist()
    numbers = [repr(value) for value in flat]
    body = textwrap.fill(", ".join(numbers), 112, initial_indent="    ", subsequent_indent="    ")
    return f"static const {kind} edgejpeg_profile_{name}[{len(numbers)}] = {{\n{body}}};\n"


def _string(text: str) -> str:
    """A C string literal: what is not plain ASCII, and what could end the literal or a trigraph begin, in octal."""
    plain = "".join(
        chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}" for byte in text.encode()
    )
    return f'"{plain}"'
