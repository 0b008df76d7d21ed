"""What the README shows is what comes out."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

from edgejpeg import cli
from edgejpeg.profile import VERSION


@pytest.fixture(scope="module")
def readme(repository: Path) -> str:
    return (repository / "README.md").read_text(encoding="utf-8")


def test_the_python_lines_give_the_output_shown(readme):
    pytest.importorskip("skimage", reason="scikit-image, whose photo the README encodes, is not installed")
    (block,) = re.findall(r"```python\n(>>> .*?)```", readme, re.DOTALL)
    test = doctest.DocTestParser().get_doctest(block, {}, "README.md", "README.md", 0)
    assert len(test.examples) == 8
    runner = doctest.DocTestRunner()
    assert runner.run(test).failed == 0


def test_every_verb_is_named_and_every_named_verb_exists(readme):
    named = set(re.findall(r"(?:`|^\$ )edgejpeg ([a-z]+(?:-[a-z]+)*)", readme, re.MULTILINE))
    assert set(cli.VERBS) <= named
    assert named <= set(cli.VERBS)


def test_shown_command_lines_parse(readme):
    parser = cli.build_parser()
    lines = re.findall(r"^\$ edgejpeg (.*?)(?:\s+#.*)?$", readme, re.MULTILINE)
    assert len(lines) >= 5
    for line in lines:
        assert parser.parse_args(line.split()).verb in cli.VERBS


def test_profile_format_is_ten_bullets_of_this_version(readme):
    section = readme.partition("## Profiles")[2].partition("\n## ")[0]
    assert re.findall(r"^(\d+)\. ", section, re.MULTILINE) == [str(n) for n in range(1, 11)]
    assert f"version = {VERSION}" in section


def test_what_the_readme_points_to_is_there(readme, repository):
    for target in re.findall(r"\]\(([^)]+)\)", readme):
        assert (repository / target).is_file(), target
    for target in ("make demo", "make test", "make install", "make lint"):
        assert target in readme.replace("\n", " ")
        assert re.search(rf"^{target.split()[1]}:", (repository / "Makefile").read_text(), re.MULTILINE)
