"""Say what a JPEG, a profile, an ONNX file or an engine is: tables, sizes, subsampling, provenance."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

HELP = "describe a JPEG, a profile, an ONNX file or an engine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    parser.add_argument("file", metavar="FILE", help=".jpg, .toml, .onnx, .engine, .rtx, or a shipped profile's name")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--c-header",
        type=Path,
        metavar="OUT.h",
        help="write the profile as a header for programs in C, and print nothing",
    )


def run(args: argparse.Namespace) -> int:
    """Describe the file."""
    from edgejpeg.errors import DataError
    from edgejpeg.profile import list_profiles, load_profile

    path = Path(args.file)
    if args.c_header is not None:
        return _write_c_header(args.file, args.c_header)
    if not path.exists() and args.file in list_profiles():
        document = _profile(load_profile(args.file))
    elif path.suffix in (".engine", ".rtx"):
        from edgejpeg.runtime.engine_info import check_engine

        document = {"type": "engine", **check_engine(path).to_document()}
    elif path.suffix == ".toml":
        document = _profile(load_profile(path))
    else:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror or error}") from error
        document = _onnx(path) if path.suffix == ".onnx" else _jpeg(data)
    print(json.dumps(document, indent=2) if args.json else "\n".join(_lines(document)))
    return 0


def _write_c_header(profile: str, target: Path) -> int:
    from edgejpeg.errors import DataError
    from edgejpeg.profile import load_profile
    from edgejpeg.runtime.c_header import profile_header

    text = profile_header(load_profile(profile))
    try:
        target.write_text(text, encoding="ascii")
    except OSError as error:
        raise DataError(f"cannot write {target}: {error.strerror or error}; give another --c-header") from error
    return 0


def _jpeg(data: bytes) -> dict[str, Any]:
    from edgejpeg.jpeg.markers import parse_jpeg

    info = parse_jpeg(data)
    return {
        "type": "JPEG",
        "process": info.process,
        "width": info.width,
        "height": info.height,
        "components": len(info.components),
        "subsampling": info.subsampling,
        "precision": info.precision,
        "bytes": info.size,
        "bits_per_pixel": round(info.bits_per_pixel, 4),
        "scan_bytes": info.scan_bytes,
        "scans": info.scans,
        "restart_interval": info.restart_interval,
        "complete": info.complete,
        "trailing_bytes": info.trailing,
        "comments": [c.decode("utf-8", "replace") for c in info.comments],
        "tables": {str(number): table.tolist() for number, table in sorted(info.tables.items())},
    }


def _profile(profile: Any) -> dict[str, Any]:
    document = profile.to_document()
    section = document.pop(profile.kind)
    provenance = document.pop("provenance")
    return {"type": "profile", **document, "profile_id": profile.profile_id, **section, "provenance": provenance}


def _onnx(path: Path) -> dict[str, Any]:
    from edgejpeg._optional import require
    from edgejpeg.errors import DataError

    onnx = require("onnx", extra="export", purpose="edgejpeg info on an ONNX file")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # onnx passes on whatever its protobuf parser raises
        raise DataError(f"{path} is no ONNX file: {error}") from error
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    try:
        own = json.loads(metadata.pop("edgejpeg", "null"))
    except ValueError as error:
        raise DataError(f"{path} has damaged edgejpeg metadata: {error}") from error
    return {
        "type": "ONNX",
        "bytes": path.stat().st_size,
        "ir_version": model.ir_version,
        "opsets": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "inputs": [_value(v, onnx) for v in model.graph.input],
        "outputs": [_value(v, onnx) for v in model.graph.output],
        "nodes": len(model.graph.node),
        "functions": [f"{f.domain}::{f.name}" for f in model.functions],
        "metadata": metadata,
        "edgejpeg": own,
    }


def _value(value: Any, onnx: Any) -> str:
    kind = value.type.tensor_type
    dims = [str(d.dim_param or d.dim_value or "?") for d in kind.shape.dim]
    return f"{value.name}: {onnx.TensorProto.DataType.Name(kind.elem_type).lower()}[{', '.join(dims)}]"


def _lines(document: dict[str, Any], indent: str = "") -> Iterable[str]:
    for key, value in document.items():
        label = f"{indent}{key.replace('_', ' ')}"
        if isinstance(value, dict):
            yield f"{label}:"
            yield from _lines(value, indent + "  ")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for index, entry in enumerate(value):
                yield f"{label}[{index}]:"
                yield from _lines(entry, indent + "  ")
        elif isinstance(value, list) and value and isinstance(value[0], list):
            yield f"{label}:"
            for row in value:
                yield indent + "  " + " ".join(f"{v:>4}" if isinstance(v, int) else f"{v:9.2e}" for v in row)
        elif isinstance(value, list):
            shown = value if len(value) <= 12 else [*value[:3], f"... ({len(value)} in all)"]
            yield f"{label}: {', '.join(map(str, shown)) or 'none'}"
        else:
            yield f"{label}: {value}"
