"""The inference server: tritonclient and raw HTTP against it, hostile bodies, limits, preprocessing, messages."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgejpeg.errors import InvalidInputError, ModelError, ServerError
from edgejpeg.runtime.engines import OnnxRuntimeEngine
from edgejpeg.runtime.server.decode import MAX_SCANS, InputSpec, decode_jpeg, fit_image, images_to_batch
from edgejpeg.runtime.server.model import ForeignInput, ServedModel, load_model, read_labels
from edgejpeg.runtime.server.protocol import (
    LOGITS,
    TOPK,
    OutputRequest,
    OutputTensor,
    RequestError,
    build_infer_request,
    build_infer_response,
    classification_rows,
    inflate_body,
    parse_infer_request,
    parse_topk_response,
    unpack_bytes,
)
from edgejpeg.runtime.server.serve import open_listener, read_token
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


@pytest.fixture
def triton(server: SimpleNamespace) -> Iterator[object]:
    http = pytest.importorskip("tritonclient.http")
    client = http.InferenceServerClient(server.url.removeprefix("http://"))
    yield client
    client.close()


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


# tritonclient


def triton_input(*images: bytes) -> object:
    http = pytest.importorskip("tritonclient.http")
    tensor = http.InferInput("IMAGE", [len(images), 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[image] for image in images], dtype=object))
    return tensor


def test_triton_health_and_metadata(triton, server):
    assert triton.is_server_live() and triton.is_server_ready()
    assert triton.is_model_ready("mean") and triton.is_model_ready("mean", "1")
    assert not triton.is_model_ready("other") and not triton.is_model_ready("mean", "2")
    assert "binary_tensor_data" in triton.get_server_metadata()["extensions"]
    metadata = triton.get_model_metadata("mean")
    assert metadata["inputs"] == [{"name": "IMAGE", "datatype": "BYTES", "shape": [-1, 1]}]
    assert {o["name"]: (o["datatype"], o["shape"]) for o in metadata["outputs"]} == {
        "LOGITS": ("FP32", [-1, 3]),
        "TOPK": ("BYTES", [-1, 2]),
    }
    assert triton.get_model_config("mean")["input"][0]["data_type"] == "TYPE_STRING"
    assert triton.get_model_repository_index() == [{"name": "mean", "version": "1", "state": "READY", "reason": ""}]


def test_triton_infer_all_outputs_in_binary(triton):
    first, second = flat((250, 20, 30)), flat((10, 20, 200))
    result = triton.infer("mean", [triton_input(first, second)], request_id="device/0/1-42")
    expected = np.stack([pixels_of(x).reshape(-1, 3).mean(0) / 255 for x in (first, second)])
    np.testing.assert_allclose(result.as_numpy("LOGITS"), expected, atol=1e-5)
    assert result.get_response()["id"] == "device/0/1-42"
    top = result.as_numpy("TOPK")
    assert top.shape == (2, 2)
    assert [x.decode() for x in top[0]] == topk_of(result.as_numpy("LOGITS")[0])[:2]
    assert top[1][0].endswith(b":2:blue: the third")


def test_triton_infer_plain_outputs_and_classification(triton):
    http = pytest.importorskip("tritonclient.http")
    outputs = [http.InferRequestedOutput("LOGITS", binary_data=False), http.InferRequestedOutput("TOPK")]
    result = triton.infer("mean", [triton_input(flat((0, 255, 0)))], outputs=outputs)
    logits, top = (entry for entry in result.get_response()["outputs"])
    assert "parameters" not in logits and len(logits["data"]) == 3
    assert top["parameters"]["binary_data_size"] == sum(4 + len(x) for x in result.as_numpy("TOPK").ravel())
    classified = triton.infer(
        "mean",
        [triton_input(flat((0, 255, 0)))],
        outputs=[http.InferRequestedOutput("LOGITS", class_count=1)],
    ).as_numpy("LOGITS")
    assert classified.shape == (1, 1) and classified[0, 0].endswith(b":1:green")
    assert float(classified[0, 0].split(b":")[0]) == pytest.approx(1.0, abs=0.02)  # the logit, not a probability


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_triton_compressed_request(triton, algorithm):
    result = triton.infer(
        "mean", [triton_input(flat((255, 0, 0)))], request_compression_algorithm=algorithm, parameters={"d": 0.5}
    )
    assert result.as_numpy("LOGITS").argmax() == 0


def test_triton_statistics_count(triton):
    before = triton.get_inference_statistics("mean")["model_stats"][0]
    triton.infer("mean", [triton_input(flat((1, 2, 3)), flat((1, 2, 3)))])
    with pytest.raises(Exception, match="damaged"):
        triton.infer("mean", [triton_input(flat((1, 2, 3))[:100])])
    after = triton.get_inference_statistics("mean")["model_stats"][0]
    assert after["inference_count"] - before["inference_count"] == 2
    assert after["execution_count"] - before["execution_count"] == 1
    for name, count in (("success", 1), ("fail", 1), ("compute_infer", 1)):
        assert after["inference_stats"][name]["count"] - before["inference_stats"][name]["count"] == count
        assert after["inference_stats"][name]["ns"] > before["inference_stats"][name]["ns"]


# raw HTTP


def test_bare_jpeg_as_curl_sends_it(server):
    jpeg = flat((250, 20, 30))
    reply = server.client.post(
        server.infer, content=jpeg, headers={"Content-Type": "application/x-www-form-urlencoded"}
    )
    assert reply.status_code == 200 and reply.headers["content-type"] == "application/json"
    assert "inference-header-content-length" not in reply.headers
    answer = reply.json()
    assert [o["name"] for o in answer["outputs"]] == ["TOPK"]
    assert answer["outputs"][0]["data"] == topk_of(pixels_of(jpeg).reshape(-1, 3).mean(0) / 255)[:2]
    both = server.client.post(server.infer + "?outputs=TOPK,LOGITS", content=jpeg).json()
    assert [o["name"] for o in both["outputs"]] == ["TOPK", "LOGITS"] and len(both["outputs"][1]["data"]) == 3
    assert server.client.post(server.infer + "?outputs=NOPE", content=jpeg).status_code == 400


def test_bare_jpeg_with_header_zero_answers_binary(server):
    reply = server.client.post(server.infer, content=flat((250, 20, 30)), headers=BARE)
    head = int(reply.headers["inference-header-content-length"])
    message = json.loads(reply.content[:head])
    sizes = [output["parameters"]["binary_data_size"] for output in message["outputs"]]
    assert len(reply.content) == head + sum(sizes) and message["outputs"][0]["name"] == "LOGITS"
    assert np.frombuffer(reply.content[head : head + 12], "<f4")[0] == pytest.approx(250 / 255, abs=0.01)


def test_versioned_address_and_unknown_names(server):
    jpeg = flat((1, 2, 3))
    assert server.client.post("/v2/models/mean/versions/1/infer", content=jpeg).status_code == 200
    for address in ("/v2/models/mean/versions/2/infer", "/v2/models/other/infer", "/v3", "/"):
        reply = server.client.post(address, content=jpeg)
        assert reply.status_code == 404 and reply.json()["error"]
    assert server.client.get(server.infer).status_code == 405
    assert "error" in server.client.get(server.infer).json()


def test_sha256_parameter_is_checked(server):
    jpeg = flat((9, 9, 200))
    for digest, status in ((hashlib.sha256(jpeg).hexdigest(), 200), ("0" * 64, 400)):
        body, headers = build_infer_request([jpeg], request_id="a", parameters={"sha256": digest})
        reply = server.client.post(server.infer, content=body, headers=headers)
        assert reply.status_code == status
    assert "sha256" in reply.json()["error"]


def jpeg_with_size(width: int, height: int) -> bytes:
    data = bytearray(flat((5, 6, 7)))
    start = data.find(b"\xff\xc0")
    data[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def many_scans(scans: int) -> bytes:
    """A progressive file with its last scan repeated."""
    data = jpeg_of(np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8), progressive=True)
    last = data.rfind(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + data[-2:]


def hostile() -> list[tuple[str, bytes, dict[str, str], int]]:
    good = flat((5, 6, 7))
    png = io.BytesIO()
    Image.new("RGB", (10, 10)).save(png, "PNG")
    body, headers = build_infer_request([good])
    length = int(headers["Inference-Header-Content-Length"])
    message = json.loads(body[:length])

    def changed(tail: bytes = body[length:], **changes: object) -> tuple[bytes, dict[str, str]]:
        head = json.dumps({**message, **changes}).encode()
        return head + tail, {"Inference-Header-Content-Length": str(len(head))}

    def tensor(**changes: object) -> list[dict]:
        return [{**message["inputs"][0], **changes}]

    size = len(body) - length
    return [
        ("empty", b"", {}, 400),
        ("empty with header", b"", BARE, 400),
        ("garbage", bytes(range(256)) * 4, {}, 400),
        ("garbage as bare image", bytes(range(256)) * 4, BARE, 415),
        ("png", png.getvalue(), BARE, 415),
        ("png without header", png.getvalue(), {}, 400),
        ("jpeg cut in the scan", good[:-40], BARE, 400),
        ("jpeg cut in the header", good[:60], BARE, 400),
        ("only the magic", b"\xff\xd8", {}, 400),
        ("bomb", jpeg_of(Image.new("L", (5000, 5000)), quality=10), BARE, 413),
        ("lie about the size", jpeg_with_size(65500, 65500), BARE, 413),
        ("zero size", jpeg_with_size(0, 8), BARE, 400),
        ("cmyk", jpeg_of(Image.new("CMYK", (64, 64))), BARE, 422),
        ("scans", many_scans(MAX_SCANS + 1), BARE, 422),
        ("thread", jpeg_of(Image.new("RGB", (1, 60000))), BARE, 422),
        ("9 MiB", b"\xff\xd8" + bytes(9 << 20), BARE, 413),
        ("header beyond the body", body, {"Inference-Header-Content-Length": str(len(body) + 1)}, 400),
        ("header negative", body, {"Inference-Header-Content-Length": "-1"}, 400),
        ("header no number", body, {"Inference-Header-Content-Length": "12a"}, 400),
        ("header huge", body, {"Inference-Header-Content-Length": "9" * 400}, 400),
        ("header short", body, {"Inference-Header-Content-Length": str(length - 1)}, 400),
        ("element too long", *changed(tail=struct.pack("<I", size) + good), 400),
        ("element of 4 GiB", *changed(tail=struct.pack("<I", 2**32 - 1) + good), 400),
        ("length field cut", *changed(tail=body[length:-3] + b"\0\0\0"), 400),
        ("size too small", *changed(inputs=tensor(parameters={"binary_data_size": size - 1})), 400),
        ("size too large", *changed(inputs=tensor(parameters={"binary_data_size": size + 1})), 400),
        ("size negative", *changed(inputs=tensor(parameters={"binary_data_size": -4})), 400),
        ("size true", *changed(inputs=tensor(parameters={"binary_data_size": True})), 400),
        ("size text", *changed(inputs=tensor(parameters={"binary_data_size": "9"})), 400),
        ("shape of two", *changed(inputs=tensor(shape=[2, 1])), 400),
        ("shape empty", *changed(inputs=tensor(shape=[])), 400),
        ("shape of none", *changed(inputs=tensor(shape=[0, 1])), 400),
        ("shape float", *changed(inputs=tensor(shape=[1.0, 1])), 400),
        ("shape wide", *changed(inputs=tensor(shape=[1, 2])), 400),
        ("name", *changed(inputs=tensor(name="INPUT")), 400),
        ("datatype", *changed(inputs=tensor(datatype="UINT8")), 400),
        ("parameters a list", *changed(inputs=tensor(parameters=[])), 400),
        ("two inputs", *changed(inputs=tensor() * 2), 400),
        ("no inputs", *changed(inputs=[]), 400),
        ("inputs an object", *changed(inputs={"name": "IMAGE"}), 400),
        ("unknown output", *changed(outputs=[{"name": "NOPE"}]), 400),
        ("output twice", *changed(outputs=[{"name": "TOPK"}, {"name": "TOPK"}]), 400),
        ("output no name", *changed(outputs=[{}]), 400),
        ("output name a list", *changed(outputs=[{"name": ["TOPK"]}]), 400),
        ("output a string", *changed(outputs=["TOPK"]), 400),
        ("binary_data text", *changed(outputs=[{"name": "TOPK", "parameters": {"binary_data": "yes"}}]), 400),
        ("classification -1", *changed(outputs=[{"name": "LOGITS", "parameters": {"classification": -1}}]), 400),
        ("id a number", *changed(id=5), 400),
        ("id too long", *changed(id="x" * 2000), 400),
        ("json data", json.dumps({"inputs": tensor(data=["/9j/4AAQ"])}).encode(), {}, 400),
        ("json without binary", json.dumps({"inputs": tensor(parameters={})}).encode(), {}, 400),
        ("json a list", b"[1, 2]", {}, 400),
        ("json NaN", b'{"id": NaN}', {}, 400),
        ("json nesting", b"[" * 200_000 + b"]" * 200_000, {}, 400),
        ("json huge number", b'{"id": ' + b"9" * 100_000 + b"}", {}, 400),
        ("json too long", b'{"a": "' + b"x" * (1 << 20) + b'"}', {}, 413),
        ("json not utf-8", b'{"id": "\xff"}', {}, 400),
        ("encoding unknown", good, {"Content-Encoding": "br"}, 415),
        ("gzip of nothing", good, {"Content-Encoding": "gzip"}, 400),
        ("gzip cut", gzip.compress(good)[:-9], {"Content-Encoding": "gzip"}, 400),
        ("gzip and more", gzip.compress(good) + b"x", {"Content-Encoding": "gzip"}, 400),
        ("gzip bomb", gzip.compress(bytes(64 << 20)), {"Content-Encoding": "gzip"}, 413),
        ("deflate bomb", zlib.compress(bytes(64 << 20)), {"Content-Encoding": "deflate"}, 413),
        ("too many images", *build_infer_request([good] * 5), 413),
        ("pixels in sum", *build_infer_request([jpeg_of(Image.new("L", (600, 600)))] * 3), 413),
        ("one bad of two", *build_infer_request([good, good[:-40]]), 400),
        ("an empty element", *build_infer_request([b""]), 415),
    ]


CASES = hostile()


@pytest.mark.parametrize(("body", "headers", "status"), [x[1:] for x in CASES], ids=[x[0] for x in CASES])
def test_hostile_bodies_meet_an_error(server, body, headers, status):
    reply = server.client.post(server.infer, content=body, headers=headers)
    message = reply.json()["error"]
    assert reply.status_code == status, message
    assert message and "\n" not in message and len(message) < 600 and "BytesIO" not in message
    assert server.client.post(server.infer, content=flat((1, 2, 3))).status_code == 200


def test_declared_length_is_refused_before_the_body(server):
    head = f"POST {server.infer} HTTP/1.1\r\nHost: x\r\nContent-Length: {300 << 20}\r\n\r\n"
    assert b" 413 " in raw(server.url, head.encode())


def test_chunked_body_is_cut_at_the_limit(server):
    chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    head = f"POST {server.infer} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    assert b" 413 " in raw(server.url, head + chunk * 129)


def test_slow_body_is_given_up(server):
    head = f"POST {server.infer} HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n"
    reply = raw(server.url, head.encode() + b"\xff\xd8")
    assert b" 408 " in reply and b"did not arrive" in reply


def test_surrogates_in_the_id_come_back(server):
    body, headers = build_infer_request([flat((1, 2, 3))], request_id="\ud800 é")
    assert server.client.post(server.infer, content=body, headers=headers).json()["id"] == "\ud800 é"


def test_kinds_of_jpeg_that_are_served(server):
    colour = Image.new("RGB", (SIZE, SIZE), (200, 30, 40))
    turned = Image.Exif()
    turned[0x112] = 6
    stripe = np.zeros((SIZE, SIZE, 3), np.uint8)
    stripe[: SIZE // 2] = (255, 0, 0)
    cases = {
        "progressive": jpeg_of(colour, progressive=True),
        "4:2:0": jpeg_of(colour, subsampling=2),
        "gray": jpeg_of(colour.convert("L")),
        "trailing bytes": jpeg_of(colour) + bytes(1000),
        "restarts": jpeg_of(colour, restart_marker_blocks=1),
        "exif": jpeg_of(stripe, exif=turned),
        "1 x 1": jpeg_of(Image.new("RGB", (1, 1), (200, 30, 40))),
    }
    for name, jpeg in cases.items():
        reply = server.client.post(server.infer + "?outputs=LOGITS", content=jpeg)
        got = reply.json()["outputs"][0]["data"]
        np.testing.assert_allclose(got, pixels_of(jpeg).reshape(-1, 3).mean(0) / 255, atol=1e-5, err_msg=name)


def test_token_guards_all_but_health(model_file):
    with InferenceService(load_model(model_file), threads=1) as service, serving(service, TOKEN) as url:
        jpeg = flat((1, 2, 3))
        assert httpx.get(url + "/v2/health/live").status_code == httpx.get(url + "/v2/health/ready").status_code == 200
        for method, path in (
            ("GET", "/v2"),
            ("GET", "/v2/models/mean"),
            ("GET", "/v2/models/mean/stats"),
            ("GET", "/v2/models/mean/config"),
            ("POST", "/v2/repository/index"),
            ("POST", "/v2/models/mean/infer"),
        ):
            for value, right in ((None, False), ("", False), (TOKEN, False), (f"Bearer {TOKEN}x", False),
                                 (f"Bearer {TOKEN[:-1]}", False), (f"Bearer {TOKEN}", True)):  # fmt: skip
                headers = {} if value is None else {"Authorization": value}
                reply = httpx.request(method, url + path, content=jpeg if method == "POST" else None, headers=headers)
                assert (reply.status_code == 200) == right, (path, value)
                if not right:
                    assert reply.status_code == 401 and reply.headers["www-authenticate"] == "Bearer"
        head = "POST /v2/models/mean/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\nAuthorization: \xff\r\n\r\n"
        assert b" 401 " in raw(url, head.encode("latin-1"))  # at once: no byte of the body was sent


def test_full_queue_answers_503(model_file, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()
    predict = ServedModel.predict

    def slow(self, batch):
        begun.set()
        assert go_on.wait(20)
        return predict(self, batch)

    monkeypatch.setattr(ServedModel, "predict", slow)
    jpeg = flat((1, 2, 3))
    with (
        InferenceService(load_model(model_file), threads=1, limits=Limits(queue=1)) as service,
        serving(service) as url,
    ):
        target = url + "/v2/models/mean/infer"
        codes: list[int] = []
        workers = [
            threading.Thread(target=lambda: codes.append(httpx.post(target, content=jpeg, timeout=30).status_code))
            for _ in range(2)
        ]
        for worker in workers:
            worker.start()
        assert begun.wait(20)
        end = time.monotonic() + 20
        while service._admitted < 2 and time.monotonic() < end:  # the second waits behind the first
            time.sleep(0.01)
        reply = httpx.post(target, content=jpeg, timeout=20)
        assert reply.status_code == 503
        assert reply.headers["retry-after"] == "1" and "busy" in reply.json()["error"]
        assert httpx.get(url + "/v2/health/live").status_code == 200
        go_on.set()
        for worker in workers:
            worker.join(20)
        assert codes == [200, 200]
        assert httpx.post(target, content=jpeg, timeout=20).status_code == 200


def test_network_failure_is_500_and_no_traceback(model_file, monkeypatch):
    monkeypatch.setattr(OnnxRuntimeEngine, "run", lambda *_: [np.full((1, 3), np.nan, np.float32)])
    with InferenceService(load_model(model_file), threads=1) as service, serving(service) as url:
        reply = httpx.post(url + "/v2/models/mean/infer", content=flat((1, 2, 3)))
        assert reply.status_code == 500 and reply.json() == {"error": "internal error; the server's log says more"}


# decoding and preprocessing


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (224, 224), (225, 224), (50, 70), (301, 999), (256, 256)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_fit_equals_torchvision(photo, size, interpolation):
    pytest.importorskip("torch")
    from edgejpeg.models.torchvision_compat import import_torchvision

    transforms = import_torchvision().transforms
    spec = InputSpec(224, 224, resize=256, interpolation=interpolation)
    image = Image.fromarray(photo(*size))
    mode = transforms.InterpolationMode(interpolation)
    expected = transforms.Compose([transforms.Resize(256, mode), transforms.CenterCrop(224)])(image)
    if size == (224, 224):
        expected = image
    np.testing.assert_array_equal(fit_image(image, spec), np.asarray(expected))


def test_tensor_is_the_stated_arithmetic(rng):
    pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    exact = pixels.transpose(2, 0, 1).astype(np.float64)
    plain = InputSpec(8, 8, resize=8)
    np.testing.assert_array_equal(plain.tensor(pixels), np.float32(exact / 255))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    normalised = InputSpec(8, 8, resize=8, value_range=(-1, 1), mean=mean, std=std).tensor(pixels)
    expected = (exact / 255 * 2 - 1 - np.array(mean)[:, None, None]) / np.array(std)[:, None, None]
    assert normalised.dtype == np.float32
    np.testing.assert_allclose(normalised, expected, rtol=1e-6, atol=1e-6)
    raw_range = InputSpec(8, 8, resize=8, value_range=(0, 255))
    np.testing.assert_array_equal(raw_range.tensor(pixels), exact)
    bytes_spec = InputSpec(8, 8, resize=8, value_range=(0, 255), dtype="uint8")
    assert bytes_spec.tensor(pixels).dtype == np.uint8
    np.testing.assert_array_equal(bytes_spec.tensor(pixels), exact)


@pytest.mark.parametrize(
    "options",
    [
        {"height": 0},
        {"width": 5000},
        {"resize": 7},
        {"interpolation": "nearest"},
        {"dtype": "int8"},
        {"value_range": (1.0, 0.0)},
        {"std": (1.0, 0.0, 1.0)},
        {"mean": (float("nan"), 0.0, 0.0)},
        {"dtype": "uint8"},
    ],
)
def test_input_spec_refuses(options):
    with pytest.raises(InvalidInputError):
        InputSpec(**{"height": 8, "width": 8, "resize": 8, **options})


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_jpegs_raise_nothing_else(data):
    noise = np.random.default_rng(1).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    good = bytearray(jpeg_of(noise, quality=60, progressive=data.draw(st.booleans())))
    for _ in range(data.draw(st.integers(1, 6))):
        good[data.draw(st.integers(2, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        batch = images_to_batch((bytes(good),), InputSpec(16, 16, resize=16), max_pixels=100_000)
    except RequestError as error:
        assert error.status in (400, 413, 415, 422)
    else:
        assert batch.shape == (1, 3, 16, 16) and np.isfinite(batch).all()


def test_pixels_are_pillows(photo):
    jpeg = jpeg_of(photo(120, 90), quality=80)
    np.testing.assert_array_equal(np.asarray(decode_jpeg(jpeg)), pixels_of(jpeg))


# protocol


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=5),
    st.none() | st.text(max_size=20),
    st.dictionaries(st.text(max_size=5), st.integers() | st.text() | st.booleans(), max_size=3),
)
def test_requests_survive_the_round_trip(images, request_id, parameters):
    parameters.pop("binary_data_output", None)
    body, headers = build_infer_request(
        images,
        request_id=request_id,
        parameters=parameters,
        outputs=[OutputRequest(LOGITS, True, 3), OutputRequest(TOPK, False)],
    )
    request = parse_infer_request(body, headers["Inference-Header-Content-Length"])
    assert request.images == tuple(images) and request.id == request_id and dict(request.parameters) == parameters
    assert request.outputs == (OutputRequest(LOGITS, True, 3), OutputRequest(TOPK, False))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.none() | st.integers(-2, 220).map(str))
def test_random_bodies_raise_nothing_else(body, header):
    with contextlib.suppress(RequestError):
        parse_infer_request(body, header)
    with contextlib.suppress(RequestError):
        parse_infer_request(b'{"inputs":' + body, header)
    with contextlib.suppress(RequestError):
        parse_topk_response(body)
    for encoding in ("gzip", "deflate"):
        with contextlib.suppress(RequestError):
            inflate_body(body, encoding, 1000)


_KEYS = st.sampled_from(["name", "shape", "datatype", "parameters", "inputs", "outputs", "id", "data"])
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.fixed_dictionaries({"inputs": _json, "outputs": _json, "parameters": _json, "id": _json}))
def test_random_messages_raise_nothing_else(message):
    text = json.dumps(message).encode()
    with contextlib.suppress(RequestError):
        parse_infer_request(text, None)
    with contextlib.suppress(RequestError):
        parse_topk_response(text)


def test_response_layout():
    scores = np.array([[1.5, -2.0], [0.25, 3.0]], np.float32)
    rows = [["a:0:é"], ["b:1:x"]]
    body, headers = build_infer_response(
        "m", "1", [OutputTensor(TOPK, rows, True), OutputTensor(LOGITS, scores, True)], "id"
    )
    head = int(headers["Inference-Header-Content-Length"])
    message = json.loads(body[:head])
    assert (message["id"], message["model_name"], message["model_version"]) == ("id", "m", "1")
    size = message["outputs"][0]["parameters"]["binary_data_size"]
    assert unpack_bytes(body[head : head + size]) == ["a:0:é".encode(), b"b:1:x"]
    assert body[head + size :] == struct.pack("<4f", 1.5, -2.0, 0.25, 3.0)
    plain, headers = build_infer_response("m", "1", [OutputTensor(LOGITS, scores, False)])
    assert headers == {"Content-Type": "application/json"}
    assert json.loads(plain)["outputs"] == [
        {"name": "LOGITS", "datatype": "FP32", "shape": [2, 2], "data": [1.5, -2.0, 0.25, 3.0]}
    ]


def test_classification_order_and_ties():
    rows = classification_rows(np.array([[0.5, 2.0, 0.5, -1.0]]), 3, None)
    assert rows == [["2.000000:1", "0.500000:0", "0.500000:2"]]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"outputs": 3}',
        b'{"outputs": [{"name": "TOPK"}]}',
        b'{"outputs": [{"name": "TOPK", "shape": [1, 2], "data": ["a"]}]}',
        b'{"outputs": [{"name": "TOPK", "shape": [1, 1], "data": [1]}]}',
    ],
)
def test_strange_answers_are_refused(answer):
    with pytest.raises(RequestError):
        parse_topk_response(answer)


# loading


def test_metadata_tells_the_input(tmp_path):
    model = load_model(mean_model(tmp_path / "m.v1.onnx", dtype=onnx.TensorProto.UINT8))
    assert (model.name, model.num_classes, model.class_names) == ("m.v1", 3, tuple(NAMES))
    assert (model.spec.dtype, model.spec.resize, model.spec.value_range) == ("uint8", 36, (0.0, 255.0))
    assert model.engine.providers == ("CPUExecutionProvider",)
    jpeg = flat((250, 20, 30))
    got = model.predict(images_to_batch((jpeg,), model.spec))
    np.testing.assert_allclose(got[0], pixels_of(jpeg).reshape(-1, 3).mean(0), atol=1e-3)


def test_foreign_file_names_the_missing_flags(tmp_path):
    path = mean_model(tmp_path / "foreign.onnx", metadata=None)
    with pytest.raises(ModelError, match=r"--resize, --range, --mean, --std missing"):
        load_model(path)
    with pytest.raises(ModelError, match=r": --size, --range missing"):
        load_model(
            mean_model(tmp_path / "open.onnx", metadata=None, size=None),
            foreign=ForeignInput(resize=40, mean=(0, 0, 0), std=(1, 1, 1)),
        )
    full = ForeignInput(resize=40, value_range=(0, 1), mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1.0))
    model = load_model(path, name="other", labels=["a", "b", "c"], foreign=full)
    jpeg = flat((255, 0, 0))
    got = model.predict(images_to_batch((jpeg,), model.spec))[0]
    pixels = pixels_of(jpeg).reshape(-1, 3).mean(0) / 255
    np.testing.assert_allclose(got, (pixels - 0.5) / [0.25, 0.5, 1.0], atol=1e-5)
    with pytest.raises(ModelError, match="3 classes, but 2 class names"):
        load_model(path, labels=["a", "b"], foreign=full)
    with pytest.raises(ModelError, match="takes images"):
        load_model(path, foreign=ForeignInput((64, 64), 64, (0, 1), (0, 0, 0), (1, 1, 1)))
    with pytest.raises(InvalidInputError, match="resize"):
        load_model(path, foreign=ForeignInput(None, 0, (0, 1), (0, 0, 0), (1, 1, 1)))


def test_probabilities_are_not_softmaxed_again(tmp_path):
    path = mean_model(tmp_path / "m.onnx")
    scores = np.array([[0.2, 0.5, 0.3]], np.float32)
    np.testing.assert_array_equal(load_model(path, scores="probabilities").probabilities(scores), scores)
    np.testing.assert_allclose(load_model(path).probabilities(scores * 1000), [[0, 1, 0]], atol=1e-12)


def test_batch_of_one_graph_serves_several(tmp_path):
    model = load_model(mean_model(tmp_path / "one.onnx", batch=1))
    images = (flat((255, 0, 0)), flat((0, 255, 0)))
    assert model.predict(images_to_batch(images, model.spec)).argmax(1).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"second_input": "tables"}, "second input 'tables'"),
        ({"second_input": "other"}, "inputs image, other"),
        ({"batch": 4}, "shape"),
        ({"dtype": onnx.TensorProto.INT64}, "another type"),
        ({"metadata": "no json"}, "no JSON"),
        ({"metadata": {"format": 2}}, "format 2"),
        ({"metadata": {"format": 1}}, "no key 'input'"),
        ({"metadata": {"format": 1, "input": {"size": [32, 32], "range": [0, 1], "resize": 4}}}, "unusable"),
    ],
)
def test_files_that_cannot_be_served(tmp_path, options, message):
    with pytest.raises(ModelError, match=message) as error:
        load_model(mean_model(tmp_path / "m.onnx", **options))
    assert "\n" not in str(error.value)


def test_described_sizes_and_flags_must_agree(tmp_path):
    document = {"size": [64, 64], "resize": 64, "interpolation": "bicubic", "dtype": "float32", "range": [0, 1]}
    with pytest.raises(ModelError, match="takes images"):
        load_model(mean_model(tmp_path / "a.onnx", metadata={"format": 1, "input": document}))
    with pytest.raises(ModelError, match="its graph has float32"):
        load_model(
            mean_model(
                tmp_path / "b.onnx",
                metadata={"format": 1, "input": {**document, "dtype": "uint8", "range": [0, 255]}},
            )
        )
    path = mean_model(tmp_path / "c.onnx")
    with pytest.raises(InvalidInputError, match="--mean, --std cannot be given"):
        load_model(path, foreign=ForeignInput(mean=(0, 0, 0), std=(1, 1, 1)))
    with pytest.raises(InvalidInputError, match="model's name"):
        load_model(path, name="a/b")


def test_engine_never_pretends(tmp_path):
    path = mean_model(tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="NoSuchExecutionProvider is not in this onnxruntime"):
        OnnxRuntimeEngine(path, providers=("NoSuchExecutionProvider",))
    with pytest.raises(ModelError, match="no ONNX file"):
        OnnxRuntimeEngine(tmp_path / "absent.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"not a graph")
    with pytest.raises(ModelError, match="cannot be loaded") as error:
        OnnxRuntimeEngine(tmp_path / "bad.onnx")
    assert "\n" not in str(error.value)
    with pytest.raises(InvalidInputError, match="threads"):
        OnnxRuntimeEngine(path, threads=0)
    engine = OnnxRuntimeEngine(path)
    with pytest.raises(ModelError, match="failed in onnxruntime"):
        engine.run({"image": np.zeros((1, 4, 4), np.float32)})


def test_engine_notices_a_silent_fallback(tmp_path, monkeypatch):
    import onnxruntime as ort

    path = mean_model(tmp_path / "m.onnx")
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(
        ort,
        "InferenceSession",
        lambda *_, **__: SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"]),
    )
    with pytest.raises(ModelError, match="onnxruntime chose CPUExecutionProvider"):
        OnnxRuntimeEngine(path, providers=("CUDAExecutionProvider",))


def test_read_labels(tmp_path):
    file = tmp_path / "labels.txt"
    file.write_text("one\ntwo words\nthrée\n", encoding="utf-8")
    assert read_labels(file) == ["one", "two words", "thrée"]
    for text in ("", "a\n\nb\n"):
        file.write_text(text)
        with pytest.raises(InvalidInputError, match="labels"):
            read_labels(file)
    with pytest.raises(InvalidInputError, match="labels cannot be read"):
        read_labels(tmp_path / "absent")


# address, token, limits


def test_only_loopback_without_token_and_tls():
    for host in ("0.0.0.0", "", "::"):
        with pytest.raises(InvalidInputError, match="reached from outside"):
            open_listener(host, 0)
    for host in ("127.0.0.1", "localhost", "127.0.0.9"):
        open_listener(host, 0).close()
    open_listener("0.0.0.0", 0, secured=True).close()


def test_occupied_port_and_unknown_host_are_one_line():
    with open_listener("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(ServerError, match=f"cannot listen on 127.0.0.1:{port}"):
            open_listener("127.0.0.1", port)
    with pytest.raises(ServerError, match="no address"):
        open_listener("no-such-host.invalid", 0)
    with pytest.raises(InvalidInputError, match="65535"):
        open_listener("127.0.0.1", 65536)


def test_token_file(tmp_path):
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    assert read_token(file) == TOKEN
    for text in ("", "\n", "one\ntwo\n"):
        file.write_text(text)
        with pytest.raises(InvalidInputError, match="one line"):
            read_token(file)
    with pytest.raises(InvalidInputError, match="no token"):
        read_token(tmp_path / "absent")


@pytest.mark.parametrize("token", ["short", "", "with a space in the middle", "é" * 20, "x" * 20 + "\n"])
def test_weak_tokens_are_refused(model_file, token):
    from edgejpeg.runtime.server.app import create_app

    with (
        InferenceService(load_model(model_file), threads=1) as service,
        pytest.raises(InvalidInputError, match="16 printable"),
    ):
        create_app(service, token=token)


@pytest.mark.parametrize("name", ["max_body", "max_pixels", "max_images", "queue", "body_timeout"])
def test_limits_are_checked(name):
    with pytest.raises(InvalidInputError, match=name):
        Limits(**{name: -1})


def test_service_options(model_file):
    model = load_model(model_file)
    for options in ({"topk": 0}, {"threads": 0}):
        with pytest.raises(InvalidInputError):
            InferenceService(model, **options)
    with InferenceService(model, topk=99, threads=1) as service:
        assert service.topk == 3
