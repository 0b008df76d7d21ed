"""A network whose answers are known by formula, JPEG files for it, and the server on a loopback port."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgejpeg.runtime.server.model import load_model
from edgejpeg.runtime.server.serve import open_listener
from edgejpeg.runtime.server.service import InferenceService, Limits

for needed in ("onnxruntime", "uvicorn", "starlette"):
    pytest.importorskip(needed)
httpx = pytest.importorskip("httpx")
onnx = pytest.importorskip("onnx")
Image = pytest.importorskip("PIL.Image")

SIZE = 32
NAMES = ["red", "green", "blue: the third"]
TOKEN = "a-token-of-enough-characters"
BARE = {"Inference-Header-Content-Length": "0"}


def mean_model(
    path: Path,
    *,
    size: int | None = SIZE,
    batch: int | str = "N",
    dtype: int = 1,
    metadata: dict | str | None = "default",
    second_input: str | None = None,
) -> Path:
    """An ONNX graph whose logits are the mean of each channel of its input."""
    shape = [batch, 3, size or "H", size or "W"]
    inputs = [onnx.helper.make_tensor_value_info("image", dtype, shape)]
    if second_input:
        inputs.append(onnx.helper.make_tensor_value_info(second_input, onnx.TensorProto.FLOAT, [1, 2, 64]))
    nodes = [
        onnx.helper.make_node("Cast", ["image"], ["float"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("GlobalAveragePool", ["float"], ["pooled"]),
        onnx.helper.make_node("Flatten", ["pooled"], ["logits"]),
    ]
    output = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [batch, 3])
    model = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "mean", inputs, [output]),
        opset_imports=[onnx.helper.make_opsetid("", 18)],
        ir_version=9,
    )
    uint8 = dtype == onnx.TensorProto.UINT8
    if metadata == "default":
        metadata = {
            "format": 1,
            "model": "mean",
            "weights": "none: means of the channels",
            "class_names": NAMES,
            "input": {
                "size": [size or SIZE, size or SIZE],
                "resize": 36,
                "interpolation": "bilinear",
                "dtype": "uint8" if uint8 else "float32",
                "range": [0, 255] if uint8 else [0, 1],
            },
        }
    if metadata is not None:
        text = metadata if isinstance(metadata, str) else json.dumps(metadata)
        onnx.helper.set_model_props(model, {"edgejpeg": text})
    onnx.save(model, path)
    return path


def jpeg_of(image: object, **options: object) -> bytes:
    """A PIL image or an RGB array as JPEG."""
    stream = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(stream, "JPEG", **options)
    return stream.getvalue()


def flat(colour: tuple[int, int, int], size: tuple[int, int] = (SIZE, SIZE), **options: object) -> bytes:
    return jpeg_of(Image.new("RGB", size, colour), quality=100, subsampling=0, **options)


def pixels_of(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))


def topk_of(logits: np.ndarray) -> list[str]:
    """Softmax and order written out again, in float64."""
    power = [float(np.exp(np.float64(value))) for value in logits]
    shares = [value / sum(power) for value in power]
    return [f"{shares[i]:.6f}:{i}:{NAMES[i]}" for i in sorted(range(3), key=lambda i: -shares[i])]


@contextlib.contextmanager
def serving(service: InferenceService, token: str | None = None) -> Iterator[str]:
    """The application under uvicorn in a thread on a free loopback port."""
    import uvicorn

    from edgejpeg.runtime.server.app import create_app

    listener = open_listener("127.0.0.1", 0)
    config = uvicorn.Config(create_app(service, token=token), log_level="error", lifespan="off", http="h11", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mean_model(tmp_path_factory.mktemp("model") / "mean.onnx")


@pytest.fixture(scope="module")
def server(model_file: Path) -> Iterator[SimpleNamespace]:
    limits = Limits(max_pixels=1_000_000, max_images=4, body_timeout=1.0)
    with (
        InferenceService(load_model(model_file), limits=limits, topk=2, threads=2) as service,
        serving(service) as url,
        httpx.Client(base_url=url, timeout=20) as client,
    ):
        yield SimpleNamespace(url=url, client=client, service=service, infer="/v2/models/mean/infer")


def raw(url: str, data: bytes, timeout: float = 10) -> bytes:
    """Send bytes over a socket, return everything that comes back."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=timeout) as connection:
        connection.sendall(data)
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
            if b"\r\n\r\n" in b"".join(parts) and b'"error"' in b"".join(parts):
                break
    return b"".join(parts)
