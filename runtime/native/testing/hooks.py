"""Builds and loads the test hooks (hooks.cpp) with the compile flags of the library; not part of the package."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from ctypes import c_double, c_int32, c_size_t, c_void_p
from pathlib import Path

from numpy.ctypeslib import ndpointer

SOURCE = Path(__file__).resolve().parent.parent

ENCODE = ctypes.CFUNCTYPE(c_size_t, c_double)
ESTIMATE = ctypes.CFUNCTYPE(c_double, c_double)


class FrameModel(ctypes.Structure):
    """As in hooks.cpp; the pointers are addresses of NumPy arrays that the caller keeps."""

    _fields_ = [
        ("statistics", c_void_p),
        ("sensitivity", c_void_p),
        ("luma_water_level", c_double),
        ("chroma_water_level", c_double),
        ("q_max", c_int32),
        ("effort", c_int32),
        ("tables", c_void_p * 2),
        ("dead_zone", c_void_p * 2),
    ]


def tool(name: str) -> str | None:
    """A build tool of this interpreter's environment, or of the machine."""
    return shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


def load_hooks(folder: Path) -> ctypes.CDLL:
    """Build the hooks in a folder, unless they are there and up to date, and load them."""
    cmake = tool("cmake")
    if cmake is None:
        raise FileNotFoundError("cmake, which builds the test hooks, is not installed")
    steps = [
        [cmake, "-S", str(SOURCE), "-B", str(folder), "-DCMAKE_BUILD_TYPE=Release"],
        [cmake, "--build", str(folder), "--target", "edgejpeg_hooks"],
    ]
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(step)} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    library = ctypes.CDLL(str(folder / "libedgejpeg_hooks.so"))
    doubles, octets, levels = ndpointer("f8", flags="C"), ndpointer("u1", flags="C"), ndpointer("i2", flags="C")
    signatures = {
        "hook_trellis": (
            None,
            [c_void_p, c_int32, c_size_t, doubles, doubles, octets, octets, c_double, c_int32, levels],
        ),
        "hook_laplace_entropy": (c_double, [c_double] * 3),
        "hook_model_bytes": (c_double, [ctypes.POINTER(FrameModel), c_double]),
        "hook_model_invert": (c_double, [ctypes.POINTER(FrameModel), c_double, c_double]),
        "hook_search": (
            c_int32,
            [ctypes.POINTER(FrameModel), c_size_t, c_double, c_int32, ENCODE, ESTIMATE, doubles],
        ),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
