"""The inference server: tritonclient and raw HTTP against it, preprocessing, messages, loading, addresses."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from server_tools import BARE, NAMES, SIZE, TOKEN, flat, jpeg_of, mean_model, pixels_of, topk_of
from server_tools import model_file as model_file
from server_tools import server as server

from edgejpeg.errors import InvalidInputError, ModelError, ServerError
from edgejpeg.runtime.engines import OnnxRuntimeEngine
from edgejpeg.runtime.server.decode import InputSpec, decode_jpeg, fit_image, images_to_batch
from edgejpeg.runtime.server.model import ForeignInput, load_model, read_labels
from edgejpeg.runtime.server.protocol import (
    LOGITS,
    TOPK,
    OutputRequest,
    OutputTensor,
    build_infer_request,
    build_infer_response,
    classification_rows,
    parse_infer_request,
    unpack_bytes,
)
from edgejpeg.runtime.server.serve import open_listener, read_token
from edgejpeg.runtime.server.service import InferenceService, Limits

httpx = pytest.importorskip("httpx")
onnx = pytest.importorskip("onnx")
Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def triton(server: SimpleNamespace) -> Iterator[object]:
    http = pytest.importorskip("tritonclient.http")
    client = http.InferenceServerClient(server.url.removeprefix("http://"))
    yield client
    client.close()


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


# loading


def test_metadata_tells_the_input(tmp_path):
    model = load_model(mean_model(tmp_path / "m.v1.onnx", dtype=onnx.TensorProto.UINT8))
    assert (model.name, model.num_classes, model.class_names) == ("m.v1", 3, tuple(NAMES))
    assert (model.spec.dtype, model.spec.resize, model.spec.value_range) == ("uint8", 36, (0.0, 255.0))
    assert model.engine.providers == ("CPUExecutionProvider",)
    jpeg = flat((250, 20, 30))
    got = model.predict(images_to_batch((jpeg,), model.spec))
    np.testing.assert_allclose(got[0], pixels_of(jpeg).reshape(-1, 3).mean(0), atol=1e-3)


def test_a_jpeg_layer_in_front_is_said_on_the_log(tmp_path, caplog):
    document = {
        "format": 1,
        "input": {"size": [SIZE, SIZE], "resize": 36, "interpolation": "bilinear", "dtype": "float32", "range": [0, 1]},
    }
    for layer in (None, {"subsampling": "420", "tables": "quality 75"}):
        caplog.clear()
        path = mean_model(tmp_path / "layered.onnx", metadata={**document, "jpeg_layer": layer})
        with caplog.at_level("WARNING", logger="edgejpeg.server"):
            assert load_model(path).num_classes == 3
        lines = [record.getMessage() for record in caplog.records]
        assert len(lines) == (0 if layer is None else 1)
        assert all(line.startswith("layered.onnx has a JPEG layer") and "--form pixels" in line for line in lines)


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
