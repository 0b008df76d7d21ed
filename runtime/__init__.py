"""What runs on the device: the encoder on the compiled library. Needs NumPy and nothing else at import.

>>> from edgejpeg.runtime import Encoder, encode_jpeg
"""

if __name__ != "edgejpeg.runtime":
    raise ImportError(f"import this package as edgejpeg.runtime, not as {__name__}")

from edgejpeg.runtime.encoder import Encoder as Encoder
from edgejpeg.runtime.library import library_version as library_version
from edgejpeg.runtime.once import encode_jpeg as encode_jpeg
