"""Optuna's storage kept up to date while a study runs, by a thread that may fail or hang."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence

from orchestrator.address import Address, redacted
from orchestrator.plan.jobs import Job, JobResult
from orchestrator.scheduler.callbacks import StudyCallback
from orchestrator.scheduler.decisions import Verdict
from orchestrator.search.storage import Snapshot, StoredStudy, Writer, open_storage, snapshot

EVERY = 10.0  # seconds between two looks at what is new


class StorageMirror(StudyCallback):
    """An observer that writes what Optuna's studies decide to a storage that others can read.

    Nothing is ever read back into the study, so a storage that is locked, slow or away costs
    the study nothing: it is written to when it can be, at the latest by the next run.
    """

    def __init__(
        self,
        place: Address | str,
        prefix: str,
        kept: Callable[[], Sequence[StoredStudy]],
        every: float = EVERY,
    ) -> None:
        self._place, self._prefix, self._kept, self._every = Address.of(place), prefix, kept, every
        self._next = 0.0
        self._work: queue.Queue[tuple[list[Snapshot], bool]] = queue.Queue(maxsize=1)
        self._done = threading.Event()
        self._last: dict[str, tuple[int, ...]] = {}
        self.error = ""  # why the storage is behind, in one line; "" if it is not
        self._thread = threading.Thread(target=self._follow, name="optuna-storage", daemon=True)

    def close(self, timeout: float) -> str:
        """Write what is left and return why it cannot be written, or ""."""
        until = time.monotonic() + timeout
        self._last.clear()
        with contextlib.suppress(queue.Empty):
            self._work.get_nowait()  # older than what follows
        try:
            self._work.put((self._news(), True), timeout=timeout)
        except queue.Full:
            return self.error or "it does not answer"
        self._begin()
        if not self._done.wait(max(0.0, until - time.monotonic())):
            return self.error or "it does not answer"
        return self.error

    def ended(self, item: Job, result: JobResult) -> None:
        del item, result
        self._tick()

    def decided(self, verdict: Verdict) -> None:
        del verdict
        self._tick()

    def _tick(self) -> None:
        if time.monotonic() < self._next or self._work.full():
            return
        self._next = time.monotonic() + self._every
        if news := self._news():
            self._begin()
            with contextlib.suppress(queue.Full):
                self._work.put_nowait((news, False))

    def _begin(self) -> None:
        if not self._thread.is_alive() and not self._done.is_set():
            with contextlib.suppress(RuntimeError):  # it has begun and ended
                self._thread.start()

    def _news(self) -> list[Snapshot]:
        """Return the studies that changed since they were last handed over."""
        news = []
        for kept in self._kept():
            shot = snapshot(kept, self._prefix, live=not kept.name.startswith("scenario"))
            finished = sum(trial.state.is_finished() for trial in shot.trials)
            steps = sum(len(trial.intermediate_values) for trial in shot.trials)
            size = (len(shot.trials), finished, steps)
            if self._last.get(shot.name) != size:
                self._last[shot.name] = size
                news.append(shot)
        return news

    def _follow(self) -> None:
        waiting: dict[str, Snapshot] = {}
        writer: Writer | None = None
        final = False
        while not final:
            shots, final = self._work.get()
            waiting |= {shot.name: shot for shot in shots}
            try:
                writer = writer or Writer(open_storage(self._place.reveal()))
                for name in list(waiting):
                    writer.write(waiting[name], final=final)
                    del waiting[name]
                self.error = ""
            except Exception as error:  # noqa: BLE001 - whatever a database does, the study goes on
                writer = None
                self.error = _line(error)
        self._done.set()


def _line(error: Exception) -> str:
    """Return an error in one line, without secrets; a database's own before what wraps it."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = redacted(str(cause)).strip().splitlines() or ["no message"]
    return f"{type(cause).__name__}: {lines[0]}"[:300]
