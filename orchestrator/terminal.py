"""The terminal: streams, signals, output of libraries, and the end of the process."""

import argparse
import atexit
import io
import logging
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO, TypeAlias

import shtab
from rich.console import Console

from orchestrator.errors import Interrupted


class Subparser(argparse.ArgumentParser):
    """argparse with this project's form of an error."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"command line: {message}\n{self.format_usage()}")


class Parser(Subparser):
    """argparse for one of the commands: its own name in the help, this project's form of an error.

    Args:
        module: Of the command, as in ``python -m orchestrator.study``.
        command: The same, as it is installed.
        description: For ``--help``.
    """

    def __init__(self, module: str, command: str, description: str) -> None:
        installed = Path(sys.argv[0]).name == command
        super().__init__(
            prog=command if installed else f"python -m {module}", description=description
        )
        self.add_argument("--version", action="version", version=_version())
        shtab.add_argument_to(
            self,
            "--print-completion",
            help="print what makes a shell complete this command",
            preamble={},
        )


def _version() -> str:
    try:
        return f"ulrl-orchestrator {version('ulrl-orchestrator')}"
    except PackageNotFoundError:
        return "ulrl-orchestrator, not installed"


def program(name: str) -> str:
    """Return how to call a program of this environment: by name if the PATH finds it."""
    beside = Path(sys.executable).with_name(name)
    found = shutil.which(name)
    if found is not None and Path(found).absolute() == beside.absolute():
        return name
    return str(shown(beside)) if beside.exists() else name


def shown(path: Path) -> Path:
    """Return a path relative to the working directory where it lies below it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


class _Tolerant(io.RawIOBase):
    """A file descriptor at which a failed write is dropped: the pipe is closed, the disk full.

    `fd` stays open when this is closed; `former` is kept alive, since it would close `fd`.
    """

    def __init__(self, fd: int, former: object = None) -> None:
        self._fd, self._former = fd, former
        self.failure: OSError | None = None  # of the last write

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


LIBRARIES = ("ray", "ray.data", "ray.train", "ray.tune", "timm")


def hush_libraries(*, verbose: bool) -> None:
    """Keep libraries' log messages and progress bars off the terminal unless `verbose`."""
    if verbose:
        return
    # Read when the library is imported; workers inherit them.
    os.environ |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_VERBOSITY": "critical"}
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.CRITICAL)


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
        streams = (sys.stdout, sys.stderr)
        for stream in streams:
            stream.flush()
        with log.open("a") as file:
            for fd in (1, 2):
                os.dup2(file.fileno(), fd)
        own = console.file is sys.__stdout__
        if own:
            console.file = out
        try:
            yield Console(file=err, highlight=False)
        finally:
            for stream in (*streams, out, err):
                stream.flush()
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


PLAIN_EVERY = 10.0  # seconds between plain lines

# Ctrl-C, `kill`, a closed terminal, and what batch systems send before they kill: each of them
# would end the process without a word. Not every system has all of them.
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
OBEYED = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))
SPARED = frozenset(OBEYED) - {signal.SIGINT, signal.SIGTERM}  # Ray's processes handle these two
HANGUP = getattr(signal, "SIGHUP", None)

_Handler: TypeAlias = "Callable[[int, FrameType | None], Any] | int | None"


class Interrupts:
    """Remembers the first signal; the same one again does what it does by default.

    Only SIGHUP does not: of a closed terminal a process often hears twice.
    """

    def __init__(self) -> None:
        self.signum: int | None = None

    def check(self) -> None:
        """Raise ``Interrupted`` if a signal came."""
        if self.signum is not None:
            raise Interrupted(self.signum)

    @contextmanager
    def watched(self) -> Iterator["Interrupts"]:
        """Listen until left; outside the main thread, where Python hears no signal, do nothing."""
        former = self.listen()
        try:
            yield self
        finally:
            for signum, handler in former.items():
                if signum != self.signum:  # the second one does what it does by default
                    signal.signal(signum, handler)

    def listen(self) -> "dict[signal.Signals, _Handler]":
        """Listen from now on, whatever a library has set since; return the handlers replaced."""
        if threading.current_thread() is not threading.main_thread():
            return {}
        former = {signum: signal.getsignal(signum) for signum in OBEYED}
        if former.get(HANGUP) is signal.SIG_IGN:  # `nohup`
            del former[HANGUP]
        for signum, handler in former.items():
            if handler != self._note and signum != self.signum:
                signal.signal(signum, self._note)
        return former

    def _note(self, signum: int, frame: FrameType | None) -> None:
        del frame
        self.signum = signum
        again = signal.SIG_IGN if signum == HANGUP else signal.SIG_DFL
        signal.signal(signum, again)


@contextmanager
def spared() -> Iterator[None]:
    """Let what this thread starts now not hear of a closed terminal and of batch systems.

    They signal all processes of a job: Ray's would end at once, under a study that is to end
    well. A signal that comes before this is left waits.
    """
    former = signal.pthread_sigmask(signal.SIG_BLOCK, SPARED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def as_process(main: Callable[[], int]) -> int:
    """Be what a process runs, and let it end at once when that has returned its exit code.

    Python takes every object apart at the end, two seconds after a study. What was registered for
    the end still runs, threads are waited for, and an exception ends the process in Python's own
    way. What it prints cannot change its exit code.
    """
    be_tolerant()
    codes: list[int] = []
    atexit.register(_leave, codes)  # the first to be registered is the last to run
    codes.append(main())
    return codes[0]


def _leave(codes: list[int]) -> None:
    if not codes:
        return
    logging.shutdown()  # perhaps registered before this
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):  # none, gone or closed: Python has a word
            return
    os._exit(codes[0])
