"""The wait for MLflow at the end of a study: as long as records arrive, in a person's sight."""

import time
from contextlib import nullcontext
from typing import TYPE_CHECKING

from rich.console import Console
from rich.status import Status

from orchestrator.plural import span
from orchestrator.signals import PLAIN_EVERY, Interrupts

if TYPE_CHECKING:
    from orchestrator.tracker import Tracker

QUIET_SECONDS = 300.0  # without an arrival; a large model may take minutes to make
SILENT_SECONDS = 5.0  # before a person is told of the wait


class Backlog:
    """Waits until MLflow has everything, and says what is left whenever that changes.

    Args:
        tracker: What delivers.
        console: Where to write.
        interrupts: The first signal ends every wait; what is left stays for the next start.
    """

    def __init__(self, tracker: "Tracker", console: Console, interrupts: Interrupts) -> None:
        self._tracker, self._console, self._interrupts = tracker, console, interrupts

    def wait(self) -> None:
        """Wait until all is delivered, the server is away or nothing arrives any more."""
        began, most, said = time.monotonic(), 0, ""
        due = began + SILENT_SECONDS
        self._tracker.hurry()
        live = self._console.status("") if self._console.is_terminal else nullcontext()

        with live as status:

            def look(left: int) -> bool:
                nonlocal most, due, said
                now, most = time.monotonic(), max(most, left)
                what = _waiting(left, model=self._tracker.makes_model)
                pace = (most - left) / max(now - began, 0.1)
                rest = f", about {span(left / pace)}" if left and pace else ""
                text = f"{what}{rest}; Ctrl-C leaves its records for the next start"
                if isinstance(status, Status):
                    status.update(text)
                elif now >= due and what != said:
                    due = now + max(PLAIN_EVERY, (now - began) / 4)  # ever fewer lines
                    said = what
                    self._console.print(text, soft_wrap=True)
                return self._interrupts.signum is None

            self._tracker.flush(quiet=QUIET_SECONDS, look=look)


def _waiting(left: int, *, model: bool) -> str:
    """Return what is waited for; of 0 records that are left nothing is known yet."""
    if not left:
        return "MLflow does not answer yet"
    records = "record" if left == 1 else "records"
    making = ", now the files of a model" if model else ""
    return f"MLflow takes {left:,} more {records}{making}"
