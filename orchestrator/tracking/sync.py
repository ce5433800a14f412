"""The thread that empties the outbox, whatever the server does."""

import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from math import inf
from time import monotonic
from typing import Any, Protocol

from orchestrator.errors import sentence
from orchestrator.tracking.records import Record
from orchestrator.tracking.upload_queue import UploadQueue, UploadReceipt

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds between attempts while a server is away
RETIRED = {"in_grid": "False"}  # tag of a run whose scenario or trial left the grid
LOOK = 0.5  # seconds between two looks at a backlog
ATTEMPTS = 3  # for a record that a server refuses; the next run of the study tries again


@dataclass(frozen=True)
class SyncState:
    """What became of the records.

    Attributes:
        delivered: Times that a run was made or brought up to date.
        left: Runs that wait for the next time.
        error: Last thing that went wrong, or None if nothing is left.
    """

    delivered: int
    left: int
    error: str | None


@dataclass(frozen=True)
class StoredRun:
    """A run that a place holds.

    Attributes:
        run: Its id.
        content: What it holds, in the words of the place; None is the record it was made for.
    """

    run: str
    content: Any


class ModelError(Exception):
    """A model cannot be made, now or later; the text says why in one line."""


class TrackingBackend(Protocol):
    """One experiment of one store, connected. Any method may raise anything."""

    name: str  # the same wherever the experiment is reached, another one when it is made again

    def answers(self) -> bool:
        """Return whether the experiment is there to be written."""

    def find(self, study: str, key: str | None = None) -> dict[str, str]:
        """Return run ids by key of the runs made for `study`, at least that of `key`."""

    def deleted(self, study: str) -> set[str]:
        """Return the ids of runs made for `study` that the user deleted."""

    def get(self, run: str) -> StoredRun | None:
        """Return a run, or None if there is none or the user deleted it."""

    def create(self, study: str, record: Record, parent: str | None) -> StoredRun:
        """Make a run for `record` under the run `parent`, empty or with the record in it."""

    def bring(
        self, held: StoredRun, record: Record, parent: str | None, former: Collection[str]
    ) -> tuple[str, ...]:
        """Make a run hold `record` without those of the `former` tags that it lacks.

        Returns the names of the tags that were set.
        """


class SyncWorker:
    """Takes records at once and delivers them in its own time; safe between threads.

    A server that is away is tried again after growing pauses. A record that an answering
    server refuses is set aside, so that the others pass.
    """

    def __init__(
        self, outbox: UploadQueue, place: str, connect: Callable[[], TrackingBackend]
    ) -> None:
        self._outbox, self._name, self._connect = outbox, place, connect
        self._place: TrackingBackend | None = None
        self._change = threading.Condition()
        self._queue: dict[str, None] = {}
        self._refusals: Counter[str] = Counter()
        self._parents: set[str] = set()  # run ids that were there when last looked at
        self._delivered, self._lost, self._error = 0, 0, ""
        self._started = self._closing = self._stopped = self._away = False
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def record(self, record: Record) -> None:
        """Deliver `record` soon; the same record twice is one.

        Raises:
            ValueError: The parent was never recorded.
        """
        try:
            new = self._outbox.add(record)
        except OSError as error:  # a full disk ends the mirror, not the study
            self._lost, self._error = self._lost + 1, sentence(error)
            return
        with self._change:
            # Woken for nothing, the thread costs the study more than the record does.
            wake = not self._started or (new and not self._queue)
            self._started = True
            if new:
                self._refusals.pop(record.key, None)
                self._queue[record.key] = None
            if wake:
                self._change.notify_all()

    def flush(
        self, limit: float = inf, *, quiet: float = inf, look: Callable[[int], bool] | None = None
    ) -> None:
        """Wait until all is delivered, the server turns out to be away, or time is up.

        A server that took something since may be away for a minute.

        Args:
            limit: Seconds to wait at most.
            quiet: Seconds to wait at most without an arrival.
            look: Told now and then how many records are left, 0 while the server is not reached,
                says whether to wait on.
        """
        with self._change:
            self._started, self._away = True, False
            self._change.notify_all()
            first = seen = self._delivered
        began = last = monotonic()
        while True:
            with self._change:
                step = min(LOOK, began + limit - monotonic())
                if self._change.wait_for(lambda: self._over(first), max(0.0, step)):
                    return
                left = 0 if self._place is None else len(self._queue)
                patience = LONGEST_PAUSE if self._away else quiet
                if self._delivered > seen:
                    seen, last = self._delivered, monotonic()
            now = monotonic()
            if now - began >= limit or now - last >= patience:
                return
            if look is not None and not look(left):
                return

    def _over(self, first: int) -> bool:
        """Return whether all is delivered, or nothing since the `first` and the server is away."""
        if self._away:
            return self._delivered == first
        return self._place is not None and not self._queue

    def close(self, timeout: float) -> SyncState:
        """Deliver what can be delivered within `timeout` seconds, then stop for good."""
        with self._change:
            self._started = self._closing = True
            self._change.notify_all()
        self._thread.join(timeout)
        self._stopped = True
        self._outbox.close()
        left = len(self._outbox.pending(self._name)) + self._lost
        error = self._error or f"not finished within {timeout:g} s"
        return SyncState(delivered=self._delivered, left=left, error=error if left else None)

    def retire(self, present: Collection[str]) -> None:
        """Mark the runs whose keys are not `present`; a later record of a key takes it back."""
        for key in self._outbox.keys:
            if key in present or self._retired(key):
                continue
            record, _ = self._outbox.read(key)
            best = {"best": "False"} if "best" in record.tags else {}
            self.record(replace(record, tags={**record.tags, **best, **RETIRED}))

    def _retired(self, key: str) -> bool:
        return self._outbox.read(key)[0].tags.items() >= RETIRED.items()

    def runs(self) -> Mapping[str, str]:
        """Return run ids by key, of all that has arrived in this run of the study or before."""
        receipts = self._outbox.receipts(self._name)
        return {key: receipt.run for key, receipt in receipts.items() if receipt.digest}

    def _work(self) -> None:
        # No connection before there is something to do.
        with self._change:
            self._change.wait_for(lambda: self._started)
        pause = FIRST_PAUSE
        while not self._stopped:
            key = None
            try:
                place = self._reach()
                key = self._next()
                if key is None:
                    return
                self._deliver(place, key)
                pause = FIRST_PAUSE
            except Exception as error:  # noqa: BLE001 - whatever happens here, the study goes on
                self._error = sentence(error)
                if key is not None and self._answers():
                    self._set_back(key)
                    continue
                with self._change:
                    self._place, self._away = None, True
                    self._change.notify_all()
                    if self._closing:
                        return
                    self._change.wait_for(lambda: self._closing or not self._away, pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    def _reach(self) -> TrackingBackend:
        if self._place is None:
            place = self._connect()
            self._name = place.name
            if not self._outbox.receipts(place.name):  # a lost outbox, or a place not seen before
                for key, run in place.find(self._outbox.study).items():
                    self._outbox.acknowledge(place.name, key, UploadReceipt(run=run))
            deleted = place.deleted(self._outbox.study)  # to be made again
            for key, receipt in self._outbox.receipts(place.name).items():
                if receipt.run in deleted and not self._retired(key):
                    self._outbox.forget(place.name, key)
            self._parents.clear()
            with self._change:
                self._place, self._away = place, False
                self._refill()
        return self._place

    def _refill(self) -> None:
        with self._change:
            waiting = self._outbox.pending(self._name)
            self._queue = {key: None for key in waiting if self._refusals[key] < ATTEMPTS}
            self._change.notify_all()

    def _next(self) -> str | None:
        """Wait for a key to deliver and return it; None is the end."""
        with self._change:
            self._change.wait_for(lambda: self._queue or self._closing)
            return next(iter(self._queue), None)

    def _answers(self) -> bool:
        try:
            return self._place is not None and self._place.answers()
        except Exception:  # noqa: BLE001 - any failure is a no
            return False

    def _set_back(self, key: str) -> None:
        with self._change:
            self._refusals[key] += 1
            self._queue.pop(key, None)
            if self._refusals[key] < ATTEMPTS:
                self._queue[key] = None
            self._change.notify_all()

    def _deliver(self, place: TrackingBackend, key: str) -> str:
        """Bring the run of `key` up to date and return its id."""
        record, digest = self._outbox.read(key)
        parent = None if record.parent is None else self._parent(place, record.parent)
        before = self._outbox.receipt(place.name, key)
        held = None if before is None else place.get(before.run)
        if held is None and self._outbox.intended(place.name, key):
            found = place.find(self._outbox.study, key).get(key)  # made just before a kill?
            held = None if found is None else place.get(found)
        if held is None:
            self._outbox.intend(place.name, key)
            held = place.create(self._outbox.study, record, parent)
        former = () if before is None else before.tags
        tags = place.bring(held, record, parent, former)
        receipt = UploadReceipt(run=held.run, digest=digest, parent_run=parent, tags=tags)
        self._arrive(place, key, receipt, moved=before is not None and before.run != held.run)
        return held.run

    def _parent(self, place: TrackingBackend, key: str) -> str:
        """Return the run id of `key`; a run that the user deleted is made again."""
        receipt = self._outbox.receipt(place.name, key)
        if receipt is None or (receipt.run not in self._parents and place.get(receipt.run) is None):
            return self._deliver(place, key)
        self._parents.add(receipt.run)
        return receipt.run

    def _arrive(
        self, place: TrackingBackend, key: str, receipt: UploadReceipt, *, moved: bool
    ) -> None:
        if self._stopped:
            return
        self._outbox.acknowledge(place.name, key, receipt)
        self._delivered += 1
        if moved:
            self._parents.clear()
            self._refill()
        with self._change:
            if self._outbox.arrived(place.name, key):
                self._queue.pop(key, None)
            self._change.notify_all()
