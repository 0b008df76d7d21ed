"""``edgejpeg info`` on a ladder: every level with its rate, tables and thresholds."""

from __future__ import annotations

import argparse
import json

import numpy as np

from edgejpeg.cli import info
from edgejpeg.jpeg.tables import ijg_tables
from edgejpeg.profile import DeadZone, Level, Profile


def _describe(path, capsys, *, as_json: bool) -> str:
    assert info.run(argparse.Namespace(file=str(path), json=as_json, c_header=None)) == 0
    return capsys.readouterr().out


def test_a_ladder_is_shown_level_by_level(tmp_path, capsys):
    thresholds = np.full((8, 8), 0.625)
    thresholds[0, 0] = 0.5
    levels = [Level(0.5, *ijg_tables(20)), Level(1.25, *ijg_tables(60), DeadZone(thresholds, thresholds))]
    Profile.ladder(name="steps", levels=levels).save(tmp_path / "p.toml")
    document = json.loads(_describe(tmp_path / "p.toml", capsys, as_json=True))
    assert (document["kind"], document["level"], len(document["levels"])) == ("ladder", 1, 2)
    assert document["levels"][0]["luma"] == ijg_tables(20)[0].array.tolist()
    assert document["levels"][1]["dead_zone"]["chroma"] == thresholds.tolist()
    text = _describe(tmp_path / "p.toml", capsys, as_json=False)
    assert "levels[1]:\n  rate: 1.25\n  luma:\n" in text
    assert "  dead zone:\n    luma:\n" in text
    assert " 6.25e-01" in text
