"""The HTTP face of :class:`InferenceService`: a Starlette application that speaks the Open Inference Protocol v2.

What is refused is refused as early as possible: the token and the declared length before the body is read, a full
queue before that, the body's length while it arrives, the image's size from its header. Only live and ready need no
token, for a load balancer's probes.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Awaitable, Callable

from edgejpeg._optional import require
from edgejpeg._version import __version__
from edgejpeg.errors import EdgeJpegError, InvalidInputError
from edgejpeg.runtime.server.protocol import EXTENSIONS, HEADER_LENGTH, RequestError
from edgejpeg.runtime.server.service import InferenceService

require("starlette", extra="serve", purpose="the inference server")

from starlette.applications import Starlette  # noqa: E402  (after the message that says how to install it)
from starlette.exceptions import HTTPException  # noqa: E402
from starlette.requests import ClientDisconnect, Request  # noqa: E402
from starlette.responses import JSONResponse, Response  # noqa: E402
from starlette.routing import Route  # noqa: E402

_log = logging.getLogger("edgejpeg.server")
_Handler = Callable[[Request], Awaitable[Response]]

MIN_TOKEN = 16


def create_app(service: InferenceService, *, token: str | None = None) -> Starlette:
    """The server as an ASGI application, to run under uvicorn or to mount into another application.

    Args:
        service: the model, its queue and limits; the caller closes it.
        token: what clients must send as ``Authorization: Bearer TOKEN``, at least 16 printable ASCII characters without
            spaces; None when anybody who reaches the address may ask.

    Raises:
        InvalidInputError: the token is too short or holds other characters.
    """
    if token is not None and not (
        len(token) >= MIN_TOKEN and token.isascii() and token.isprintable() and " " not in token
    ):
        raise InvalidInputError(f"the token must have at least {MIN_TOKEN} printable ASCII characters and no spaces")
    face = _Face(service, token)
    model = "/v2/models/{model}"
    routes = []
    for prefix in (model, model + "/versions/{version}"):
        routes += [
            Route(prefix, face.guarded(face.model_metadata)),
            Route(prefix + "/ready", face.model_ready),
            Route(prefix + "/config", face.guarded(face.model_config)),
            Route(prefix + "/stats", face.guarded(face.model_stats)),
            Route(prefix + "/infer", face.guarded(face.infer), methods=["POST"]),
        ]
    routes += [
        Route("/v2", face.guarded(face.server_metadata)),
        Route("/v2/health/live", face.live),
        Route("/v2/health/ready", face.live),
        Route("/v2/repository/index", face.guarded(face.repository_index), methods=["POST"]),
    ]
    return Starlette(
        routes=routes,
        exception_handlers={
            RequestError: _refused,
            HTTPException: _http_error,
            ClientDisconnect: _disconnected,
            EdgeJpegError: _failed,
            Exception: _failed,
        },
    )


class _Face:
    def __init__(self, service: InferenceService, token: str | None) -> None:
        self._service = service
        self._expected = None if token is None else b"Bearer " + token.encode("ascii")

    def guarded(self, handler: _Handler) -> _Handler:
        """The handler behind the token, in constant time, before any of the body is read."""

        async def check(request: Request) -> Response:
            given = request.headers.get("authorization", "").encode("latin-1", "replace")
            if self._expected is not None and not hmac.compare_digest(given, self._expected):
                raise RequestError("unauthorized: send the header Authorization: Bearer TOKEN", 401)
            return await handler(request)

        return check

    async def live(self, request: Request) -> Response:
        return Response()

    async def server_metadata(self, request: Request) -> Response:
        return JSONResponse({"name": "edgejpeg", "version": __version__, "extensions": list(EXTENSIONS)})

    async def repository_index(self, request: Request) -> Response:
        model = self._service.model
        return JSONResponse([{"name": model.name, "version": model.version, "state": "READY", "reason": ""}])

    async def model_ready(self, request: Request) -> Response:
        self._check_model(request)
        return Response()

    async def model_metadata(self, request: Request) -> Response:
        self._check_model(request)
        return JSONResponse(self._service.metadata())

    async def model_config(self, request: Request) -> Response:
        self._check_model(request)
        return JSONResponse(self._service.config())

    async def model_stats(self, request: Request) -> Response:
        self._check_model(request)
        return JSONResponse(self._service.statistics())

    async def infer(self, request: Request) -> Response:
        self._check_model(request)
        wanted = request.query_params.get("outputs")
        with self._service.admit():
            body = await self._read_body(request)
            content, headers = await asyncio.get_running_loop().run_in_executor(
                self._service.pool,
                self._service.infer,
                body,
                request.headers.get(HEADER_LENGTH),
                request.headers.get("content-encoding"),
                None if wanted is None else wanted.split(","),
                time.perf_counter_ns(),
            )
        return Response(content, headers=headers)

    def _check_model(self, request: Request) -> None:
        name, version = request.path_params["model"], request.path_params.get("version")
        model = self._service.model
        if name != model.name:
            raise RequestError(f"unknown model {name[:60]!r}; this server has {model.name!r}", 404)
        if version not in (None, model.version):
            raise RequestError(f"unknown version {version[:60]!r} of {name}; it has {model.version!r}", 404)

    async def _read_body(self, request: Request) -> bytes:
        limit = self._service.limits.max_body
        declared = request.headers.get("content-length", "0")
        # The HTTP parser has refused lengths that are no numbers; isdigit guards embedding under another one.
        if not declared.isdigit() or int(declared[:20]) > limit:
            raise RequestError(f"the body has {declared[:20]} bytes, at most {limit} are allowed", 413)
        try:
            return await asyncio.wait_for(_receive(request, limit), self._service.limits.body_timeout)
        except asyncio.TimeoutError:
            raise RequestError(
                f"the body did not arrive within {self._service.limits.body_timeout:g} seconds", 408
            ) from None


async def _receive(request: Request, limit: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise RequestError(f"the body has more than the {limit} bytes that are allowed", 413)
    return bytes(body)


def _error(message: str, status: int, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": message}, status, headers=headers)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    headers = {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status == 408:
        headers["Connection"] = "close"
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    return _error(str(error), error.status, headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path[:200]}: {error.detail}; the protocol's addresses begin with /v2"
    return _error(message, error.status_code, dict(error.headers or {}))


async def _disconnected(request: Request, error: Exception) -> Response:
    return _error("the client closed the connection before the body was complete", 400)


async def _failed(request: Request, error: Exception) -> Response:
    _log.error("%s %s failed: %s", request.method, request.url.path[:200], error)
    return _error("internal error; the server's log says more", 500)
