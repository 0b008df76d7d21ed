"""The inference server under attack: hostile bodies and files, slow clients, wrong tokens, a full queue."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import struct
import threading
import time
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from server_tools import BARE, TOKEN, flat, jpeg_of, raw, serving
from server_tools import model_file as model_file
from server_tools import server as server

from edgejpeg.runtime.engines import OnnxRuntimeEngine
from edgejpeg.runtime.server.decode import MAX_SCANS, InputSpec, images_to_batch
from edgejpeg.runtime.server.model import ServedModel, load_model
from edgejpeg.runtime.server.protocol import (
    RequestError,
    build_infer_request,
    inflate_body,
    parse_infer_request,
    parse_logits_response,
    parse_topk_response,
)
from edgejpeg.runtime.server.service import InferenceService, Limits

httpx = pytest.importorskip("httpx")
onnx = pytest.importorskip("onnx")
Image = pytest.importorskip("PIL.Image")


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


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.none() | st.integers(-2, 220).map(str))
def test_random_bodies_raise_nothing_else(body, header):
    with contextlib.suppress(RequestError):
        parse_infer_request(body, header)
    with contextlib.suppress(RequestError):
        parse_infer_request(b'{"inputs":' + body, header)
    for parse in (parse_topk_response, parse_logits_response):
        for length in (None, header):
            with contextlib.suppress(RequestError):
                parse(body, length)
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
    for parse in (parse_topk_response, parse_logits_response):
        with contextlib.suppress(RequestError):
            parse(text)


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
