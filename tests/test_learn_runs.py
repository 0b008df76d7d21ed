"""The folder of a run: checkpoint, metrics, weights."""

from __future__ import annotations

import hashlib
import json

import pytest

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

from edgejpeg.errors import DataError, InvalidInputError  # noqa: E402
from edgejpeg.learn.runs import RunFolder  # noqa: E402


@pytest.fixture
def folder(tmp_path):
    made = RunFolder(tmp_path / "deep" / "run", {"model": "tiny", "rates": [0.3, None]})
    made.open(resume=False)
    return made


def test_a_checkpoint_comes_back(folder):
    assert folder.load() is None
    folder.save({"step": 3, "weights": {"a": torch.arange(3.0)}, "history": [{"epoch": 1}], "best": None})
    state = folder.load()
    assert (state["step"], state["history"], state["best"]) == (3, [{"epoch": 1}], None)
    assert torch.equal(state["weights"]["a"], torch.arange(3.0))
    assert not list(folder.path.glob(".*"))


def test_a_checkpoint_of_another_run_is_refused(folder):
    folder.save({"step": 3})
    other = RunFolder(folder.path, {"model": "other", "rates": [0.3, None], "seed": 1})
    with pytest.raises(InvalidInputError, match=r"model was 'tiny', is 'other'; seed was None, is 1"):
        other.open(resume=True)
    with pytest.raises(InvalidInputError, match=r"has a run in it already \(checkpoint.pt\); --resume"):
        folder.open(resume=False)


@pytest.mark.parametrize("content", [b"", b"broken", b"PK\x03\x04" + bytes(50)])
def test_a_damaged_checkpoint(folder, content):
    (folder.path / "checkpoint.pt").write_bytes(content)
    with pytest.raises(DataError, match="delete it to start anew"):
        folder.load()


def test_a_checkpoint_that_would_run_code_is_refused(folder):
    class Evil:
        def __reduce__(self):
            return print, ("executed",)

    torch.save({"configuration": "{}", "state": Evil()}, folder.path / "checkpoint.pt")
    with pytest.raises(DataError, match="cannot read the checkpoint"):
        folder.load()


def test_metrics_after_the_checkpoint_are_dropped(folder):
    folder.keep_steps(5)  # nothing there yet
    for step in range(1, 6):
        folder.log({"step": step, "loss": 1 / step})
    path = folder.path / "metrics.jsonl"
    with path.open("a") as stream:
        stream.write('{"step": 6, "lo')  # the process was killed here
    folder.keep_steps(3)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]


def test_weights_load_and_their_digest_is_the_file_s(folder):
    state = {"w": torch.randn(3, 4).t(), "count": torch.tensor(7)}
    digest = folder.write_weights(state)
    path = folder.path / "weights.safetensors"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
    loaded = safetensors_torch.load_file(path)
    assert torch.equal(loaded["w"], state["w"]) and loaded["count"] == 7


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="give another"):
        RunFolder(tmp_path / "file" / "run", {}).open(resume=False)
    missing = RunFolder(tmp_path / "missing", {})
    for write in (lambda: missing.save({}), lambda: missing.log({}), lambda: missing.write_report({})):
        with pytest.raises(DataError, match="give another"):
            write()
