"""The demo's server child and its client: it answers, it ends with its parent, it says why it did not start."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from edgejpeg.demo.client import LogitsClient
from edgejpeg.demo.serving import ServerProcess
from edgejpeg.errors import ServerError, TransportError

for needed in ("onnx", "onnxruntime", "uvicorn", "starlette", "httpx", "PIL"):
    pytest.importorskip(needed)


def _mean_colour_model(path: Path) -> Path:
    """(N, 3, 8, 8) float32 in 0..1 -> its mean colour as three logits."""
    import json

    from onnx import TensorProto, helper, save

    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 8, 8])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])
    pool = helper.make_node("GlobalAveragePool", ["image"], ["mean"])
    flat = helper.make_node("Flatten", ["mean"], ["logits"])
    model = helper.make_model(
        helper.make_graph([pool, flat], "mean", [image], [logits]),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    document = {
        "format": 1,
        "input": {"size": [8, 8], "resize": 8, "interpolation": "bicubic", "dtype": "float32", "range": [0, 1]},
        "class_names": ["red", "green", "blue"],
        "weights": "none",
    }
    helper.set_model_props(model, {"edgejpeg": json.dumps(document)})
    save(model, path)
    return path


def _alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not yet collected does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def _gone(pid: int, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not _alive(pid):
            return True
        time.sleep(0.05)
    return False


def test_it_answers_and_ends_with_the_block(tmp_path: Path) -> None:
    with ServerProcess(_mean_colour_model(tmp_path / "mean.onnx")) as server:
        pid = server.pid
        assert pid is not None and _alive(pid)
        with urllib.request.urlopen(f"{server.url}/v2/health/ready", timeout=30) as reply:
            assert reply.status == 200
    assert _gone(pid) and server.pid is None
    server.stop()


def test_an_exception_in_the_block_ends_it(tmp_path: Path) -> None:
    pid = None
    with pytest.raises(KeyboardInterrupt), ServerProcess(_mean_colour_model(tmp_path / "mean.onnx")) as server:
        pid = server.pid
        raise KeyboardInterrupt
    assert pid is not None and _gone(pid)


def test_it_does_not_outlive_a_parent_that_was_killed(tmp_path: Path) -> None:
    model = _mean_colour_model(tmp_path / "mean.onnx")
    code = (
        "import sys, time; from edgejpeg.demo.serving import ServerProcess\n"
        "with ServerProcess(sys.argv[1]) as server:\n"
        "    print(server.pid, flush=True); time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(model)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    try:
        pid = int(parent.stdout.readline())
        assert _alive(pid)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        parent.stdout.close()
    assert _gone(pid)


def test_why_it_did_not_start_is_said(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"this is no ONNX file")
    with pytest.raises(ServerError, match=r"did not start; its last words: .*broken\.onnx"), ServerProcess(broken):
        pytest.fail("the block was entered")


def test_client_gets_the_servers_logits_unrounded(tmp_path: Path) -> None:
    from PIL import Image

    model = _mean_colour_model(tmp_path / "mean.onnx")
    pixels = np.random.default_rng(4).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    with Image.open(buffer) as image:
        expected = np.asarray(image, np.float64).mean(axis=(0, 1)) / 255
    with ServerProcess(model) as server, LogitsClient(server.url, "mean") as client:
        logits = client.classify(buffer.getvalue())
        assert logits.dtype == np.float32 and logits.shape == (3,)
        np.testing.assert_allclose(logits, expected, rtol=1e-6)
        with pytest.raises(ServerError, match="answered 415"):
            client.classify(b"this is no JPEG")
        with LogitsClient(server.url, "another") as stranger, pytest.raises(ServerError, match="answered 404"):
            stranger.classify(buffer.getvalue())
        url = server.url
    with LogitsClient(url, "mean") as late, pytest.raises(TransportError, match="does not answer"):
        late.classify(buffer.getvalue())
