"""The inference server in a process of its own, for as long as a ``with`` block lasts."""

from __future__ import annotations

import selectors
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import IO

from edgejpeg.errors import ServerError

START_S = 60.0
STOP_S = 10.0


class ServerProcess:
    """Serve an ONNX file on a free loopback port, in a child process.

    The child ends with the block: also on Ctrl-C, on an error, and, since it watches a pipe to this process, when this
    process is killed.

    >>> with ServerProcess("model.onnx") as server:
    ...     Sender(server.url)

    Args:
        model: the .onnx file.
        threads: cores for one run of the network.

    Raises:
        ServerError: on entering, when the server does not start; the message has its last words.
    """

    def __init__(self, model: str | Path, *, threads: int = 1) -> None:
        self._command = [sys.executable, "-m", "edgejpeg.demo.child", str(model), str(threads)]
        self._process: subprocess.Popen[str] | None = None
        self._log: IO[str] | None = None
        self.url = ""

    @property
    def pid(self) -> int | None:
        """The child's process id, None outside the block."""
        return None if self._process is None else self._process.pid

    def __enter__(self) -> ServerProcess:
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8")
        try:
            # A session of its own: Ctrl-C in the terminal reaches this process alone, which then stops the child.
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
                start_new_session=True,
            )
            self.url = self._first_line()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the child, gently first; does nothing when it has ended."""
        process, self._process = self._process, None
        if process is not None:
            try:
                if process.stdin is not None:
                    process.stdin.close()
                process.terminate()
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                pass
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
                if process.stdout is not None:
                    process.stdout.close()
        if self._log is not None:
            self._log.close()
            self._log = None

    def _first_line(self) -> str:
        assert self._process is not None and self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(START_S):
                raise ServerError(
                    f"the demo's server gave no sign of life within {START_S:.0f} s; {self._last_words()}"
                )
        line = self._process.stdout.readline().strip()
        if not line:
            self._process.wait(STOP_S)
            raise ServerError(f"the demo's server did not start; {self._last_words()}")
        return line

    def _last_words(self) -> str:
        assert self._log is not None
        self._log.seek(0)
        lines = [line for line in self._log.read().splitlines() if line.strip()]
        return f"its last words: {lines[-1][:300]}" if lines else "it wrote nothing"
