"""``edgejpeg serve`` as a process of its own, on a loopback port of the system's choice."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def serving(model: Path | str, cwd: Path | str = "/", seconds: float = 120) -> Iterator[str]:
    """The server's URL; afterwards it must end by SIGTERM with exit code 0. It is killed after ``seconds``."""
    process = subprocess.Popen(
        [sys.executable, "-m", "edgejpeg", "serve", "--port", "0", "--model", str(model)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd,
    )  # fmt: skip
    watchdog = threading.Timer(seconds, process.kill)
    watchdog.start()
    try:
        lines: list[str] = []
        while not lines or not lines[-1].startswith("try: "):
            lines.append(process.stdout.readline().strip())
            assert lines[-1], process.stderr.read()
        yield lines[0].split()[-1]
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    finally:
        watchdog.cancel()
        if process.poll() is None:
            process.kill()
        process.communicate()
