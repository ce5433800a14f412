"""The time an item may take: asked to stop when it is over, its process ended if it cannot."""

import faulthandler
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from orchestrator.errors import TimeLimitExceeded


def grace(seconds: float) -> float:
    """Return how much longer than `seconds` a process lives that does not heed the alarm.

    A driver that learns of each item's start within this time can distinguish a process that
    its limit ended from one that died for another reason.
    """
    return min(60.0, max(3.0, seconds / 10))


class TimeLimit:
    """A clock that runs while an item is worked on, and interrupts it.

    At the limit the main thread gets `TimeLimitExceeded` from an alarm, whatever Python code it is
    in. Code that never comes back to Python does not notice: where the process is
    expendable, a watchdog that needs nothing of Python ends it a grace later.

    Args:
        seconds: Working time; None is no limit.
        expendable: Whether the process may be ended.
    """

    def __init__(self, seconds: float | None, *, expendable: bool) -> None:
        self._left = seconds
        self._grace = grace(seconds) if seconds is not None and expendable else None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let the clock run until left.

        Raises:
            TimeLimitExceeded: The time is over. Only a main thread is interrupted in its work.
        """
        if self._left is None:
            yield
            return
        if self._left <= 0:
            raise TimeLimitExceeded
        started = time.monotonic()
        if self._grace is not None:
            faulthandler.dump_traceback_later(self._left + self._grace, exit=True)
        try:
            with _alarm(self._left):
                yield
        except TimeLimitExceeded:
            _forget_orphans()
            raise
        finally:
            if self._grace is not None:
                faulthandler.cancel_dump_traceback_later()
            self._left -= time.monotonic() - started


def _forget_orphans() -> None:
    """Forget modules whose package was interrupted in its import, and so is imported again.

    Python forgets the package alone. A package that then finds its parts imported has no names
    for them, and fails wherever it is used.
    """
    for name in sorted(sys.modules):  # a package before its parts
        package = name.rpartition(".")[0]
        if package and package not in sys.modules:
            del sys.modules[name]


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raise `TimeLimitExceeded` in this thread after `seconds`; an alarm set before stays."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGALRM, _raise)
    started = time.monotonic()
    others, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if others:
            left = max(1e-6, others - (time.monotonic() - started))
            signal.setitimer(signal.ITIMER_REAL, left, interval)


def _raise(signum: int, frame: FrameType | None) -> None:
    del signum, frame
    raise TimeLimitExceeded
