"""The terminal for the study alone: what libraries write goes to a file meanwhile."""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

from rich.console import Console

from orchestrator.streams import tolerant


@contextmanager
def apart(console: Console, log: Path, *, verbose: bool) -> Iterator[Console]:
    """Send all that this process and its children write to a file, but for `console`.

    Yields a console on the real standard error. With `verbose` nothing is redirected.
    """
    if verbose:
        yield Console(stderr=True, highlight=False)
        return
    with ExitStack() as stack:
        out, err = (stack.enter_context(_copy(fd)) for fd in (1, 2))
        sys.stdout.flush()
        sys.stderr.flush()
        with log.open("a") as file:
            for fd in (1, 2):
                os.dup2(file.fileno(), fd)
        own = console.file is sys.__stdout__
        if own:
            console.file = out
        try:
            yield Console(file=err, highlight=False)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            out.flush()
            err.flush()
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            if own:
                console.file = sys.stdout
            if not log.stat().st_size:
                log.unlink()


@contextmanager
def _copy(fd: int) -> Iterator[TextIO]:
    """Yield a stream on a copy of a file descriptor, in the encoding of standard output."""
    copy = os.dup(fd)
    stream = tolerant(copy, getattr(sys.stdout, "encoding", None) or "utf-8")
    try:
        yield stream
    finally:
        stream.close()
        os.close(copy)
