"""Fuzzes the profile loader: ProfileError is all that may leave it, and a profile that is read can be written."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import harness

DICTIONARY = (
    *(b"nan", b"inf", b"-inf", b"-1", b"-0.0", b"0", b"1", b"255", b"256", b"1.0", b"5e-324", b"1e308", b"1e999"),
    *(b"true", b"1979-05-27", b"07:32:00", b"1979-05-27T07:32:00Z", b'""', b"''", b"[]", b"[[]]", b"{}", b"{y = 1}"),
    *(
        b"9" * 100,
        b"0x" + b"f" * 100,
        b"[[[[",
        b"{a={a=",
        b"\n[adaptive]\n",
        b"\n[fixed]\n",
        b"\n[provenance]\n",
        b'"""',
    ),
    *(b"format", b"version", b"name", b"kind", b"subsampling", b"effort", b"adaptive", b"fixed", b"provenance"),
    *(b"water_level = ", b"chroma_water_level = ", b"q_max = ", b"y = ", b"cb = ", b"cr = ", b"luma = ", b"chroma = "),
    *(b'"444"', b'"422"', b'"420"', b'"gray"', b'"adaptive"', b'"fixed"', b"\x00", b"\xff", b"\xed\xa0\x80", b"\r\n"),
)


def target() -> harness.OneInput:
    from edgejpeg.errors import ProfileError
    from edgejpeg.profile import load_profile

    folder = tempfile.TemporaryDirectory(prefix="fuzz-profile-")
    path = Path(folder.name) / "input.toml"
    copy = Path(folder.name) / "copy.toml"

    def one_input(data: bytes, keep: object = folder) -> None:
        path.write_bytes(data)
        try:
            profile = load_profile(path)
        except ProfileError as error:
            assert str(error)
            return
        profile.save(copy)
        again = load_profile(copy)
        assert again.profile_id == profile.profile_id
        assert again.to_document() == profile.to_document() or "nan" in profile.to_toml()

    return one_input


if __name__ == "__main__":
    sys.exit(harness.main(target, "profile", DICTIONARY))
