"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from edgejpeg.errors import ExportError


@contextlib.contextmanager
def writing(*targets: Path) -> Iterator[list[Path]]:
    """Temporary files beside the targets, opened at once so that a folder that cannot be written is known before the
    work; moved into place at the end unless they were deleted, removed on any error."""
    temporary = [target.with_name(f".{target.name}.writing") for target in targets]
    try:
        targets[0].parent.mkdir(parents=True, exist_ok=True)
        for file in temporary:
            file.touch()
        yield temporary
        for file, target in zip(temporary, targets, strict=True):
            if file.exists():
                file.replace(target)
    except OSError as error:
        raise ExportError(
            f"cannot write into {targets[0].parent}: {error.strerror or error}; give another folder with -o"
        ) from error
    finally:
        for file in temporary:
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)
