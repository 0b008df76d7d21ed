"""Other encoders as benchmarks/encoder.py times them: as Python programs call them, on BGR frames."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np


def python_encoders(quality: int, subsampling: str) -> dict[str, Callable[[np.ndarray], bytes]]:
    """Other encoders as Python programs call them, on BGR frames."""
    found: dict[str, Callable[[np.ndarray], bytes]] = {}
    is_420 = subsampling == "420"
    factor = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420 if is_420 else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor]
    found[f"OpenCV {cv2.__version__}"] = lambda frame: cv2.imencode(".jpg", frame, options)[1].tobytes()
    if importlib.util.find_spec("PIL"):
        import io

        import PIL
        from PIL import Image

        def pillow(frame: np.ndarray) -> bytes:
            file = io.BytesIO()
            image = Image.fromarray(frame[..., ::-1])
            image.save(file, "JPEG", quality=quality, subsampling=2 if is_420 else 0)
            return file.getvalue()

        found[f"Pillow {PIL.__version__}"] = pillow
    if importlib.util.find_spec("simplejpeg"):
        import simplejpeg

        found["simplejpeg"] = lambda frame: simplejpeg.encode_jpeg(
            frame, quality=quality, colorspace="BGR", colorsubsampling=subsampling
        )
    if importlib.util.find_spec("turbojpeg"):
        import turbojpeg

        sampling = turbojpeg.TJSAMP_420 if is_420 else turbojpeg.TJSAMP_444
        try:
            turbo = turbojpeg.TurboJPEG()
            name = f"PyTurboJPEG {importlib.metadata.version('PyTurboJPEG')}"
            found[name] = lambda frame: turbo.encode(frame, quality=quality, jpeg_subsample=sampling)
        except (OSError, RuntimeError) as error:
            # Version 2 wants libturbojpeg 3; before it there is Debian's libturbojpeg0.
            reason = " ".join(str(error).split())
            print(f"PyTurboJPEG is left out: {reason}; with libturbojpeg 2 install PyTurboJPEG<2", file=sys.stderr)
    return found | peers_with_other_settings(quality, is_420)


def peers_with_other_settings(quality: int, is_420: bool) -> dict[str, Callable[[np.ndarray], bytes]]:
    """mozjpeg and jpegli at their own defaults, which are not the work that the others do."""
    found: dict[str, Callable[[np.ndarray], bytes]] = {}
    if importlib.util.find_spec("jpeglib"):
        import jpeglib

        file = Path(tempfile.gettempdir()) / f"edgejpeg-benchmark-{os.getpid()}.jpg"

        def mozjpeg(frame: np.ndarray) -> bytes:
            image = jpeglib.from_spatial(np.ascontiguousarray(frame[..., ::-1]))
            image.samp_factor = ((2, 2), (1, 1), (1, 1)) if is_420 else ((1, 1), (1, 1), (1, 1))
            with jpeglib.version("mozjpeg403"):
                image.write_spatial(str(file), qt=quality)
            data = file.read_bytes()
            file.unlink()
            return data

        found["mozjpeg 4.0.3 (jpeglib: own tables, trellis, progressive)"] = mozjpeg
    if importlib.util.find_spec("pyjpegli") and is_420:  # which has no other subsampling
        import pyjpegli

        found["jpegli (pyjpegli: own tables, adaptive quantization)"] = lambda frame: pyjpegli.encode(
            frame[..., ::-1].tobytes(), frame.shape[1], frame.shape[0], quality
        )
    return found


def missing_packages() -> list[str]:
    wanted = {"PIL": "Pillow", "simplejpeg": "simplejpeg", "turbojpeg": "PyTurboJPEG"}
    wanted |= {"jpeglib": "jpeglib (mozjpeg)", "pyjpegli": "pyjpegli (jpegli)"}
    return [name for module, name in wanted.items() if importlib.util.find_spec(module) is None]
