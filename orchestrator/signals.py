"""Signals that ask a study to end: noticed at once, obeyed at the next safe moment."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeAlias

from orchestrator.errors import Interrupted

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
