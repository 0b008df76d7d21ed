"""The exceptions that edgejpeg raises.

::

    EdgeJpegError
    ├── InvalidInputError      (ValueError)       a frame, a table or an option outside what is allowed
    │   ├── BudgetError                           a budget of bytes that no table of a profile can meet
    │   └── BufferTooSmallError                   the file does not fit into the caller's buffer
    ├── JpegFormatError        (ValueError)       bytes that are no JPEG, or a damaged one
    ├── ProfileError           (ValueError)       a profile that cannot be read or does not fit
    ├── ModelError             (ValueError)       an unknown network, or weights that do not fit it
    ├── DataError              (ValueError)       a data folder, label file or video that cannot be used
    ├── ExportError            (RuntimeError)     a lowering step that failed or did not verify
    ├── NativeLibraryError     (RuntimeError)     libedgejpeg is missing, of another version, or failed
    ├── ServerError            (RuntimeError)     the inference server cannot start or answered with an error
    ├── TransportError         (ConnectionError)  the server cannot be reached
    └── MissingDependencyError (ImportError)      an optional package is not installed, or there twice

Every message says what failed, the value received, what is allowed, and what to do next, in one line.
"""

from __future__ import annotations


class EdgeJpegError(Exception):
    """Base class of all errors that edgejpeg raises on purpose."""


class InvalidInputError(EdgeJpegError, ValueError):
    """A frame, a table or an option is outside what is allowed."""


class BudgetError(InvalidInputError):
    """No table meets a budget of bytes.

    Attributes:
        smallest: bytes of the smallest possible file of this frame.
    """

    def __init__(self, message: str, smallest: int = 0) -> None:
        super().__init__(message)
        self.smallest = smallest

    def __reduce__(self) -> tuple[type[BudgetError], tuple[str, int]]:
        return type(self), (str(self), self.smallest)


class BufferTooSmallError(InvalidInputError):
    """The file does not fit into the caller's buffer.

    Attributes:
        needed: the size of the file in bytes.
    """

    def __init__(self, message: str, needed: int) -> None:
        super().__init__(message)
        self.needed = needed

    def __reduce__(self) -> tuple[type[BufferTooSmallError], tuple[str, int]]:
        return BufferTooSmallError, (str(self), self.needed)


class JpegFormatError(EdgeJpegError, ValueError):
    """The bytes are no JPEG, or a damaged one."""


class ProfileError(EdgeJpegError, ValueError):
    """A profile cannot be read, or does not fit the use."""


class ModelError(EdgeJpegError, ValueError):
    """An unknown network, or weights that do not fit it."""


class DataError(EdgeJpegError, ValueError):
    """A data folder, a label file or a video cannot be used."""


class ExportError(EdgeJpegError, RuntimeError):
    """A lowering step failed, or its result does not verify."""


class NativeLibraryError(EdgeJpegError, RuntimeError):
    """libedgejpeg is missing, belongs to another version, or reported a failure."""


class ServerError(EdgeJpegError, RuntimeError):
    """The inference server cannot start, or answered with an error."""


class TransportError(EdgeJpegError, ConnectionError):
    """The server cannot be reached."""


class MissingDependencyError(EdgeJpegError, ImportError):
    """An optional package is not installed, or two that exclude each other are; the message has the pip command."""
