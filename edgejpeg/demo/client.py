"""A client that asks for the logits themselves, one file after the other.

The uplink's :class:`~edgejpeg.runtime.uplink.sender.Sender` asks for the top classes, which is what a device wants.
To compare distributions the demo needs all logits, unrounded: the binary form of the protocol's LOGITS.
"""

from __future__ import annotations

import json
from types import TracebackType
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from edgejpeg._optional import require
from edgejpeg.errors import ServerError, TransportError


class LogitsClient:
    """One kept connection to one model of an Open Inference Protocol server.

    Args:
        url: the server.
        model: the model's name.
        timeout: seconds for each step of a request.
    """

    def __init__(self, url: str, model: str, *, timeout: float = 30.0) -> None:
        from edgejpeg.runtime.server import protocol

        self._httpx = require("httpx", extra="send", purpose="edgejpeg demo")
        self._protocol = protocol
        self._url = f"{url}/v2/models/{quote(model, safe='')}/infer"
        self._client = self._httpx.Client(timeout=timeout, trust_env=False)

    def __enter__(self) -> LogitsClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def classify(self, jpeg: bytes) -> NDArray[np.float32]:
        """The (classes,) logits of one file.

        Raises:
            TransportError: the server cannot be reached.
            ServerError: it answers with an error, or with something else than logits.
        """
        protocol = self._protocol
        body, headers = protocol.build_infer_request([jpeg], outputs=[protocol.OutputRequest(protocol.LOGITS, True)])
        try:
            response = self._client.post(self._url, content=body, headers=headers)
        except self._httpx.HTTPError as error:
            raise TransportError(f"the demo's server does not answer: {error or type(error).__name__}") from error
        if response.status_code != 200:
            raise ServerError(f"the demo's server answered {response.status_code}: {response.text[:300]}")
        return _logits(response.content, response.headers.get(protocol.HEADER_LENGTH, ""), protocol.LOGITS)


def _logits(body: bytes, header_length: str, name: str) -> NDArray[np.float32]:
    try:
        head = int(header_length)
        (output,) = json.loads(body[:head])["outputs"]
        shape = output["shape"]
        if (output["name"], output["datatype"], shape[0]) != (name, "FP32", 1):
            raise ValueError(f"output {output['name']} of {output['datatype']} {shape}")
        return np.frombuffer(body[head:], "<f4").reshape(shape)[0].astype(np.float32)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ServerError(f"the demo's server answered with something else than one image's logits: {error}") from error
