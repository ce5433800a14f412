"""A watchdog for the Ray of a study, so that its death ends the study with one clear line."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import psutil
from rich.console import Console

from orchestrator.errors import ResourceError

EVERY = 1.0  # seconds between looks
TIMEOUT = 2.0  # seconds for an answer
SILENT = 25.0  # seconds without an answer, after which Ray counts as gone; its own limit is 60
PATIENCE = 8.0  # seconds for the study to end by itself once Ray is gone
LEAVING = 25.0  # seconds for Ray to let go of this process; from a dead one it takes seven

GONE = (
    "Ray is gone: a process that it needs has ended or does not answer. Finished work is kept. "
    "Fix the cluster and run the same command again."
)


class RayWatchdog:
    """Checks from a thread whether Ray is alive, and ends the study when it is not.

    The handler of `handling` is called first. If the study does not end, because it waits inside
    Ray, the process is ended here; finished results are in the store.

    Args:
        alive: Returns whether every process that a study needs is there.
        errors: Where a user reads what went wrong.
    """

    def __init__(self, alive: Callable[[], bool], errors: Console) -> None:
        self._alive = alive
        self._errors = errors
        self._handler: Callable[[Exception], None] | None = None
        self._over = threading.Event()

    def start(self) -> None:
        """Check from now on, until `leaving` is entered."""
        threading.Thread(target=self._watch, daemon=True).start()

    def watch(self, alive: Callable[[], bool]) -> None:
        """Use another check from now on."""
        self._alive = alive

    @contextmanager
    def handling(self, handler: Callable[[Exception], None]) -> Iterator[None]:
        """Call `handler` with the error that ends the study, while this is entered."""
        self._handler = handler
        try:
            yield
        finally:
            self._handler = None

    @contextmanager
    def leaving(self) -> Iterator[None]:
        """Get out of Ray, or have the process ended; once this is left, Ray may die."""
        self._over.set()
        last = threading.Timer(LEAVING, self._end)
        last.daemon = True
        last.start()
        try:
            yield
        finally:
            last.cancel()

    def _watch(self) -> None:
        while not self._over.wait(EVERY):
            if self._alive():
                continue
            if (handler := self._handler) is not None:
                handler(ResourceError(GONE))
            if not self._over.wait(PATIENCE):
                self._end()
            return

    def _end(self) -> None:
        try:
            if self._errors.is_terminal:  # a live view is left open
                self._errors.print()
                self._errors.show_cursor()
            self._errors.print(f"error: {GONE}", markup=False, soft_wrap=True)
        finally:  # there may be no terminal any more
            os._exit(ResourceError.exit_code)


class Listeners:
    """Alive as long as each of some addresses accepts connections.

    Args:
        places: Host and port of each.
    """

    def __init__(self, places: Iterable[tuple[str, int]]) -> None:
        self._heard = dict.fromkeys(places, time.monotonic())

    def __call__(self) -> bool:
        return all(map(self._listens, self._heard))

    def _listens(self, place: tuple[str, int]) -> bool:
        try:
            socket.create_connection(place, timeout=TIMEOUT).close()
        except ConnectionRefusedError:
            return False
        except OSError:  # a busy host, a network that comes back, no file to spare here
            return time.monotonic() - self._heard[place] < SILENT
        self._heard[place] = time.monotonic()
        return True


class RayDaemons:
    """Alive as long as each of some processes that this one has started runs, once it was seen.

    Args:
        names: Of the processes.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._wanted = set(names)
        self._seen: list[psutil.Process] = []

    def __call__(self) -> bool:
        try:
            if self._wanted:
                for child in psutil.Process().children():
                    self._look_at(child)
            return all(map(_runs, self._seen))
        except OSError:  # no file to spare, say: that is no news of anybody
            return True

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
