"""Batches of jobs: how they are handed to a worker, run there, and reported."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from orchestrator.pipeline.run_job import Steps, steps_of
from orchestrator.pipeline.stages import StageRunner
from orchestrator.plan.jobs import Drawn, Job, JobResult, Progress
from orchestrator.plan.plan import Scenario
from orchestrator.plan.resources import Shares
from orchestrator.scheduler.queue import BATCH_SECONDS
from orchestrator.scheduler.scheduler import StudyScheduler
from orchestrator.spec.model import Share
from orchestrator.terminal import Interrupts

REPORT_EVERY = 2.0  # seconds between reports of a job that cannot be cut
STREAM_EVERY = 0.25  # the same of one that can be cut
REPORT_FINISHED_EVERY = 0.5  # seconds that a finished job waits to be reported with others
PATIENCE = 2 * BATCH_SECONDS  # after which a batch ends with the job in work


@dataclass(frozen=True, kw_only=True)
class BatchProgress:
    """A worker's report on its batch.

    Attributes:
        finished: Jobs that ended since the last report, by name, in order.
        current: The job in work, or "" between two.
        progress: How far that is.
        closing: Whether the batch ends with the job in work, whatever else it holds.
        over: Whether it has ended.
    """

    finished: tuple[tuple[str, JobResult], ...] = ()
    current: str = ""
    progress: Progress | None = None
    closing: bool = False
    over: bool = False


class JobBatch:
    """The worker's side: works through jobs and reports their progress.

    Attributes:
        bundled: Whether reports of finished jobs may wait for each other.
    """

    def __init__(self, runner: StageRunner, jobs: Sequence[Job], *, bundled: bool = True) -> None:
        self._runner = runner
        self._jobs = list(reversed(jobs))
        self._bundled = bundled
        self._begun = time.monotonic()
        self._steps: Steps | None = None
        self._busy = 0.0  # seconds spent on the job in work

    def work(self) -> BatchProgress:
        """Work until there is something to report."""
        since = time.monotonic()
        finished: list[tuple[str, JobResult]] = []
        while self._jobs:
            job = self._jobs[-1]
            result = self._advance(job)
            if isinstance(result, Progress):
                time.sleep(result.pause)  # here, where neither limit nor duration counts it
            waited = time.monotonic() - since
            if isinstance(result, JobResult):
                self._jobs.pop()
                finished.append((job.name, result))
                if self._closing or result.error or waited >= self._after(REPORT_FINISHED_EVERY):
                    break
                continue
            every = STREAM_EVERY if job.is_trial and job.stream else REPORT_EVERY
            if result.begins or waited >= self._after(every):
                done = tuple(finished)
                return BatchProgress(
                    finished=done, current=job.name, progress=result, closing=self._closing
                )
        return BatchProgress(finished=tuple(finished), over=self._closing or not self._jobs)

    def close(self) -> None:
        """Abandon the stage in flight, and what was not begun."""
        self._jobs.clear()
        if self._steps is not None:
            self._steps.close()

    def _advance(self, job: Job) -> Progress | JobResult:
        """Do the next step of a job."""
        if self._steps is None:
            self._steps, self._busy = steps_of(self._runner, job), 0.0
            site = self._runner.site
            if site.expendable and site.limits.seconds(job.stage) is not None:
                return Progress(stage=job.stage, epoch=0, epochs=0, begins=True)
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
    """The driver's side: what of a batch is still out, and what its reports mean."""

    def __init__(self, scheduler: StudyScheduler, jobs: Sequence[Job]) -> None:
        self._scheduler = scheduler
        self._left = {job.name: job for job in jobs}

    def take(self, news: BatchProgress) -> bool:
        """Take in a report, and return whether the batch should stop here.

        Of a batch that stops or closes, what was not begun goes back to the queue.
        """
        for name, result in news.finished:
            if (job := self._left.pop(name, None)) is not None:
                self._scheduler.finished(job, result)
        current = self._left.get(news.current)
        if current is None or news.progress is None:
            if news.over or not all(map(self._scheduler.wanted, self._left.values())):
                self._give_back()
            return not self._left
        if self._scheduler.progress(current, news.progress):
            del self._left[current.name]
            self._scheduler.stopped(current, news.progress)
            self._give_back()
            return True
        if news.closing:
            del self._left[current.name]
            self._give_back()
            self._left[current.name] = current
        return False

    def lost(self, reason: str) -> None:
        """Take back a batch whose worker died.

        Jobs that finished without a report are in the store. The first that is not was in work;
        the remaining jobs are requeued without counting an attempt.
        """
        while self._left:
            job = self._left.pop(next(iter(self._left)))
            if not self._scheduler.settle(job):
                self._scheduler.lost(job, reason)
                break
        self._give_back()

    def _give_back(self) -> None:
        for job in self._left.values():
            self._scheduler.returned(job)
        self._left.clear()


class TuneSession:
    """One Tuner's way to the scheduler, and which Tune trial has what.

    Args:
        workers: Returns how many jobs can be worked on at once now: machines join and leave.

    Attributes:
        interrupts: The signals that end the study.
    """

    def __init__(
        self,
        scheduler: StudyScheduler,
        interrupts: Interrupts,
        shares: Shares,
        workers: Callable[[], int],
    ) -> None:
        self._scheduler = scheduler
        self.interrupts = interrupts
        self._shares = shares
        self._workers = workers
        self._batches: dict[str, tuple[AssignedBatch, Scenario]] = {}
        self._near: Scenario | None = None  # where the worker was that is free now
        self._failure: Exception | None = None

    @property
    def complete(self) -> bool:
        return self._scheduler.complete

    def hand_out(self, trial_id: str) -> tuple[list[tuple[str, Drawn | None]], Share]:
        """Return what a Tune trial shall work on, by name, and what its worker takes.

        No names are nothing for the moment. A batch holds jobs that take the same.
        """
        with self._guarded():
            workers = self._workers()
            if len(self._batches) >= workers:
                return [], Share()
            found = self._scheduler.next_batch(workers, self._near)
            if not found:
                return [], Share()
            share = self._shares.of(found[0])
            jobs = [job for job in found if self._shares.of(job) == share]
            for job in found:
                if job not in jobs:
                    self._scheduler.returned(job)
            self._near = None
            self._batches[trial_id] = AssignedBatch(self._scheduler, jobs), jobs[-1].scenario
            return [(job.name, self._scheduler.drawn_for(job)) for job in jobs], share
        return [], Share()

    def take(self, trial_id: str, news: BatchProgress) -> bool:
        """Take in a Tune trial's report, and return whether it should stop."""
        if trial_id not in self._batches:
            return True
        assignment, scenario = self._batches[trial_id]
        with self._guarded():
            if not assignment.take(news):
                return False
        self._near = scenario
        del self._batches[trial_id]
        return True

    def lost(self, trial_id: str, reason: str) -> None:
        """Take back what a Tune trial had when its worker died."""
        assignment, _ = self._batches.pop(trial_id, (None, None))
        if assignment is not None:
            with self._guarded():
                assignment.lost(reason)

    def fail(self, error: Exception) -> None:
        """End the study with an error at the next `check`."""
        self._failure = self._failure or error

    def check(self) -> None:
        """Raise whatever ends the study, and heed the user: from here it also ends Tune's loop."""
        self.interrupts.check()  # first: the same signal may have ended Ray
        if self._failure is not None:
            raise self._failure
        self._scheduler.heed()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Keep an exception for `check`: in most hooks Tune would take it for a trial's."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - raised again by the next `check`
            self.fail(error)
