"""Running sums on disk, so that a long estimate can be continued after an interruption."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgejpeg.errors import DataError, InvalidInputError


@dataclass(frozen=True)
class Checkpoint:
    """A file with the sums and the configuration that they belong to.

    Attributes:
        path: an ``.npz`` file; it is replaced in one step, so a reader never sees half of it.
        configuration: plain values. Sums of another configuration are refused.
    """

    path: Path
    configuration: Mapping[str, Any]

    def load(self, initial: NDArray[np.float64]) -> NDArray[np.float64]:
        """The stored sums, or ``initial`` when there is no file yet.

        Raises:
            DataError: the file cannot be read, or is damaged.
            InvalidInputError: it belongs to another configuration; the differing keys are named.
        """
        if not self.path.exists():
            return initial
        try:
            with np.load(self.path, allow_pickle=False) as stored:
                sums = np.array(stored["sums"], dtype=np.float64)
                configuration = json.loads(str(stored["configuration"]))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(
                f"cannot read the checkpoint {str(self.path)!r}: {error}; delete it to start anew"
            ) from error
        wanted = json.loads(json.dumps(dict(self.configuration)))
        if configuration != wanted:
            keys = sorted({*configuration, *wanted})
            different = [
                f"{key} was {configuration.get(key)!r}, is {wanted.get(key)!r}"
                for key in keys
                if configuration.get(key) != wanted.get(key)
            ]
            raise InvalidInputError(
                f"the checkpoint {str(self.path)!r} is of another configuration: {'; '.join(different)}; "
                "delete it to start anew"
            )
        if sums.shape != initial.shape or not np.isfinite(sums).all():
            raise DataError(f"the checkpoint {str(self.path)!r} is damaged; delete it to start anew")
        return sums

    def save(self, sums: NDArray[np.float64]) -> None:
        """Write the sums.

        Raises:
            DataError: the file cannot be written.
        """
        temporary = self.path.with_name(f".{self.path.name}.writing")
        try:
            with temporary.open("wb") as stream:
                np.savez(stream, sums=sums, configuration=np.array(json.dumps(dict(self.configuration))))
            temporary.replace(self.path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise DataError(f"cannot write the checkpoint {str(self.path)!r}: {error.strerror or error}") from error
