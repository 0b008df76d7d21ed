"""Open Inference Protocol v2 over HTTP: the messages, both ways, as pure functions.

Source: kserve/open-inference-protocol, and Triton's extensions "binary tensor data" and "classification". One message
is JSON, optionally followed by the tensors' bytes; the HTTP header ``Inference-Header-Content-Length`` then says how
long the JSON is. A BYTES tensor's binary form is, per element, its length as a little-endian uint32 and its bytes.

The model has one input, ``IMAGE``, BYTES of shape (n, 1) or (n): n whole JPEG files. JSON alone cannot carry them.
Its outputs are ``LOGITS``, FP32 (n, classes), what the network says, and ``TOPK``, BYTES (n, k): per image the k
most probable classes, best first, each ``probability:index:name`` as Triton's classification extension writes
``value:index:label`` (six decimals; without ``:name`` where the model has no names).
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgejpeg.errors import InvalidInputError

INPUT_NAME = "IMAGE"
LOGITS = "LOGITS"
TOPK = "TOPK"
OUTPUT_NAMES = (LOGITS, TOPK)
HEADER_LENGTH = "Inference-Header-Content-Length"
EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration", "model_repository", "statistics")

JPEG_MAGIC = b"\xff\xd8"
MAX_JSON = 1 << 20  # a request's JSON is some hundred bytes; parsed JSON takes up to 30 times its length
MAX_ID = 1024

_HOW_TO_SEND = (
    f"send it with the binary tensor extension (parameters.binary_data_size and the header {HEADER_LENGTH}), "
    f"or as the bare body with {HEADER_LENGTH}: 0"
)


class RequestError(InvalidInputError):
    """A request that is answered with an error.

    Attributes:
        status: the HTTP status: 400 malformed, 401 token, 404 unknown, 408 too slow, 413 too large, 415 no JPEG or an
            unknown Content-Encoding, 422 a JPEG of a kind that is not served, 503 busy.
        retry_after: seconds for the Retry-After header, or None.
    """

    def __init__(self, message: str, status: int = 400, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


@dataclass(frozen=True)
class OutputRequest:
    """One requested output: its name, whether in binary form, and the class count of the classification extension."""

    name: str
    binary: bool
    classification: int = 0


@dataclass(frozen=True)
class InferRequest:
    """A parsed inference request: the JPEG files, the outputs wanted, and what the client said beside them."""

    images: tuple[bytes, ...]
    outputs: tuple[OutputRequest, ...]
    id: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class OutputTensor:
    """An output to be written: FP32 (n, m) as an array, or BYTES (n, m) as rows of strings."""

    name: str
    data: npt.NDArray[np.float32] | Sequence[Sequence[str]]
    binary: bool


def inflate_body(body: bytes, encoding: str | None, limit: int) -> bytes:
    """Undo the Content-Encoding gzip or deflate, never producing more than ``limit`` bytes.

    Raises:
        RequestError: 415 for another encoding, 400 for a damaged or truncated stream, 413 above the limit.
    """
    name = (encoding or "identity").strip().lower()
    if name == "identity":
        return body
    if name not in ("gzip", "deflate"):
        raise RequestError(f"Content-Encoding {name[:40]!r} is not supported; use gzip, deflate or none", 415)
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | (16 if name == "gzip" else 0))
    try:
        plain = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise RequestError(f"the body is no {name} stream: {error}") from None
    if len(plain) > limit:
        raise RequestError(f"the body inflates to more than {limit} bytes", 413)
    if not inflater.eof:
        raise RequestError(f"the body's {name} stream is truncated")
    if inflater.unused_data:
        raise RequestError(f"{len(inflater.unused_data)} bytes follow the body's {name} stream")
    return plain


def parse_infer_request(
    body: bytes, header_length: str | None, bare_outputs: Sequence[str] | None = None
) -> InferRequest:
    """Read an inference request's body.

    Args:
        body: the body, already inflated.
        header_length: the value of the header ``Inference-Header-Content-Length``, or None. "0" says that the body is
            one bare JPEG, and asks for binary outputs, as on Triton; a body that begins like a JPEG and comes
            without the header is one too, and is answered in JSON with TOPK.
        bare_outputs: outputs wanted for a bare JPEG (the query ``?outputs=TOPK,LOGITS``), or None for the default.

    Raises:
        RequestError: the body is not such a message; the text says what is wrong.
    """
    if not body:
        raise RequestError(f"the body is empty; {_HOW_TO_SEND}")
    length = _header_length(header_length, len(body))
    if length == 0 or (length is None and body.startswith(JPEG_MAGIC)):
        default = (TOPK,) if length is None else OUTPUT_NAMES
        names = default if bare_outputs is None else tuple(bare_outputs)
        _check_output_names(names)
        return InferRequest((body,), tuple(OutputRequest(name, binary=length == 0) for name in names))
    head, tail = (body, b"") if length is None else (body[:length], body[length:])
    message = _load_json(head)
    request_id = message.get("id")
    if request_id is not None and not (isinstance(request_id, str) and len(request_id) <= MAX_ID):
        raise RequestError(f"id must be a string of at most {MAX_ID} characters")
    parameters = _object(message, "parameters", "the request")
    return InferRequest(
        images=_parse_input(message, tail),
        outputs=_parse_outputs(message, parameters),
        id=request_id,
        parameters=parameters,
    )


def build_infer_request(
    images: Sequence[bytes],
    *,
    request_id: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    outputs: Sequence[OutputRequest] = (OutputRequest(TOPK, binary=False),),
) -> tuple[bytes, dict[str, str]]:
    """The body and the HTTP headers of an inference request in the binary tensor form."""
    tail = pack_bytes(images)
    message: dict[str, Any] = {} if request_id is None else {"id": request_id}
    if parameters:
        message["parameters"] = dict(parameters)
    message["inputs"] = [
        {
            "name": INPUT_NAME,
            "shape": [len(images), 1],
            "datatype": "BYTES",
            "parameters": {"binary_data_size": len(tail)},
        }
    ]
    message["outputs"] = [_output_to_json(output) for output in outputs]
    head = _dump_json(message)
    return head + tail, {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(head))}


def build_infer_response(
    model: str, version: str, tensors: Sequence[OutputTensor], request_id: str | None = None
) -> tuple[bytes, dict[str, str]]:
    """The body and the HTTP headers of an answer; binary only where a tensor asks for it."""
    outputs: list[dict[str, Any]] = []
    tails: list[bytes] = []
    for tensor in tensors:
        entry: dict[str, Any] = {"name": tensor.name}
        if isinstance(tensor.data, np.ndarray):
            entry |= {"datatype": "FP32", "shape": list(tensor.data.shape)}
            raw = tensor.data.astype("<f4").tobytes() if tensor.binary else b""
            plain: list[Any] = [] if tensor.binary else tensor.data.ravel().tolist()
        else:
            plain = [text for row in tensor.data for text in row]
            entry |= {"datatype": "BYTES", "shape": [len(tensor.data), len(tensor.data[0])]}
            raw = pack_bytes([text.encode() for text in plain]) if tensor.binary else b""
        if tensor.binary:
            entry["parameters"] = {"binary_data_size": len(raw)}
            tails.append(raw)
        else:
            entry["data"] = plain
        outputs.append(entry)
    message: dict[str, Any] = {} if request_id is None else {"id": request_id}
    message |= {"model_name": model, "model_version": version, "outputs": outputs}
    head = _dump_json(message)
    if not tails:
        return head, {"Content-Type": "application/json"}
    return b"".join([head, *tails]), {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(head))}


def parse_topk_response(body: bytes, header_length: str | None = None) -> tuple[str | None, list[list[str]]]:
    """The id and the rows of TOPK in an answer that has it in JSON, as :func:`build_infer_request` asks for it.

    Args:
        body: the answer's body.
        header_length: the value of its header ``Inference-Header-Content-Length``, or None.

    Raises:
        RequestError: the body is not such an answer.
    """
    message, _ = _split_response(body, header_length)
    entry = _output_of(message, TOPK)
    shape, data = entry.get("shape"), entry.get("data")
    if not (isinstance(shape, list) and len(shape) == 2 and all(_is_count(size) for size in shape)):
        raise RequestError(f"the answer's {TOPK} has the shape {str(shape)[:60]}, not (n, k)")
    if not (isinstance(data, list) and len(data) == shape[0] * shape[1] and all(isinstance(x, str) for x in data)):
        raise RequestError(f"the answer's {TOPK} does not hold the {shape[0]} x {shape[1]} strings of its shape")
    request_id = message.get("id")
    rows = [data[start : start + shape[1]] for start in range(0, len(data), max(shape[1], 1))]
    return request_id if isinstance(request_id, str) else None, rows


def parse_logits_response(body: bytes, header_length: str | None = None) -> npt.NDArray[np.float32]:
    """LOGITS, (n, classes) float32, of an answer that has it as its one binary output.

    Args: as for :func:`parse_topk_response`.

    Raises:
        RequestError: the body is not such an answer.
    """
    message, tail = _split_response(body, header_length)
    entry = _output_of(message, LOGITS)
    shape = entry.get("shape")
    if not (isinstance(shape, list) and len(shape) == 2 and all(_is_count(size) for size in shape)):
        raise RequestError(f"the answer's {LOGITS} has the shape {str(shape)[:60]}, not (n, classes)")
    if entry.get("datatype") != "FP32" or len(tail) != 4 * shape[0] * shape[1]:
        raise RequestError(
            f"the answer's {LOGITS} is {shape[0]} x {shape[1]} {str(entry.get('datatype'))[:20]}, "
            f"and {len(tail)} bytes follow the JSON part"
        )
    return np.frombuffer(tail, "<f4").astype(np.float32).reshape(shape)


def classification_rows(scores: npt.NDArray[Any], k: int, names: Sequence[str] | None) -> list[list[str]]:
    """``value:index:name`` of the k largest of each row of ``scores`` (n, classes), largest first, ties by index."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return [
        [f"{row[index]:.6f}:{index}" + ("" if names is None else f":{names[index]}") for index in indices]
        for row, indices in zip(scores, order, strict=True)
    ]


def pack_bytes(elements: Sequence[bytes]) -> bytes:
    """A BYTES tensor in binary form: per element u32le length and the bytes."""
    return b"".join(part for element in elements for part in (struct.pack("<I", len(element)), element))


def unpack_bytes(raw: bytes) -> list[bytes]:
    """Undo :func:`pack_bytes`.

    Raises:
        RequestError: an element's length runs beyond the data, or a length field is cut.
    """
    elements: list[bytes] = []
    position = 0
    while position < len(raw):
        if position + 4 > len(raw):
            raise RequestError(f"the BYTES tensor ends inside the length of element {len(elements)}")
        (length,) = struct.unpack_from("<I", raw, position)
        position += 4
        if length > len(raw) - position:
            raise RequestError(
                f"element {len(elements)} of the BYTES tensor is said to have {length} bytes, "
                f"but {len(raw) - position} are left"
            )
        elements.append(raw[position : position + length])
        position += length
    return elements


def _header_length(value: str | None, body_length: int) -> int | None:
    if value is None:
        return None
    text = value.strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise RequestError(f"{HEADER_LENGTH} must be a number of bytes, got {text[:40]!r}")
    length = int(text)
    if length > body_length:
        raise RequestError(f"{HEADER_LENGTH} is {length}, but the body has only {body_length} bytes")
    return length


def _split_response(body: bytes, header_length: str | None) -> tuple[dict[str, Any], bytes]:
    length = _header_length(header_length, len(body))
    return (_load_json(body), b"") if length is None else (_load_json(body[:length]), body[length:])


def _output_of(message: Mapping[str, Any], name: str) -> dict[str, Any]:
    outputs = message.get("outputs")
    found = [
        entry
        for entry in (outputs if isinstance(outputs, list) else [])
        if isinstance(entry, dict) and entry.get("name") == name
    ]
    if len(found) != 1:
        raise RequestError(f"the answer has no output {name}")
    return found[0]


def _load_json(text: bytes) -> dict[str, Any]:
    if len(text) > MAX_JSON:
        raise RequestError(
            f"the JSON part has {len(text)} bytes, at most {MAX_JSON} are allowed; for the image: {_HOW_TO_SEND}", 413
        )
    try:
        message = json.loads(text.decode(), parse_constant=_no_constant)
    except RecursionError:
        raise RequestError("the JSON part is nested too deeply") from None
    except ValueError as error:
        raise RequestError(f"the body is neither a JPEG nor JSON: {error}; {_HOW_TO_SEND}") from None
    if not isinstance(message, dict):
        raise RequestError(f"the JSON part must be an object, got {type(message).__name__}")
    return message


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _dump_json(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":"), allow_nan=False).encode()


def _object(container: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    value = container.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RequestError(f"{key} of {where} must be an object, got {type(value).__name__}")
    return value


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _parse_input(message: Mapping[str, Any], tail: bytes) -> tuple[bytes, ...]:
    inputs = message.get("inputs")
    if not (isinstance(inputs, list) and len(inputs) == 1 and isinstance(inputs[0], dict)):
        raise RequestError(f"inputs must be a list of one tensor, {INPUT_NAME}")
    tensor = inputs[0]
    if tensor.get("name") != INPUT_NAME:
        raise RequestError(f"the input's name is {str(tensor.get('name'))[:60]!r}; this model's input is {INPUT_NAME}")
    if tensor.get("datatype") != "BYTES":
        raise RequestError(f"{INPUT_NAME} has the datatype {str(tensor.get('datatype'))[:60]!r}; it must be BYTES")
    shape = tensor.get("shape")
    if not (isinstance(shape, list) and len(shape) in (1, 2) and all(_is_count(size) for size in shape)):
        raise RequestError(f"{INPUT_NAME} has the shape {str(shape)[:60]}; it must be [n, 1] or [n]")
    if shape[0] < 1 or shape[1:] not in ([], [1]):
        raise RequestError(f"{INPUT_NAME} has the shape {str(shape)[:60]}; it must be [n, 1] or [n], with n at least 1")
    parameters = _object(tensor, "parameters", INPUT_NAME)
    if "data" in tensor:
        raise RequestError(f"{INPUT_NAME} comes as JSON data, which cannot carry a JPEG; {_HOW_TO_SEND}")
    size = parameters.get("binary_data_size")
    if not _is_count(size):
        raise RequestError(f"{INPUT_NAME} has no valid parameters.binary_data_size; {_HOW_TO_SEND}")
    if size != len(tail):
        raise RequestError(f"binary_data_size is {size}, but {len(tail)} bytes follow the JSON part")
    images = unpack_bytes(tail)
    if len(images) != shape[0]:
        raise RequestError(f"{INPUT_NAME} has the shape {str(shape)[:60]}, but {len(images)} elements follow")
    return tuple(images)


def _parse_outputs(message: Mapping[str, Any], parameters: Mapping[str, Any]) -> tuple[OutputRequest, ...]:
    binary_default = _flag(parameters, "binary_data_output", False)
    entries = message.get("outputs")
    if entries is None or entries == []:
        return tuple(OutputRequest(name, binary_default) for name in OUTPUT_NAMES)
    if not (isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)):
        raise RequestError("outputs must be a list of objects, each with a name")
    _check_output_names([entry.get("name") for entry in entries])
    requests = []
    for entry in entries:
        name: str = entry["name"]
        options = _object(entry, "parameters", name)
        classes = options.get("classification", 0)
        if not _is_count(classes) or (classes and name != LOGITS):
            raise RequestError(f"classification of {name} must be a count, and is for {LOGITS} only")
        requests.append(OutputRequest(name, _flag(options, "binary_data", binary_default), classes))
    return tuple(requests)


def _check_output_names(names: Sequence[object]) -> None:
    for name in names:
        if name not in OUTPUT_NAMES:
            raise RequestError(f"no output {str(name)[:60]!r}; this model has {' and '.join(OUTPUT_NAMES)}")
    if len(set(names)) != len(names):
        raise RequestError("an output is asked for twice")


def _flag(options: Mapping[str, Any], key: str, default: bool) -> bool:
    value = options.get(key, default)
    if not isinstance(value, bool):
        raise RequestError(f"{key} must be true or false, got {str(value)[:40]!r}")
    return value


def _output_to_json(output: OutputRequest) -> dict[str, Any]:
    parameters: dict[str, Any] = {"binary_data": output.binary}
    if output.classification:
        parameters["classification"] = output.classification
    return {"name": output.name, "parameters": parameters}
