"""The folder of a training run: checkpoint, metrics, and in the end weights, profile and a report."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgejpeg._optional import require
from edgejpeg.errors import DataError, InvalidInputError

CHECKPOINT, METRICS, WEIGHTS, LAYER, PROFILE, REPORT = (
    "checkpoint.pt", "metrics.jsonl", "weights.safetensors", "layer.safetensors", "profile.toml", "run.json",
)  # fmt: skip


@dataclass(frozen=True)
class RunFolder:
    """A folder with the state of a run.

    Attributes:
        path: it is made when it does not exist. Files are replaced in one step, so a reader never sees half of one.
        configuration: plain values. A checkpoint of another configuration is refused.
    """

    path: Path
    configuration: Mapping[str, Any]

    def open(self, resume: bool) -> None:
        """Make the folder, and refuse one in which another run is.

        Raises:
            InvalidInputError: there is a run in it and ``resume`` is False, or one of another configuration.
            DataError: the folder cannot be made, or its checkpoint is damaged.
        """
        used = [name for name in (CHECKPOINT, METRICS, WEIGHTS) if (self.path / name).exists()]
        if used and not resume:
            raise InvalidInputError(
                f"{str(self.path)!r} has a run in it already ({', '.join(used)}); --resume continues it, "
                "or give another folder with -o"
            )
        with self._writing("a run"):
            self.path.mkdir(parents=True, exist_ok=True)
        if resume:
            self.load()

    def load(self) -> dict[str, Any] | None:
        """The checkpoint's content; None when there is none yet.

        Raises:
            DataError: it cannot be read.
            InvalidInputError: it belongs to another configuration; the differing keys are named.
        """
        path = self.path / CHECKPOINT
        if not path.exists():
            return None
        try:
            content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            configuration, state = json.loads(content["configuration"]), content["state"]
        except Exception as error:  # damaged bytes run through a small interpreter, which fails in every way there is
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise DataError(f"cannot read the checkpoint {str(path)!r}: {reason}; delete it to start anew") from error
        wanted = json.loads(json.dumps(dict(self.configuration)))
        different = [
            f"{key} was {configuration.get(key)!r}, is {wanted.get(key)!r}"
            for key in sorted({*configuration, *wanted})
            if configuration.get(key) != wanted.get(key)
        ]
        if different:
            raise InvalidInputError(
                f"the checkpoint {str(path)!r} is of another run: {'; '.join(different)}; give another folder with -o"
            )
        return dict(state)

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint: tensors and plain values."""
        with self._writing(CHECKPOINT):
            temporary = self.path / f".{CHECKPOINT}.writing"
            torch.save({"configuration": json.dumps(dict(self.configuration)), "state": dict(state)}, temporary)
            temporary.replace(self.path / CHECKPOINT)

    def log(self, record: Mapping[str, Any]) -> None:
        """Add a line to ``metrics.jsonl``."""
        with self._writing(METRICS), (self.path / METRICS).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(dict(record), allow_nan=False) + "\n")

    def keep_steps(self, last: int) -> None:
        """Drop the lines of ``metrics.jsonl`` after a step: they will be written again."""
        path = self.path / METRICS
        if not path.exists():
            return
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):  # the last line may have been cut off
                if json.loads(line)["step"] <= last:
                    kept.append(line + "\n")
        with self._writing(METRICS):
            self._replace(METRICS, "".join(kept).encode())

    def write_report(self, document: Mapping[str, Any]) -> None:
        """Write ``run.json``."""
        with self._writing(REPORT):
            self._replace(REPORT, (json.dumps(dict(document), indent=1, allow_nan=False) + "\n").encode())

    def write_weights(self, state: Mapping[str, Tensor], name: str = WEIGHTS) -> str:
        """Write ``weights.safetensors``, which ``--weights`` takes, or another such file, and return its SHA-256."""
        require("safetensors", extra="train", purpose="writing a .safetensors file")
        from safetensors.torch import save

        data = save({key: value.detach().cpu().contiguous() for key, value in state.items()})
        with self._writing(name):
            self._replace(name, data)
        return hashlib.sha256(data).hexdigest()

    def _replace(self, name: str, data: bytes) -> None:
        temporary = self.path / f".{name}.writing"
        temporary.write_bytes(data)
        temporary.replace(self.path / name)

    @contextlib.contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:  # torch.save raises the latter when the disk is full
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise DataError(f"cannot write {what} in {str(self.path)!r}: {reason}; give another with -o") from error
