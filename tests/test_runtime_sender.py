"""The sender: retries and giving up, accounting, what is on the wire, against a mock transport and the real server."""

from __future__ import annotations

import email.utils
import hashlib
import io
import json
import random
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgejpeg.errors import InvalidInputError, ServerError, TransportError
from edgejpeg.runtime.uplink.sender import Prediction, RetryPolicy, Sender

httpx = pytest.importorskip("httpx")

URL = "http://server.test:8000"
FAST = RetryPolicy(retries=3, first=0.0, longest=0.01)
JPEG = b"\xff\xd8 some bytes \xff\xd9"


def sent_message(request: object) -> tuple[dict, bytes]:
    """A request's JSON and the one image behind it, read by hand."""
    head = int(request.headers["inference-header-content-length"])
    message = json.loads(request.content[:head])
    (length,) = struct.unpack_from("<I", request.content, head)
    image = request.content[head + 4 :]
    assert len(image) == length and message["inputs"][0]["parameters"]["binary_data_size"] == length + 4
    return message, image


def good_answer(request: object, texts: tuple[str, ...] = ("0.750000:3:tabby: cat", "0.250000:1:dog")) -> object:
    message, _ = sent_message(request)
    output = {"name": "TOPK", "datatype": "BYTES", "shape": [1, len(texts)], "data": list(texts)}
    return httpx.Response(200, json={"id": message["id"], "model_name": "m", "outputs": [output]})


def sender_to(handler: Callable[[object], object], **options: object) -> Sender:
    return Sender(
        URL, **{"model": "m", "retry": FAST, "device": "cam-1", "transport": httpx.MockTransport(handler), **options}
    )


def settled(sender: Sender) -> tuple[int, int, int]:
    counts = sender.counts
    assert counts.submitted == counts.delivered + counts.failed and counts.pending == 0
    return counts.submitted, counts.delivered, counts.failed


def test_what_is_on_the_wire():
    requests = []

    def handler(request):
        requests.append(request)
        return good_answer(request)

    with sender_to(handler, token="the-token-of-the-server", stream="front") as sender:
        results = [
            sender.submit(JPEG, name="a", capture_ts_ns=1_700_000_000_000_000_001, parameters={"profile_id": "p1"}),
            sender.submit(JPEG),
        ]
    first = results[0].result()
    assert first.delivered and first.attempts == 1 and first.status == 200 and first.name == "a"
    assert first.classes == (Prediction(0.75, 3, "tabby: cat"), Prediction(0.25, 1, "dog"))
    assert first.bytes == len(JPEG) and first.latency_s > 0
    assert settled(sender) == (2, 2, 0)
    by_id = {sent_message(request)[0]["id"]: request for request in requests}
    request = by_id[first.id]
    message, image = sent_message(request)
    assert request.method == "POST" and str(request.url) == f"{URL}/v2/models/m/infer" and image == JPEG
    assert request.headers["authorization"] == "Bearer the-token-of-the-server"
    assert message["parameters"] == {
        "capture_ts_ns": 1_700_000_000_000_000_001,
        "profile_id": "p1",
        "sha256": hashlib.sha256(JPEG).hexdigest(),
    }
    assert message["inputs"][0]["datatype"] == "BYTES" and message["inputs"][0]["shape"] == [1, 1]
    device, stream, rest = first.id.split("/")
    epoch, number = rest.split("-")
    assert (device, stream, number) == ("cam-1", "front", "0")
    assert abs(int(epoch) / 1000 - time.time()) < 3600
    assert results[1].result().id == f"cam-1/front/{epoch}-1"


def answer_with_logits(request: object, values: tuple[float, ...], **changes: object) -> object:
    """TOPK in JSON and LOGITS behind it, written by hand."""
    message, _ = sent_message(request)
    assert [output["name"] for output in message["outputs"]] == ["TOPK", "LOGITS"]
    assert [output["parameters"]["binary_data"] for output in message["outputs"]] == [False, True]
    raw = struct.pack(f"<{len(values)}f", *values)
    logits = {"name": "LOGITS", "datatype": "FP32", "shape": [1, len(values)], "parameters": {"binary_data_size": 12}}
    outputs = [{"name": "TOPK", "datatype": "BYTES", "shape": [1, 1], "data": ["0.9:2"]}, logits | changes]
    head = json.dumps({"id": message["id"], "outputs": outputs}).encode()
    return httpx.Response(200, content=head + raw, headers={"Inference-Header-Content-Length": str(len(head))})


def test_logits_on_demand():
    with sender_to(lambda request: answer_with_logits(request, (-1.5, 0.1, 3e38)), logits=True) as sender:
        result = sender.submit(JPEG).result()
    assert result.delivered
    assert result.classes == (Prediction(0.9, 2, ""),)
    assert result.logits.dtype == np.float32
    np.testing.assert_array_equal(result.logits, np.array([-1.5, 0.1, 3e38], np.float32))
    with sender_to(good_answer) as sender:
        assert sender.submit(JPEG).result().logits is None


@pytest.mark.parametrize(
    "changes", [{"shape": [1, 4]}, {"shape": [3]}, {"shape": [3, 1]}, {"datatype": "FP64"}, {"name": "OTHER"}]
)
def test_strange_logits_are_a_failure(changes):
    with sender_to(lambda request: answer_with_logits(request, (1.0, 2.0, 3.0), **changes), logits=True) as sender:
        result = sender.submit(JPEG).result()
    assert not result.delivered
    assert result.status == 200
    with sender_to(good_answer, logits=True) as sender:  # a server that leaves them out
        assert "LOGITS" in sender.submit(JPEG).result().error


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
def test_passing_failures_are_tried_again_with_the_same_id(status):
    ids = []

    def handler(request):
        ids.append(sent_message(request)[0]["id"])
        return good_answer(request) if len(ids) == 3 else httpx.Response(status, json={"error": "later"})

    with sender_to(handler) as sender:
        result = sender.submit(JPEG).result()
    assert result.delivered and result.attempts == 3 and len(set(ids)) == 1
    assert settled(sender) == (1, 1, 0)


@pytest.mark.parametrize("failure", ["ConnectError", "ReadTimeout", "RemoteProtocolError", "WriteError"])
def test_connection_failures_are_tried_again_then_given_up(failure):
    calls = []

    def handler(request):
        calls.append(request)
        if len(calls) <= 2:
            raise getattr(httpx, failure)("the cable")
        return good_answer(request)

    with sender_to(handler) as sender:
        assert sender.submit(JPEG).result().attempts == 3
    calls.clear()

    def never(request):
        calls.append(request)
        raise getattr(httpx, failure)("the cable")

    with sender_to(never) as sender:
        result = sender.submit(JPEG).result()
    assert not result.delivered and result.status is None and "the cable" in result.error and result.classes == ()
    assert result.attempts == len(calls) == 1 + FAST.retries
    assert settled(sender) == (1, 0, 1)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 415, 422, 500, 301])
def test_lasting_failures_are_not_tried_again(status):
    calls = []

    def handler(request):
        calls.append(request)
        return httpx.Response(status, json={"error": "the\nreason"})

    with sender_to(handler) as sender:
        result = sender.submit(JPEG).result()
    assert len(calls) == result.attempts == 1 and result.status == status
    assert result.error == f"{URL} answered {status}: the reason"
    assert settled(sender) == (1, 0, 1)


def _with_output(**changes: object) -> Callable[[object], object]:
    def handler(request):
        output = {"name": "TOPK", "datatype": "BYTES", "shape": [1, 1], "data": ["0.5:1:x"], **changes}
        return httpx.Response(200, json={"outputs": [output]})

    return handler


@pytest.mark.parametrize(
    "handler",
    [
        lambda _: httpx.Response(200, content=b""),
        lambda _: httpx.Response(200, html="<p>hotel login</p>"),
        lambda _: httpx.Response(200, json=[1]),
        lambda _: httpx.Response(200, json={"outputs": []}),
        lambda _: httpx.Response(200, json={"outputs": [{"name": "LOGITS", "shape": [1, 1], "data": [1.0]}]}),
        _with_output(data=["nonsense"]),
        _with_output(data=["x:y:z"]),
        _with_output(data=[]),
        _with_output(shape=[2, 1], data=["0.5:1", "0.5:2"]),
        _with_output(shape=[1, 0], data=[]),
        lambda _: httpx.Response(
            200, json={"id": "other", "outputs": [{"name": "TOPK", "shape": [1, 1], "data": ["1.0:1"]}]}
        ),
        lambda _: httpx.Response(200, content=b"x", headers={"Content-Encoding": "gzip"}),
    ],
)
def test_a_200_that_is_no_answer_is_a_failure(handler):
    with sender_to(handler) as sender:
        result = sender.submit(JPEG).result()
    assert not result.delivered and "\n" not in result.error
    assert settled(sender) == (1, 0, 1)


def test_retry_after_is_obeyed_within_bounds():
    policy = RetryPolicy(retries=1, first=0.5, longest=4.0)
    for retry in range(40):
        waits = [policy.wait(retry) for _ in range(50)]
        assert min(waits) >= 0 and max(waits) <= min(4.0, 0.5 * 2**retry)
        assert len(set(waits)) > 40  # jitter
    assert 3.0 <= policy.wait(0, 3.0) <= 4.0
    assert policy.wait(0, 1e9) == pytest.approx(4.0)


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_delays_the_next_attempt(form):
    times = []

    def handler(request):
        times.append(time.monotonic())
        if len(times) > 1:
            return good_answer(request)
        value = "1" if form == "seconds" else email.utils.formatdate(time.time() + 2, usegmt=True)
        return httpx.Response(503, headers={"Retry-After": value})

    with sender_to(handler, retry=RetryPolicy(retries=1, first=0.0, longest=0.3)) as sender:
        assert sender.submit(JPEG).result().delivered
    assert times[1] - times[0] >= 0.29


@pytest.mark.parametrize("value", ["", "soon", "-5", "1e9", "²", "99999999999999999999", "Mon, 99 Foo"])
def test_nonsense_in_retry_after_does_no_harm(value):
    answers = [httpx.Response(503, headers=[(b"Retry-After", value.encode("latin-1"))])]

    def handler(request):
        return answers.pop() if answers else good_answer(request)

    with sender_to(handler) as sender:
        assert sender.submit(JPEG).result().attempts == 2


def test_accounts_hold_under_a_storm():
    """Random faults and two submitting threads: what the handler saw, the results and the counts agree."""
    chance = random.Random(5)
    lock = threading.Lock()
    accepted: Counter[str] = Counter()

    def handler(request):
        with lock:
            draw = chance.random()
        if draw < 0.2:
            raise httpx.ConnectError("cut")
        if draw < 0.4:
            return httpx.Response(503)
        if draw < 0.5:
            return httpx.Response(400, json={"error": "no"})
        with lock:
            accepted[sent_message(request)[0]["id"]] += 1
        if draw < 0.6:
            raise httpx.ReadError("the answer was lost")
        return good_answer(request)

    futures = []
    sender = sender_to(handler, retry=RetryPolicy(retries=2, first=0.0, longest=0.0))

    def submit():
        for _ in range(100):
            future = sender.submit(JPEG)
            with lock:
                futures.append(future)
            counts = sender.counts
            assert counts.pending >= 0

    workers = [threading.Thread(target=submit) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    sender.close()
    results = [future.result() for future in futures]
    submitted, delivered, failed = settled(sender)
    assert submitted == 200 and delivered == sum(result.delivered for result in results) and failed > 0
    assert len({result.id for result in results}) == 200
    assert all(accepted[result.id] >= 1 for result in results if result.delivered)


def test_in_flight_bounds_the_requests():
    now = peak = 0
    lock = threading.Lock()
    gate = threading.Event()

    def handler(request):
        nonlocal now, peak
        with lock:
            now += 1
            peak = max(peak, now)
            if peak == 3:
                gate.set()
        gate.wait(10)
        with lock:
            now -= 1
        return good_answer(request)

    with sender_to(handler, in_flight=3) as sender:
        for _ in range(20):
            sender.submit(JPEG)
    assert peak == 3 and settled(sender) == (20, 20, 0)


def test_closing_without_waiting_gives_up_retries():
    entered = threading.Event()

    def handler(request):
        entered.set()
        return httpx.Response(503)

    begin = time.monotonic()
    sender = sender_to(handler, retry=RetryPolicy(retries=50, first=600.0, longest=600.0))
    future = sender.submit(JPEG)
    assert entered.wait(10)
    sender.close(wait=False)
    result = future.result()
    assert not result.delivered and result.status == 503 and time.monotonic() - begin < 60
    assert settled(sender) == (1, 0, 1)
    with pytest.raises(InvalidInputError, match="after close"):
        sender.submit(JPEG)
    assert settled(sender) == (1, 0, 1)


def test_an_exception_in_the_block_gives_up():
    with pytest.raises(KeyboardInterrupt):  # noqa: SIM117
        with sender_to(lambda _: httpx.Response(503), retry=RetryPolicy(50, 600.0, 600.0)) as sender:
            sender.submit(JPEG)
            raise KeyboardInterrupt
    assert settled(sender) == (1, 0, 1)


def index_of(models: object) -> Callable[[object], object]:
    def handler(request):
        if request.url.path == "/v2/repository/index" and request.method == "POST":
            return httpx.Response(200, json=models)
        if request.url.path == "/v2/models/only%20one" or request.url.path == "/v2/models/only one":
            return httpx.Response(200, json={"name": "only one"})
        return (
            good_answer(request) if request.method == "POST" else httpx.Response(404, json={"error": "unknown model"})
        )

    return handler


def test_the_only_ready_model_is_taken():
    ready = {"name": "only one", "version": "1", "state": "READY"}
    with sender_to(index_of([ready, {"name": "b", "state": "UNAVAILABLE"}]), model=None) as sender:
        assert sender.connect() == "only one"
    with sender_to(index_of([ready]), model=None) as sender:
        assert sender.submit(JPEG).result().delivered
    for models in ([], [ready, {"name": "b", "state": "READY"}], {"error": 1}, ["x"], None):
        with (
            sender_to(index_of(models), model=None) as sender,
            pytest.raises(ServerError, match="--model"),
        ):
            sender.connect()
    with sender_to(index_of([]), model="typo") as sender, pytest.raises(ServerError, match="404: unknown model"):
        sender.connect()


def test_a_server_that_is_down_is_one_line():
    with Sender("http://127.0.0.1:9", model="m", retry=FAST) as sender:
        with pytest.raises(TransportError, match=r"no server answers at http://127\.0\.0\.1:9") as error:
            sender.connect()
        assert "\n" not in str(error.value)
        result = sender.submit(JPEG).result()
    assert not result.delivered and result.attempts == 4


def test_a_server_of_another_kind():
    with (
        sender_to(lambda _: httpx.Response(200, html="<p>hello</p>"), model=None) as sender,
        pytest.raises(ServerError, match="no Open Inference Protocol server"),
    ):
        sender.connect()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "127.0.0.1:8000"}, "URL"),
        ({"url": "ftp://x"}, "URL"),
        ({"url": "http://"}, "URL"),
        ({"url": "http://x:99999999"}, "URL"),
        ({"url": "http://x/?a=b"}, "URL"),
        ({"in_flight": 0}, "in_flight"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"device": "a/b"}, "device"),
        ({"device": ""}, "device"),
        ({"stream": "é"}, "stream"),
        ({"token": ""}, "token"),
        ({"token": "a\r\nb"}, "token"),
        ({"ca_file": "/no/such/file.pem"}, "certificate"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(InvalidInputError, match=message) as error:
        Sender(**{"url": URL, **options})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options", [{"retries": -1}, {"retries": 101}, {"first": -1.0}, {"first": 3.0, "longest": 2.0}]
)
def test_retry_policies_are_checked(options):
    with pytest.raises(InvalidInputError):
        RetryPolicy(**options)


def test_empty_frames_are_refused():
    with sender_to(good_answer) as sender, pytest.raises(InvalidInputError, match="got none"):
        sender.submit(b"")
    assert settled(sender) == (0, 0, 0)


def test_against_the_real_application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A real socket, real JPEG files, and a network whose answer is known by formula."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # a proxy is not asked for a server on this machine
    onnx = pytest.importorskip("onnx")
    pil = pytest.importorskip("PIL.Image")
    uvicorn = pytest.importorskip("uvicorn")
    for needed in ("onnxruntime", "starlette"):
        pytest.importorskip(needed)
    from edgejpeg.runtime.server.app import create_app
    from edgejpeg.runtime.server.model import ForeignInput, load_model
    from edgejpeg.runtime.server.serve import open_listener
    from edgejpeg.runtime.server.service import InferenceService

    image = onnx.helper.make_tensor_value_info("image", 1, ["N", 3, 16, 16])
    logits = onnx.helper.make_tensor_value_info("logits", 1, ["N", 3])
    nodes = [
        onnx.helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        onnx.helper.make_node("Flatten", ["pooled"], ["logits"]),
    ]
    graph = onnx.helper.make_graph(nodes, "mean", [image], [logits])
    opsets = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path / "mean.onnx")
    model = load_model(
        tmp_path / "mean.onnx",
        labels=["red", "green", "blue"],
        foreign=ForeignInput(resize=16, value_range=(0, 1), mean=(0, 0, 0), std=(1, 1, 1)),
    )
    token = "a-token-of-enough-characters"
    with InferenceService(model, threads=1, topk=1) as service, open_listener("127.0.0.1", 0) as listener:
        config = uvicorn.Config(create_app(service, token=token), log_level="error", lifespan="off", http="h11")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with Sender(url, token="a-wrong-token-of-the-same-length") as stranger, pytest.raises(ServerError, match="401"):
            stranger.connect()
        with Sender(url, token=token, retry=FAST, logits=True) as sender:
            assert sender.connect() == "mean"
            futures = []
            for index in range(12):
                pixels = np.zeros((16, 16, 3), np.uint8)
                pixels[:, :, index % 3] = 255
                stream = io.BytesIO()
                pil.fromarray(pixels).save(stream, "JPEG", quality=100, subsampling=0)
                futures.append(sender.submit(stream.getvalue()))
            damaged = sender.submit(stream.getvalue()[:-30])
        server.should_exit = True
        thread.join(10)
    names = [future.result().classes[0].name for future in futures]
    assert names == ["red", "green", "blue"] * 4
    for index, future in enumerate(futures):
        np.testing.assert_allclose(future.result().logits, np.eye(3)[index % 3], atol=0.01)
    share = np.e / (np.e + 2)
    assert all(future.result().classes[0].probability == pytest.approx(share, abs=0.01) for future in futures)
    assert damaged.result().status == 400 and "damaged" in damaged.result().error
    assert settled(sender) == (13, 12, 1)
