"""A watch over the Ray under a study: when it dies, Ray itself ends the process, aloud or not."""

import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import psutil
from rich.console import Console

from orchestrator.errors import Unusable

EVERY = 1.0  # seconds between looks
TIMEOUT = 2.0  # seconds for an answer
SILENT = 15  # looks without an answer, after which nobody is there
PATIENCE = 8.0  # seconds for the study to end by itself, once nobody is there


class Guard:
    """Looks from a thread whether Ray is alive, and ends the study when it is not.

    Whoever wants to be told is told first. If nobody ends the study, because it waits inside of
    Ray, the process ends here: whatever was finished is in the store.

    Args:
        alive: Says whether all that a study cannot do without is there.
        errors: Where a user reads what went wrong.

    Attributes:
        dead: Whether it is known not to be.
    """

    def __init__(self, alive: Callable[[], bool], errors: Console) -> None:
        self._alive = alive
        self._errors = errors
        self._tell: Callable[[Exception], None] | None = None
        self._over = threading.Event()
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

    @contextmanager
    def telling(self, tell: Callable[[Exception], None]) -> Iterator[None]:
        """Have `tell` given what ends the study; once this is left, Ray may die."""
        self._tell = tell
        try:
            yield
        finally:
            self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(EVERY):
            if self._alive():
                continue
            self.dead = True
            error = Unusable(
                "Ray is gone: a process of it that the study cannot do without has ended; "
                "nothing finished is lost: mend it, and run the same command again"
            )
            if (tell := self._tell) is not None:
                tell(error)
            if not self._over.wait(PATIENCE):
                self._errors.print(f"error: {error}", markup=False, soft_wrap=True)
                os._exit(Unusable.exit_code)
            return


class Listeners:
    """Alive as long as somebody listens at each of some places.

    Args:
        places: Host and port of each.
    """

    def __init__(self, places: Iterable[tuple[str, int]]) -> None:
        self._silent: dict[tuple[str, int], int] = {}
        self.add(*places)

    def add(self, *places: tuple[str, int]) -> None:
        """Look there as well from now on."""
        self._silent = {**dict.fromkeys(places, 0), **self._silent}  # perhaps read meanwhile

    def __call__(self) -> bool:
        return all(map(self._listens, self._silent))

    def _listens(self, place: tuple[str, int]) -> bool:
        try:
            socket.create_connection(place, timeout=TIMEOUT).close()
        except TimeoutError:
            self._silent[place] += 1
            return self._silent[place] < SILENT
        except OSError:
            return False
        self._silent[place] = 0
        return True


class Daemons:
    """Alive as long as each of some processes that this one has started runs, once it was seen.

    Args:
        names: Of the processes.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._wanted = set(names)
        self._seen: list[psutil.Process] = []

    def __call__(self) -> bool:
        if self._wanted:
            for child in psutil.Process().children():
                self._look_at(child)
        return all(map(_runs, self._seen))

    def _look_at(self, child: psutil.Process) -> None:
        try:
            name = child.name()
        except psutil.Error:
            return
        if name in self._wanted:
            self._wanted.remove(name)
            self._seen.append(child)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
