"""Copies of Optuna's studies in a storage that others can watch while the study runs."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from orchestrator.address import Address, redacted
from orchestrator.plan.jobs import Job, JobResult
from orchestrator.scheduler.callbacks import StudyCallback
from orchestrator.scheduler.decisions import Verdict
from orchestrator.search.storage import Snapshot, StoredStudy, copy_study, open_storage, snapshot

EVERY = 30.0  # seconds between two copies, at first
SHARE = 10  # later a tenth of the time since the start: a copy replaces whole studies


class StorageMirror(StudyCallback):
    """Copies Optuna's studies to a storage, at intervals and at the end.

    Nothing is ever read back into the study. A thread does the copying, so a storage that is
    locked, slow or away costs the study nothing: the next run brings it up to date.

    Attributes:
        error: Why the last copy failed, in one line; "" if it did not.
    """

    def __init__(
        self,
        place: Address | str,
        prefix: str,
        studies: Callable[[], Sequence[StoredStudy]],
        every: float = EVERY,
    ) -> None:
        self._place, self._prefix, self._every = Address.of(place), prefix, every
        self._studies = studies
        self._storage: Any = None  # Optuna's, once it is open
        self._started = time.monotonic()
        self._next = self._started + every
        self._thread: threading.Thread | None = None
        self.error = ""

    def close(self, timeout: float) -> str:
        """Copy what is left and return why it cannot be copied, or ""."""
        until = time.monotonic() + timeout
        for start in (False, True):
            if start:
                self._start()
            if self._thread is not None:
                self._thread.join(max(0.0, until - time.monotonic()))
                if self._thread.is_alive():
                    return self.error or "it does not answer"
        return self.error

    def ended(self, job: Job, result: JobResult) -> None:
        del job, result
        self._tick()

    def decided(self, verdict: Verdict) -> None:
        del verdict
        self._tick()

    def _tick(self) -> None:
        now = time.monotonic()
        busy = self._thread is not None and self._thread.is_alive()
        if now >= self._next and not busy:
            self._next = now + max(self._every, (now - self._started) / SHARE)
            self._start()

    def _start(self) -> None:
        shots = [snapshot(study, self._prefix) for study in self._studies()]
        self._thread = threading.Thread(
            target=self._copy, args=(shots,), name="optuna-storage", daemon=True
        )
        self._thread.start()

    def _copy(self, shots: Sequence[Snapshot]) -> None:
        try:
            self._storage = self._storage or open_storage(self._place.reveal())
            for shot in shots:
                copy_study(shot, self._storage)
            self.error = ""
        except Exception as error:  # noqa: BLE001 - whatever a database does, the study goes on
            self._storage = None
            self.error = _line(error)


def _line(error: Exception) -> str:
    """Return an error in one line, without secrets; a database's own before what wraps it."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = redacted(str(cause)).strip().splitlines() or ["no message"]
    return f"{type(cause).__name__}: {lines[0]}"[:300]
