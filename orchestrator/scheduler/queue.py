"""Jobs that are ready, by priority, in batches, within the budget."""

import heapq
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Hashable
from statistics import median
from typing import TypeAlias

from orchestrator.plan.jobs import OUT_OF_MEMORY, Job, JobKind
from orchestrator.plan.plan import Scenario
from orchestrator.spec.model import Budget, Study

Priority: TypeAlias = tuple[int, int, int]  # rank, place in the chain; the least goes first
RETRY: Priority = (-1, 0, 0)
_PLACES = {kind: place for place, kind in enumerate(JobKind)}


def priority(rank: int, job: Job) -> Priority:
    """Return the priority of a job that trials of a rank need: earlier stages go first."""
    return rank, _PLACES[job.kind], job.position


class RemainingBudget:
    """Counts what is begun; nothing that was begun is ever stopped for it.

    Hours count from the start of the command, trials when they are handed out, each once
    however often its worker dies.
    """

    def __init__(self, budget: Budget, clock: Callable[[], float] = time.monotonic) -> None:
        self._budget = budget
        self._clock = clock
        self._started = clock()
        self._trials: set[str] = set()

    @property
    def spent(self) -> str:
        """What is used up, as the study file says it, or nothing."""
        trials, hours = self._budget.trials, self._budget.hours
        if trials is not None and len(self._trials) >= trials:
            return f"budget.trials = {trials}"
        if hours is not None and self._clock() - self._started >= hours * 3600:
            return f"budget.hours = {hours:g}"
        return ""

    def take(self, job: Job) -> None:
        """Count a job that is handed out."""
        if job.is_trial:
            self._trials.add(job.name)

    def give_back(self, job: Job) -> None:
        """Count off a job that was handed out and not begun."""
        self._trials.discard(job.name)


BATCH_SECONDS = 2.0  # of work handed out at once, if it is made of shorter jobs
LATELY = 9  # jobs of a kind whose durations are remembered
LARGEST = 500  # jobs of a batch, however short they are


def batch_size(seconds: Collection[float], ready: int, workers: int) -> int:
    """Return how many jobs to hand out together, of which the last took `seconds`.

    One while their duration is unknown. At most half a worker's fair share of the queue and
    two seconds of work, because a batch runs ahead of decisions.
    """
    if not seconds:
        return 1
    fair = 1 + ready // (2 * workers)
    return max(1, min(fair, int(BATCH_SECONDS / max(median(seconds), 1e-6))))


Entry: TypeAlias = tuple[Priority, int, Job]  # priority, order of arrival, job


class ReadyJobs:
    """A queue of jobs by priority, of which also those like a given one can be taken.

    A job stands in several heaps; taken from one, it is passed over in the others.
    """

    def __init__(self) -> None:
        self._heaps: dict[Hashable, list[Entry]] = defaultdict(list)
        self._waiting: set[int] = set()
        self._pushed = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def push(self, place: Priority, job: Job) -> None:
        """Add a job; the lowest priority is taken first, equals in order of arrival."""
        self._pushed += 1
        self._waiting.add(self._pushed)
        groups = [None, kind_of(job)]
        if job.is_trial:
            groups.append(job.scenario.number)
        for group in groups:
            heapq.heappush(self._heaps[group], (place, self._pushed, job))

    def pop(self, group: Hashable = None) -> tuple[Priority, Job] | None:
        """Take the first job with its priority: of all, of a kind, or of a scenario's trials."""
        entry = self._head(group)
        if entry is None:
            return None
        heapq.heappop(self._heaps[group])
        self._waiting.remove(entry[1])
        return entry[0], entry[2]

    def peek(self, group: Hashable = None) -> Job | None:
        """Return the job that `pop` would take."""
        entry = self._head(group)
        return None if entry is None else entry[2]

    def _head(self, group: Hashable) -> Entry | None:
        heap = self._heaps.get(group, [])
        while heap and heap[0][1] not in self._waiting:
            heapq.heappop(heap)
        return heap[0] if heap else None


def kind_of(job: Job) -> Hashable:
    """Return what jobs have in common that take about as long and need the same of a machine."""
    return (job.kind, job.scenario.dataset, job.scenario.architecture)


LOOKS = 8  # jobs of other studies passed over at a time: each is a question to the store


class JobQueue:
    """Hands out jobs by priority, each to one worker at a time.

    Args:
        needed: Whether a job that is ready still is of use.
        elsewhere: Whether another study is at a job, so that a worker would only wait.
        sure: Numbers of scenarios in which no decision can spare a trial.
        started: Called with each job that a worker begins.
        study: Its limits of a job and its budget.

    Attributes:
        allowance: What may still be begun.
    """

    def __init__(
        self,
        needed: Callable[[Job], bool],
        elsewhere: Callable[[Job], bool],
        sure: Collection[int],
        started: Callable[[Job], None],
        study: Study,
    ) -> None:
        self._needed = needed
        self._elsewhere = elsewhere
        self._sure = sure
        self._started = started
        self.allowance = RemainingBudget(study.budget)
        self._limits = study.limits
        self._clocked: dict[str, float] = {}  # when a limited job was begun
        self._ready = ReadyJobs()
        # Seconds on a worker of the last jobs of a kind.
        self._durations: dict[Hashable, deque[float]] = defaultdict(lambda: deque(maxlen=LATELY))
        self._out: dict[str, Priority] = {}  # by the job's name
        self._begun: set[str] = set()  # those of them that are known to be in work
        self._attempts: dict[str, int] = defaultdict(int)

    def push(self, place: Priority, job: Job) -> None:
        """Make a job ready; the lowest priority goes first."""
        self._ready.push(place, job)

    @property
    def idle(self) -> bool:
        """Whether nothing is out and nothing is to be handed out."""
        return not self._out and (not self._ready or bool(self.allowance.spent))

    def is_out(self, job: Job) -> bool:
        """Whether a worker has a job."""
        return job.name in self._out

    def next_batch(
        self, workers: int, near: Scenario | None = None, largest: int = LARGEST
    ) -> tuple[Job, ...]:
        """Return what one of `workers` should do next, in order; nothing for the moment."""
        group: Hashable = None
        if near is not None and near.number in self._sure:
            head = self._ready.peek()
            group = near.number if head is not None and head.is_trial else None
        first = self._take(group) or self._take(None)
        if first is None:
            return ()
        self.begin(first)
        jobs = [first]
        seen = self._durations[kind_of(first)] if first.name not in self._attempts else ()
        room = min(largest, batch_size(seen, len(self._ready), workers))  # alone if it may kill
        while len(jobs) < room and (job := self._companion(first)) is not None:
            jobs.append(job)
        return tuple(jobs)

    def begin(self, job: Job, *, now: bool = False) -> None:
        """Note that a worker has begun a job; noting it twice is noting it once.

        Args:
            job: The job.
            now: Whether it begins this moment, and its time counts from here.
        """
        if now:
            self._clocked[job.name] = time.monotonic()
        if job.name not in self._begun:
            self._begun.add(job.name)
            self._started(job)

    def end(self, job: Job, spent: float = 0.0) -> bool:
        """Take a job back for good, and return whether it was out.

        Args:
            job: The job.
            spent: Seconds that it took, where that is known.
        """
        if self._out.pop(job.name, None) is None:
            return False
        self.begin(job)
        self._begun.discard(job.name)
        if spent:
            self._durations[kind_of(job)].append(spent)
        return True

    def give_back(self, job: Job) -> None:
        """Make a job ready again that was handed out and not begun."""
        if (before := self._out.pop(job.name, None)) is not None:
            self.allowance.give_back(job)
            self._ready.push(before, job)

    def lose(self, job: Job, reason: str) -> str:
        """Make a job ready again whose worker died, or return why it is given up.

        One that had worked longer than its limit was ended for that: it is not tried again.
        """
        begun, seconds = self._clocked.pop(job.name, None), self._limits.seconds(job.stage)
        if not self.end(job):
            return ""
        if begun is not None and seconds is not None and time.monotonic() - begun >= seconds:
            return self._limits.overdue(job.stage)
        self._attempts[job.name] += 1
        most = self._limits.attempts
        if self._attempts[job.name] < most:
            self._ready.push(RETRY, job)
            return ""
        why = f", {OUT_OF_MEMORY}" * reason.startswith(OUT_OF_MEMORY)
        return f"its worker died {most} time{'s' * (most > 1)}{why}"

    def _companion(self, first: Job) -> Job | None:
        """Hand out another job like `first`, of its scenario where that is no waste."""
        groups = [kind_of(first)]
        if first.is_trial and first.scenario.number in self._sure:
            groups.insert(0, first.scenario.number)
        for group in groups:
            head = self._ready.peek(group)
            if head is None or head.name in self._attempts:
                continue
            if (job := self._take(group, wait=False)) is not None:
                return job
        return None

    def _take(self, group: Hashable, *, wait: bool = True) -> Job | None:
        """Hand out the first job of a group; what another study is at, only to `wait` for it."""
        if self.allowance.spent:
            return None
        later: list[tuple[Priority, Job]] = []
        taken = None
        while taken is None and (entry := self._ready.pop(group)) is not None:
            if not self._needed(entry[1]):
                continue
            if len(later) < LOOKS and self._elsewhere(entry[1]):
                later.append(entry)
            else:
                taken = entry
        if taken is None and later and wait:
            taken = later.pop(0)
        for before, job in later:
            self._ready.push(before, job)
        if taken is None:
            return None
        self._out[taken[1].name] = taken[0]
        self.allowance.take(taken[1])
        return taken[1]
