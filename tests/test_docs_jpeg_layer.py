"""The example of docs/jpeg_layer.md learns tables and saves them; what the page points to is there."""

from __future__ import annotations

import re

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import edgejpeg  # noqa: E402
from edgejpeg.jpeg.tables import ijg_tables  # noqa: E402


@pytest.fixture(scope="module")
def page(repository):
    return (repository / "docs" / "jpeg_layer.md").read_text(encoding="utf-8")


def test_the_example_learns_tables(page, photo, tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(code.strip().splitlines()) <= 18  # fifteen and the imports
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 5, stride=2),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(4),
        torch.nn.Flatten(),
        torch.nn.Linear(128, 10),
    ).requires_grad_(False)
    whole = torch.from_numpy(photo(96, 96).transpose(2, 0, 1).astype(np.float32) / 255)
    images = torch.stack([whole[:, y : y + 48, x : x + 48] for y in (0, 48) for x in (0, 48)])
    monkeypatch.chdir(tmp_path)
    exec(
        compile(code, "docs/jpeg_layer.md", "exec"), {"network": network, "images": images, "steps": 12, "weight": 0.1}
    )
    profile = edgejpeg.load_profile("./learned.toml")
    assert profile.subsampling == "420" and profile.luma != ijg_tables(75)[0]
    assert (
        profile.luma.array.mean() > ijg_tables(75)[0].array.mean()
    )  # bytes have a price, and the network cares little
    frame = photo(48, 64)
    default = edgejpeg.encode_jpeg(frame, quality=75)
    assert len(edgejpeg.Encoder(profile, color="rgb").encode(frame)) < len(default)


def test_what_the_page_points_to_is_there(page, repository):
    for target in re.findall(r"\]\(([^)]+)\)", page):
        assert (repository / "docs" / target).resolve().is_file(), target
