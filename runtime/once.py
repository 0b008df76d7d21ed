"""One image to one file, with given tables or ordinary JPEG's, without an encoder to keep."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgejpeg.errors import InvalidInputError
from edgejpeg.jpeg.colour import check_subsampling
from edgejpeg.jpeg.tables import QuantTable, ijg_tables
from edgejpeg.runtime.library import NativeEncoder
from edgejpeg.runtime.options import Options
from edgejpeg.runtime.pixels import Frame, check_color, check_yuv_range, picture_of

DEFAULT_QUALITY = 75


def encode_jpeg(
    image: Frame,
    *,
    tables: QuantTable | Sequence[QuantTable | None] | None = None,
    quality: int | None = None,
    subsampling: str = "420",
    color: str = "rgb",
    effort: int = 0,
    threads: int = 1,
    progressive: bool = False,
    container: str = "jfif",
    restart_rows: int = 0,
    orientation: int | None = None,
    exact_huffman: bool = False,
    yuv_range: str = "limited",
) -> bytes:
    """Encode one image with given tables, or with the IJG's at a quality.

    Args:
        image: as in :meth:`edgejpeg.Encoder.encode`. Gray images give one component, whatever ``subsampling`` says.
        tables: ``(luma, chroma)``; a single :class:`QuantTable` (or ``(luma,)``, ``(luma, None)``) is enough where
            the file has one component.
        quality: 1 to 100, for the IJG's tables instead; default 75 when ``tables`` is not given either.
        subsampling: ``"444"``, ``"422"``, ``"420"`` or ``"gray"``, which keeps the luma of a colour image.
        color: ``"rgb"``, ``"bgr"``, ``"rgbx"``, ``"bgrx"``, ``"nv12"``, ``"nv21"``, ``"i420"`` or ``"yuyv"``.
        effort: 0 for stored Huffman tables, 1 for optimal ones.
        threads: 1 to 256.
        progressive, container, restart_rows, orientation, exact_huffman: as for :class:`edgejpeg.Encoder`.
        yuv_range: of YUV images, ``"limited"`` or ``"full"``.

    Raises:
        InvalidInputError: ``tables`` and ``quality`` together, a missing chroma table, or any argument outside what is
            allowed.

    >>> data = encode_jpeg(image, quality=90, subsampling="444")
    """
    picture = picture_of(image, check_color(color))
    check_subsampling(subsampling)
    luma, chroma = _resolve_tables(tables, quality)
    if chroma is None and picture.format != "gray" and subsampling != "gray":
        raise InvalidInputError("a colour JPEG needs a luma and a chroma table; got one: give tables=(luma, chroma)")
    options = Options(
        subsampling,
        effort,
        threads,
        progressive=progressive,
        container=container,
        restart_rows=restart_rows,
        orientation=orientation,
        exact_huffman=exact_huffman,
    )
    native = NativeEncoder(options.subsampling, options.effort, options.threads, **options.fields())
    try:
        native.set_tables(luma.array, None if chroma is None else chroma.array)
        native.set_full_range(check_yuv_range(yuv_range) == "full")
        return native.encode(*picture)
    finally:
        native.close()


def _resolve_tables(
    tables: QuantTable | Sequence[QuantTable | None] | None, quality: int | None
) -> tuple[QuantTable, QuantTable | None]:
    if tables is None:
        return ijg_tables(DEFAULT_QUALITY if quality is None else quality)
    if quality is not None:
        raise InvalidInputError(f"tables and quality={quality!r} were both given; give one of them")
    if not isinstance(tables, (QuantTable, Iterable)):
        raise InvalidInputError(f"tables is (luma, chroma), each a QuantTable; got {type(tables).__name__}")
    given: list[QuantTable | None] = [tables] if isinstance(tables, QuantTable) else list(tables)
    if len(given) == 1:
        given.append(None)
    if len(given) != 2 or not isinstance(given[0], QuantTable) or not isinstance(given[1], (QuantTable, type(None))):
        raise InvalidInputError(
            f"tables is (luma, chroma), each a QuantTable; got {[type(table).__name__ for table in given]}"
        )
    return given[0], given[1]
