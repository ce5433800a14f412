"""Locks on results, so that studies that share a store do not compute the same stage twice.

A lock saves work and decides nothing: where there is none, a result is computed twice and is
the same.
"""

from contextlib import suppress
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

FOLDER = ".locks"


class ResultLock:
    """A lock on one result; the system releases it when its process ends, however that ends.

    Args:
        path: The lock's file; None in a store that is no file system: it has no locks.
    """

    def __init__(self, path: Path | None) -> None:
        # A lock by mere existence (the fallback) would outlive a process that is killed.
        self._lock = None
        if path is not None:
            self._lock = FileLock(path, timeout=0, thread_local=False, fallback_to_soft=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self) -> bool:
        """Return whether this process may compute the result now; if not, another one does.

        It may where no lock can be had: no lock files can be written, or the file system has
        no locks.
        """
        if self._lock is None or self._lock.is_locked:
            return True
        try:
            Path(self._lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout:
            return False
        except OSError:
            return True
        return True

    def release(self) -> None:
        """Release the lock if it is held here, and remove its file."""
        if self._lock is not None and self._lock.is_locked:
            with suppress(OSError):
                Path(self._lock.lock_file).unlink()  # first: nobody locks a file that is gone
            with suppress(OSError):
                self._lock.release()

    def is_held_elsewhere(self) -> bool:
        """Whether another lock on the same result is held now."""
        if self._lock is None or not Path(self._lock.lock_file).exists():
            return False
        with self:
            return not self.acquire()
