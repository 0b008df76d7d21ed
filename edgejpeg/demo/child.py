"""The demo's server process: ``python -m edgejpeg.demo.child MODEL THREADS``.

Writes its URL as the first line of standard output, serves on a free loopback port, and ends on SIGTERM or when its
standard input closes. The parent holds the other end of that pipe, so that the server cannot outlive it, however
the parent ends.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from edgejpeg.errors import EdgeJpegError

_GRACE_S = 5.0


def main(model: str, threads: int) -> int:
    """Serve until told to stop; the exit code is 1 when the server could not start."""
    from edgejpeg.runtime.server.model import load_model
    from edgejpeg.runtime.server.serve import run_server
    from edgejpeg.runtime.server.service import InferenceService

    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        service = InferenceService(load_model(model, threads=threads))
        try:
            run_server(service, port=0, on_ready=_announce)
        finally:
            service.close()
    except EdgeJpegError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _announce(url: str) -> None:
    print(url, flush=True)


def _end_with_parent() -> None:
    # The descriptor itself, not sys.stdin, whose lock the interpreter wants when it ends.
    while os.read(0, 4096):
        pass
    threading.Timer(_GRACE_S, os._exit, (1,)).start()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
