"""Standard output and error that take whatever is written, and never end a command."""

import io
import os
import sys
from typing import Any, TextIO


class _Tolerant(io.RawIOBase):
    """A file descriptor at which a failed write is dropped: the pipe is closed, the disk full.

    Args:
        fd: Stays open when this is closed.
        former: Kept alive, since it would close `fd`.

    Attributes:
        failure: Of the last write; None after one that succeeded.
    """

    def __init__(self, fd: int, former: object = None) -> None:
        self._fd, self._former = fd, former
        self.failure: OSError | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return os.isatty(self._fd)

    def write(self, content: Any, /) -> int:
        try:
            written = os.write(self._fd, content)
        except OSError as error:
            self.failure = error
            return memoryview(content).nbytes
        self.failure = None
        return written


def tolerant(fd: int, encoding: str, former: object = None) -> TextIO:
    """Return a text stream on a file descriptor that raises neither OSError nor UnicodeError.

    Characters that the encoding lacks are written as Python's escapes.
    """
    raw = io.BufferedWriter(_Tolerant(fd, former))
    return io.TextIOWrapper(raw, encoding, errors="backslashreplace", line_buffering=True)


def be_tolerant() -> None:
    """Make standard output and error of this process tolerant, where they are open."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None:
            stream = tolerant(stream.fileno(), stream.encoding, stream)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def failure_of(stream: object) -> OSError | None:
    """Return why the last write to a tolerant stream failed; None of any other stream."""
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw.failure if isinstance(raw, _Tolerant) else None
