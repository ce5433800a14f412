"""Ctrl-C and SIGTERM: noticed at once, obeyed at the next safe moment."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from orchestrator.errors import Interrupted


class Interrupts:
    """Remembers the first SIGINT or SIGTERM; the second does what it does by default."""

    def __init__(self) -> None:
        self.signum: int | None = None

    def check(self) -> None:
        """Raise ``Interrupted`` if a signal came."""
        if self.signum is not None:
            raise Interrupted(self.signum)

    @contextmanager
    def watched(self) -> Iterator["Interrupts"]:
        """Listen until left; entered again (a library may replace handlers), listens on."""
        former = {
            signum: signal.signal(signum, self._note) for signum in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield self
        finally:
            for signum, handler in former.items():
                if signum != self.signum:  # the second one does what it does by default
                    signal.signal(signum, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        del frame
        self.signum = signum
        signal.signal(signum, signal.SIG_DFL)
