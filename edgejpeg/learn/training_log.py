"""What a training tells while it runs: metrics.jsonl, TensorBoard, and that it has been asked to stop."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

from edgejpeg._optional import require
from edgejpeg.learn.runs import RunFolder

TENSORBOARD = "tensorboard"


class TrainingInterrupted(KeyboardInterrupt):
    """The training was asked to stop, and its state is saved; the message says where."""


class TrainingLog:
    """Records of numbers, to ``metrics.jsonl`` and, if wanted, to TensorBoard below RUN/tensorboard.

    Args:
        folder: of the run; None to write nothing, as in all processes but the first.
        tensorboard: whether to write for TensorBoard, too.
        first_step: where the run goes on; what was written for later steps is dropped.

    Raises:
        MissingDependencyError: TensorBoard is wanted and not installed.
    """

    def __init__(self, folder: RunFolder | None, *, tensorboard: bool, first_step: int) -> None:
        self.folder = folder
        self._writer: Any = None
        if folder is None:
            return
        if tensorboard:
            require("tensorboard", extra="tensorboard", purpose="edgejpeg train --tensorboard")
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder.path / TENSORBOARD), purge_step=first_step + 1)
        folder.keep_steps(first_step)

    def write(self, record: Mapping[str, Any]) -> None:
        """Add a record with a ``step``; nested numbers become ``part/number`` in TensorBoard."""
        if self.folder is None:
            return
        self.folder.log(record)
        if self._writer is not None:
            for name, value in _flat(record):
                if name not in ("step", "epoch"):
                    self._writer.add_scalar(name, value, record["step"])

    def close(self) -> None:
        """Write what TensorBoard has not written yet."""
        if self._writer is not None:
            self._writer.close()


def _flat(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)):
            yield prefix + name, float(value)


class StopRequest:
    """Whether Ctrl-C or SIGTERM has come.

    Attributes:
        wanted: True from the first of them on.
    """

    def __init__(self, patient: bool) -> None:
        self.wanted = False
        self._patient = patient

    @contextlib.contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Take the two signals over for a while, in the main thread; a second Ctrl-C ends at once, unless patient."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._noted) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _noted(self, number: int, frame: FrameType | None) -> None:
        if self.wanted and not self._patient:
            raise KeyboardInterrupt
        self.wanted = True
