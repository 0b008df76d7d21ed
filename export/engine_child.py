"""The process in which engines are built: the vendors' libraries may abort, and only this process goes with them.

``python -m edgejpeg.export.engine_child REQUEST.json RESULT.json`` is how :func:`run_child` calls itself; a request
without ``onnx`` only asks for the library's version.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgejpeg.errors import EdgeJpegError, ExportError
from edgejpeg.export.engine_build import BuildRequest, build, one_line

_HOURS = 3600


def flavour_of(name: str) -> Any:
    """The vendor's side of a flavour: an object of :mod:`~edgejpeg.export.tensorrt` or :mod:`~edgejpeg.export.rtx`."""
    if name == "tensorrt-rtx":
        from edgejpeg.export.rtx import TensorRtRtx

        return TensorRtRtx()
    from edgejpeg.export.tensorrt import TensorRt, TensorRt85

    return TensorRt85() if name == "tensorrt-8.5" else TensorRt()


def library_version(flavour: str) -> str:
    """The version of the installed library.

    Raises:
        ExportError: it is not installed, cannot be imported, or is of a version that is not supported.
    """
    return str(_call({"flavour": flavour}, flavour, timeout=120)["tensorrt_version"])


def run_child(request: BuildRequest) -> dict[str, Any]:
    """Build an engine in a process of its own; see :func:`edgejpeg.export.engine_build.build` for what comes back.

    Raises:
        ExportError: the build failed, the process died, or it took longer than six hours.
    """
    return _call(asdict(request), request.flavour, timeout=6 * _HOURS)


def _call(request: dict[str, Any], flavour: str, timeout: float) -> dict[str, Any]:
    name = flavour_of(flavour).name
    with tempfile.TemporaryDirectory(prefix="edgejpeg-") as folder:
        ask, answer = Path(folder, "request.json"), Path(folder, "result.json")
        ask.write_text(json.dumps(request), encoding="utf-8")
        command = [sys.executable, "-m", "edgejpeg.export.engine_child", str(ask), str(answer)]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=timeout
            )
        except subprocess.TimeoutExpired as error:
            raise ExportError(f"{name} was stopped after {timeout:g} seconds without an answer") from error
        if done.returncode != 0 or not answer.is_file():
            raise ExportError(_death(name, done))
        result = json.loads(answer.read_text(encoding="utf-8"))
    if "error" in result:
        raise ExportError(result["error"])
    return dict(result)


def _death(name: str, done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    last = one_line(lines[-1]) if lines else "it said nothing"
    if done.returncode < 0:
        what = signal.Signals(-done.returncode).name
        memory = "; memory may have run out: give a smaller --maxShapes" if what == "SIGKILL" else ""
        return f"{name} ended its process ({what}) on this model: {last}{memory}"
    return f"{name} failed in its process (exit code {done.returncode}): {last}"


def main(arguments: list[str]) -> int:
    """Answer one request: read it, do it, write the result or the error as JSON."""
    ask, answer = map(Path, arguments)
    document = json.loads(ask.read_text(encoding="utf-8"))
    flavour = flavour_of(document["flavour"])
    try:
        trt = flavour.load()
        if "onnx" in document:
            result = build(trt, flavour, BuildRequest(**document))
        else:
            result = {"tensorrt_version": str(trt.__version__)}
    except EdgeJpegError as error:
        result = {"error": str(error)}
    except MemoryError:
        result = {"error": f"{flavour.name} ran out of memory; give a smaller --maxShapes, or free memory"}
    except OSError as error:  # a library that the bindings load, or a file of the request
        result = {"error": f"{flavour.name} cannot be used: {one_line(str(error))}"}
    except ImportError as error:
        result = {"error": f"{flavour.name} cannot be imported: {one_line(str(error))}"}
    answer.write_text(json.dumps(result), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
