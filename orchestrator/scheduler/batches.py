"""Batches of jobs: how they are handed to a worker, run there, and reported."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from orchestrator.pipeline.run_job import Steps, steps_of
from orchestrator.pipeline.stages import StageRunner
from orchestrator.plan.jobs import Drawn, Job, JobResult, Progress
from orchestrator.plan.plan import Scenario
from orchestrator.plan.resources import Shares
from orchestrator.scheduler.queue import SHIFT_SECONDS
from orchestrator.scheduler.scheduler import StudyScheduler
from orchestrator.spec.model import Share
from orchestrator.terminal import Interrupts

REPORT_EVERY = 2.0  # seconds between reports of an item that nobody may cut
STREAM_EVERY = 0.25  # the same of one that somebody may
TELL_EVERY = 0.5  # seconds that a finished item waits for others to be told with
PATIENCE = 2 * SHIFT_SECONDS  # after which a shift ends with the item in work


@dataclass(frozen=True, kw_only=True)
class BatchProgress:
    """What a worker tells of its shift.

    Attributes:
        finished: Items that ended since the last news, by name, in order.
        current: The item in work, or "" between two.
        progress: How far that is.
        closing: Whether the shift ends with the item in work, whatever else it holds.
        over: Whether it has ended.
    """

    finished: tuple[tuple[str, JobResult], ...] = ()
    current: str = ""
    progress: Progress | None = None
    closing: bool = False
    over: bool = False


class JobBatch:
    """The worker's side: works through items and says when there is something to tell.

    Attributes:
        bundled: Whether news may wait to be told together.
    """

    def __init__(
        self, workshop: StageRunner, items: Sequence[Job], *, bundled: bool = True
    ) -> None:
        self._workshop = workshop
        self._items = list(reversed(items))
        self._bundled = bundled
        self._begun = time.monotonic()
        self._steps: Steps | None = None
        self._busy = 0.0  # seconds spent on the item in work

    def work(self) -> BatchProgress:
        """Work until there is something to tell."""
        since = time.monotonic()
        finished: list[tuple[str, JobResult]] = []
        while self._items:
            item = self._items[-1]
            result = self._advance(item)
            if isinstance(result, Progress):
                time.sleep(result.pause)  # here, where neither limit nor pace counts it
            waited = time.monotonic() - since
            if isinstance(result, JobResult):
                self._items.pop()
                finished.append((item.name, result))
                if self._closing or result.error or waited >= self._after(TELL_EVERY):
                    break
            elif result.begins or waited >= self._after(_report_every(item)):
                return BatchProgress(
                    finished=tuple(finished),
                    current=item.name,
                    progress=result,
                    closing=self._closing,
                )
        return BatchProgress(finished=tuple(finished), over=self._closing or not self._items)

    def close(self) -> None:
        """Abandon the stage in flight, and what was not begun."""
        self._items.clear()
        if self._steps is not None:
            self._steps.close()

    def _advance(self, item: Job) -> Progress | JobResult:
        """Do the next step of an item."""
        if self._steps is None:
            self._steps, self._busy = steps_of(self._workshop, item), 0.0
            site = self._workshop.site
            if site.expendable and site.limits.seconds(item.stage) is not None:
                return Progress(stage=item.stage, epoch=0, epochs=0, begins=True)
        started = time.perf_counter()
        try:
            return next(self._steps)
        except StopIteration as end:
            self._steps = None
            finished: JobResult = end.value
            return replace(finished, spent=self._busy + time.perf_counter() - started)
        finally:
            self._busy += time.perf_counter() - started

    def _after(self, seconds: float) -> float:
        return seconds if self._bundled else 0.0

    @property
    def _closing(self) -> bool:
        return time.monotonic() - self._begun > PATIENCE


class AssignedBatch:
    """The driver's side: what of a shift is still out, and what its news means."""

    def __init__(self, conductor: StudyScheduler, items: Sequence[Job]) -> None:
        self._conductor = conductor
        self._left = {item.name: item for item in items}

    def take(self, news: BatchProgress) -> bool:
        """Take in news, and return whether the shift should stop here.

        Of a shift that stops or closes, what was not begun goes back to the queue.
        """
        for name, result in news.finished:
            if (item := self._left.pop(name, None)) is not None:
                self._conductor.finished(item, result)
        current = self._left.get(news.current)
        if current is None or news.progress is None:
            if news.over or not all(map(self._conductor.wanted, self._left.values())):
                self._give_back()
            return not self._left
        if self._conductor.progress(current, news.progress):
            del self._left[current.name]
            self._conductor.stopped(current, news.progress)
            self._give_back()
            return True
        if news.closing:
            del self._left[current.name]
            self._give_back()
            self._left[current.name] = current
        return False

    def lost(self, reason: str) -> None:
        """Take back a shift whose worker died.

        What it finished and could not tell is in the store. The first item that is not was
        in work; the rest goes back to the queue and nobody holds the accident against it.
        """
        while self._left:
            item = self._left.pop(next(iter(self._left)))
            if not self._conductor.settle(item):
                self._conductor.lost(item, reason)
                break
        self._give_back()

    def _give_back(self) -> None:
        for item in self._left.values():
            self._conductor.returned(item)
        self._left.clear()


def _report_every(item: Job) -> float:
    may_be_cut = item.is_trial and item.stream
    return STREAM_EVERY if may_be_cut else REPORT_EVERY


class TuneSession:
    """One Tuner's way to the conductor, and which Tune trial has what.

    Attributes:
        workers: How many there are.
        interrupts: The signals that end the study.
    """

    def __init__(
        self, conductor: StudyScheduler, interrupts: Interrupts, shares: Shares, workers: int
    ) -> None:
        self._conductor = conductor
        self.interrupts = interrupts
        self._shares = shares
        self.workers = workers
        self._shifts: dict[str, tuple[AssignedBatch, Scenario]] = {}
        self._near: Scenario | None = None  # where the worker was that is free now
        self._failure: Exception | None = None

    @property
    def complete(self) -> bool:
        return self._conductor.complete

    def hand_out(self, trial_id: str) -> tuple[list[tuple[str, Drawn | None]], Share]:
        """Return what a Tune trial shall work on, by name, and what its worker takes.

        No names are nothing for the moment. A shift holds items that take the same.
        """
        with self._guarded():
            found = self._conductor.next_shift(self.workers, self._near)
            if not found:
                return [], Share()
            share = self._shares.of(found[0])
            items = [item for item in found if self._shares.of(item) == share]
            for item in found:
                if item not in items:
                    self._conductor.returned(item)
            self._near = None
            self._shifts[trial_id] = AssignedBatch(self._conductor, items), items[-1].scenario
            return [(item.name, self._conductor.drawn_for(item)) for item in items], share
        return [], Share()

    def take(self, trial_id: str, news: BatchProgress) -> bool:
        """Take in what a Tune trial tells, and return whether it should stop."""
        if trial_id not in self._shifts:
            return True
        assignment, scenario = self._shifts[trial_id]
        with self._guarded():
            if not assignment.take(news):
                return False
        self._near = scenario
        del self._shifts[trial_id]
        return True

    def lost(self, trial_id: str, reason: str) -> None:
        """Take back what a Tune trial had when its worker died."""
        assignment, _ = self._shifts.pop(trial_id, (None, None))
        if assignment is not None:
            with self._guarded():
                assignment.lost(reason)

    def fail(self, error: Exception) -> None:
        """End the study with an error at the next `check`."""
        self._failure = self._failure or error

    def check(self) -> None:
        """Raise whatever ends the study: from here it also ends Tune's loop."""
        self.interrupts.check()  # first: the same signal may have ended Ray
        if self._failure is not None:
            raise self._failure

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Keep an exception for `check`: in most hooks Tune would take it for a trial's."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - raised again by the next `check`
            self.fail(error)
