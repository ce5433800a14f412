"""A watch over the cluster under a study: when it dies, Ray itself ends the process, aloud."""

import os
import socket
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console

from orchestrator.errors import Unusable

EVERY = 1.0  # seconds between looks
TIMEOUT = 2.0  # seconds for an answer
SILENT = 15  # looks without an answer, after which nobody is there
PATIENCE = 8.0  # seconds for the study to end by itself, once nobody is there


class Guard:
    """Looks at addresses from a thread, and ends the study when nobody listens there.

    The study is told first. If it cannot end by itself, because it waits inside of Ray, the
    process ends here: whatever was finished is in the store.

    Args:
        addresses: Host and port of each process that a study cannot do without.
        tell: Takes what ends the study.
        errors: Where a user reads what went wrong.
    """

    def __init__(
        self,
        addresses: Sequence[tuple[str, int]],
        tell: Callable[[Exception], None],
        errors: Console,
    ) -> None:
        self._addresses = addresses
        self._tell = tell
        self._errors = errors
        self._over = threading.Event()
        self._silent = dict.fromkeys(addresses, 0)
        self.dead = False
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(EVERY):
            if all(map(self._listens, self._addresses)):
                continue
            self.dead = True
            error = Unusable(
                "Ray is gone: a process of it that the study cannot do without has ended; "
                "nothing finished is lost: mend it, and run the same command again"
            )
            self._tell(error)
            if not self._over.wait(PATIENCE):
                self._errors.print(f"error: {error}", markup=False, soft_wrap=True)
                os._exit(Unusable.exit_code)
            return

    def _listens(self, address: tuple[str, int]) -> bool:
        try:
            socket.create_connection(address, timeout=TIMEOUT).close()
        except TimeoutError:
            self._silent[address] += 1
            return self._silent[address] < SILENT
        except OSError:
            return False
        self._silent[address] = 0
        return True
