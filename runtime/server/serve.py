"""Run the server under uvicorn: address, token and TLS rules, one-line failures, graceful end on SIGINT and SIGTERM."""

from __future__ import annotations

import ipaddress
import signal
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgejpeg._optional import require
from edgejpeg.errors import InvalidInputError, ServerError
from edgejpeg.runtime.server.service import InferenceService

# Connections beyond the queue still cost a socket each: a bound far above what clients need.
MAX_CONNECTIONS = 512
SHUTDOWN_S = 10


def run_server(
    service: InferenceService,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    tls_cert: str | Path | None = None,
    tls_key: str | Path | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM, then finish the requests being worked on and return.

    Args:
        service: the model, its queue and limits; closed by the caller.
        host: name or address to listen on; any but a loopback address needs a token and TLS.
        port: 0 to 65535; 0 takes a free one.
        token: see :func:`~edgejpeg.runtime.server.app.create_app`.
        tls_cert, tls_key: PEM files, both or none.
        on_ready: called with the server's URL once connections are accepted.

    Raises:
        InvalidInputError: an option is outside what is allowed.
        ServerError: the address cannot be used, or the certificate cannot be loaded.
    """
    uvicorn = require("uvicorn", extra="serve", purpose="edgejpeg serve")
    from edgejpeg.runtime.server.app import create_app

    if (tls_cert is None) != (tls_key is None):
        raise InvalidInputError("TLS needs both a certificate and its key: --tls-cert and --tls-key")
    app = create_app(service, token=token)
    if tls_cert is not None and tls_key is not None:
        _check_certificate(tls_cert, tls_key)
    listener = open_listener(host, port, secured=token is not None and tls_cert is not None)
    with listener:
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=SHUTDOWN_S,
            ssl_certfile=None if tls_cert is None else str(tls_cert),
            ssl_keyfile=None if tls_key is None else str(tls_key),
        )
        server = uvicorn.Server(config)
        if on_ready is not None:
            on_ready(listener_url(listener, tls=tls_cert is not None))
        # uvicorn stops gracefully on a signal and then raises it again for the handler it found: one that does nothing
        # turns that into a normal return. Outside the main thread neither it nor Python handles signals.
        in_main = threading.current_thread() is threading.main_thread()
        signals = (signal.SIGINT, signal.SIGTERM) if in_main else ()
        previous = {number: signal.signal(number, _ignore) for number in signals}
        try:
            server.run(sockets=[listener])
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        if not server.started:
            raise ServerError(f"the server did not start on {host}:{port}; its messages above say why")


def open_listener(host: str, port: int, *, secured: bool = False) -> socket.socket:
    """A listening TCP socket.

    Args:
        secured: a token and TLS are there, so that addresses other than loopback are allowed.

    Raises:
        InvalidInputError: an impossible port, or an address that needs a token and TLS.
        ServerError: the name is unknown, or the port occupied or forbidden.
    """
    if not 0 <= port <= 65535:
        raise InvalidInputError(f"port must be 0 to 65535, got {port}")
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ServerError(f"no address for the host {host!r}: {error}") from error
    family, kind, protocol, _, address = found[0]
    if not secured and not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback:
        raise InvalidInputError(
            f"{host or address[0]} can be reached from outside: give --token-file, --tls-cert and --tls-key, "
            "or listen on 127.0.0.1"
        )
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise ServerError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; end what uses it, or choose another --port"
        ) from error
    return listener


def listener_url(listener: socket.socket, *, tls: bool = False) -> str:
    """The URL under which a listening socket is reached."""
    host, port = listener.getsockname()[:2]
    return f"http{'s' if tls else ''}://{f'[{host}]' if ':' in host else host}:{port}"


def read_token(path: str | Path) -> str:
    """A token from the first line of a file.

    Raises:
        InvalidInputError: the file cannot be read or is empty.
    """
    try:
        text = Path(path).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"no token can be read from {path}: {error}") from error
    token = text.strip()
    if not token or len(token.splitlines()) != 1:
        raise InvalidInputError(f"{path} must hold one line, the token; make one with: openssl rand -hex 32 > {path}")
    return token


def _check_certificate(cert: str | Path, key: str | Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # An encrypted key would make OpenSSL ask on the terminal; a server without one would hang there.
        context.load_cert_chain(str(cert), str(key), password=_no_password)
    except (OSError, ValueError) as error:
        raise ServerError(f"TLS cannot use certificate {cert} with key {key}: {error}") from error


def _no_password() -> str:
    raise ValueError("the key is encrypted; give one without a passphrase")


def _ignore(number: int, frame: Any) -> None:
    """A signal handler that does nothing."""
