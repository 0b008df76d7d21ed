"""edgejpeg: JPEG for machines.

The public names, all reachable from here and loaded when first used, so that ``import edgejpeg`` needs NumPy alone:

>>> import edgejpeg
>>> encoder = edgejpeg.Encoder("efficientnet_lite0")        # OptS tables, designed for every frame
>>> jpeg = encoder.encode(frame)                            # (H, W, 3) uint8 -> a plain baseline JPEG
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

_ROOT = Path(__file__).resolve().parent.parent
if (_ROOT / "export" / "__init__.py").is_file() and (_ROOT / "runtime" / "__init__.py").is_file():
    # A source checkout: export/, runtime/ and models/ stand beside this folder, not inside it, and
    # this folder may shadow an installed edgejpeg, which alone has the compiled library.
    _search = [__path__[0], str(_ROOT), *pkgutil.extend_path(list(__path__), __name__)]
    __path__[:] = list(dict.fromkeys(_search))

from edgejpeg._version import __version__ as __version__  # noqa: E402  (the path comes first)

if TYPE_CHECKING:
    from edgejpeg.errors import EdgeJpegError as EdgeJpegError
    from edgejpeg.jpeg.markers import JpegInfo as JpegInfo
    from edgejpeg.jpeg.markers import parse_jpeg as parse_jpeg
    from edgejpeg.jpeg.tables import QuantTable as QuantTable
    from edgejpeg.jpeg.tables import ijg_tables as ijg_tables
    from edgejpeg.learn.layer import JpegLayer as JpegLayer
    from edgejpeg.models import create_model as create_model
    from edgejpeg.models import list_models as list_models
    from edgejpeg.models import register_model as register_model
    from edgejpeg.profile import Profile as Profile
    from edgejpeg.profile import list_profiles as list_profiles
    from edgejpeg.profile import load_profile as load_profile
    from edgejpeg.runtime.encoder import Encoder as Encoder
    from edgejpeg.runtime.once import encode_jpeg as encode_jpeg

_HOME = {
    "EdgeJpegError": "edgejpeg.errors",
    "Encoder": "edgejpeg.runtime.encoder",
    "JpegInfo": "edgejpeg.jpeg.markers",
    "JpegLayer": "edgejpeg.learn",
    "Profile": "edgejpeg.profile",
    "QuantTable": "edgejpeg.jpeg.tables",
    "create_model": "edgejpeg.models",
    "encode_jpeg": "edgejpeg.runtime.once",
    "ijg_tables": "edgejpeg.jpeg.tables",
    "list_models": "edgejpeg.models",
    "list_profiles": "edgejpeg.profile",
    "load_profile": "edgejpeg.profile",
    "parse_jpeg": "edgejpeg.jpeg.markers",
    "register_model": "edgejpeg.models",
}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
