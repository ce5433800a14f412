"""Jobs that are ready, by priority, in batches, within the budget."""

import heapq
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Hashable
from statistics import median
from typing import TypeAlias

from orchestrator.plan.jobs import OUT_OF_MEMORY, Item, TrialJob
from orchestrator.plan.plan import Scenario
from orchestrator.spec.model import Budget, Study


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

    def take(self, item: Item) -> None:
        """Count an item that is handed out."""
        if isinstance(item, TrialJob):
            self._trials.add(item.name)

    def give_back(self, item: Item) -> None:
        """Count off an item that was handed out and not begun."""
        self._trials.discard(item.name)


SHIFT_SECONDS = 2.0  # of work handed out at once, if it is made of shorter items
LATELY = 9  # items of a kind whose durations are remembered
LARGEST = 500  # items of a shift, however short they are


class RecentDurations:
    """Durations of items that ended lately, by their kind."""

    def __init__(self) -> None:
        self._seconds: dict[Hashable, deque[float]] = defaultdict(lambda: deque(maxlen=LATELY))

    def note(self, item: Item, seconds: float) -> None:
        """Take in what an item took on its worker."""
        self._seconds[kind_of(item)].append(seconds)

    def room(self, item: Item, ready: int, workers: int) -> int:
        """Return how many items like this one to hand out together.

        One while nobody knows how long they take. Never more than leaves as much again for
        every worker, nor than a couple of seconds: they run ahead of decisions.
        """
        seen = self._seconds.get(kind_of(item))
        if not seen:
            return 1
        fair = 1 + ready // (2 * workers)
        return max(1, min(LARGEST, fair, int(SHIFT_SECONDS / max(median(seen), 1e-6))))


Entry: TypeAlias = tuple[float, int, Item]  # rank, order of arrival, item


class ReadyJobs:
    """A queue of items by rank, of which also those like a given one can be taken.

    An item stands in several heaps; taken from one, it is passed over in the others.
    """

    def __init__(self) -> None:
        self._heaps: dict[Hashable, list[Entry]] = defaultdict(list)
        self._waiting: set[int] = set()
        self._pushed = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def push(self, rank: float, item: Item) -> None:
        """Add an item; the lowest rank is taken first, equals in order of arrival."""
        self._pushed += 1
        self._waiting.add(self._pushed)
        groups = [None, kind_of(item)]
        if isinstance(item, TrialJob):
            groups.append(item.scenario.number)
        for group in groups:
            heapq.heappush(self._heaps[group], (rank, self._pushed, item))

    def pop(self, group: Hashable = None) -> tuple[float, Item] | None:
        """Take the first item with its rank: of all, of a kind, or of a scenario's trials."""
        entry = self._head(group)
        if entry is None:
            return None
        heapq.heappop(self._heaps[group])
        self._waiting.remove(entry[1])
        return entry[0], entry[2]

    def peek(self, group: Hashable = None) -> Item | None:
        """Return the item that `pop` would take."""
        entry = self._head(group)
        return None if entry is None else entry[2]

    def _head(self, group: Hashable) -> Entry | None:
        heap = self._heaps.get(group, [])
        while heap and heap[0][1] not in self._waiting:
            heapq.heappop(heap)
        return heap[0] if heap else None


def kind_of(item: Item) -> Hashable:
    """Return what items have in common that take about as long and need the same of a machine."""
    scenario: Scenario = item.scenario
    return (type(item).__name__, scenario.dataset, scenario.architecture)


LOOKS = 8  # items of other studies passed over at a time: each is a question to the store


class JobQueue:
    """Hands out items by rank, each to one worker at a time.

    Args:
        needed: Whether an item that is ready still is of use.
        elsewhere: Whether another study is at an item, so that a worker would only wait.
        sure: Numbers of scenarios in which no decision can spare a trial.
        started: Told of each item that a worker begins.
        study: Its limits of an item and its budget.

    Attributes:
        allowance: What may still be begun.
    """

    def __init__(
        self,
        needed: Callable[[Item], bool],
        elsewhere: Callable[[Item], bool],
        sure: Collection[int],
        started: Callable[[Item], None],
        study: Study,
    ) -> None:
        self._needed = needed
        self._elsewhere = elsewhere
        self._sure = sure
        self._started = started
        self.allowance = RemainingBudget(study.budget)
        self._limits = study.limits
        self._clocked: dict[str, float] = {}  # when a limited item was begun
        self._ready = ReadyJobs()
        self._pace = RecentDurations()
        self._out: dict[str, float] = {}  # ranks of items by name
        self._begun: set[str] = set()  # those of them that are known to be in work
        self._attempts: dict[str, int] = defaultdict(int)

    def push(self, rank: float, item: Item) -> None:
        """Make an item ready; the lowest rank goes first."""
        self._ready.push(rank, item)

    @property
    def idle(self) -> bool:
        """Whether nothing is out and nothing is to be handed out."""
        return not self._out and (not self._ready or bool(self.allowance.spent))

    def is_out(self, item: Item) -> bool:
        """Whether a worker has an item."""
        return item.name in self._out

    def next_items(self) -> tuple[Item, ...]:
        """Return the one most useful item that can be worked on now, or none for the moment."""
        item = self._take(None)
        if item is None:
            return ()
        self.begin(item)
        return (item,)

    def next_shift(self, workers: int, near: Scenario | None) -> tuple[Item, ...]:
        """Return what one of `workers` should do next, in order; nothing for the moment."""
        group: Hashable = None
        if near is not None and near.number in self._sure:
            group = near.number if isinstance(self._ready.peek(), TrialJob) else None
        first = self._take(group) or self._take(None)
        if first is None:
            return ()
        self.begin(first)
        items = [first]
        if first.name not in self._attempts:  # which may kill again: alone
            room = self._pace.room(first, len(self._ready), workers)
            while len(items) < room and (item := self._companion(first)) is not None:
                items.append(item)
        return tuple(items)

    def begin(self, item: Item, *, now: bool = False) -> None:
        """Note that a worker has begun an item; noting it twice is noting it once.

        Args:
            item: The item.
            now: Whether it begins this moment, and its time counts from here.
        """
        if now:
            self._clocked[item.name] = time.monotonic()
        if item.name not in self._begun:
            self._begun.add(item.name)
            self._started(item)

    def end(self, item: Item, spent: float = 0.0) -> bool:
        """Take an item back for good, and return whether it was out.

        Args:
            item: The item.
            spent: Seconds that it took, where that is known.
        """
        if self._out.pop(item.name, None) is None:
            return False
        self.begin(item)
        self._begun.discard(item.name)
        if spent:
            self._pace.note(item, spent)
        return True

    def give_back(self, item: Item) -> None:
        """Make an item ready again that was handed out and not begun."""
        if (rank := self._out.pop(item.name, None)) is not None:
            self.allowance.give_back(item)
            self._ready.push(rank, item)

    def lose(self, item: Item, reason: str) -> str:
        """Make an item ready again whose worker died, or return why it is given up.

        One that had worked longer than its limit was ended for that: it is not tried again.
        """
        begun, seconds = self._clocked.pop(item.name, None), self._limits.seconds(item.stage)
        if not self.end(item):
            return ""
        if begun is not None and seconds is not None and time.monotonic() - begun >= seconds:
            return self._limits.overdue(item.stage)
        self._attempts[item.name] += 1
        most = self._limits.attempts
        if self._attempts[item.name] < most:
            self._ready.push(-1.0, item)
            return ""
        why = f", {OUT_OF_MEMORY}" * reason.startswith(OUT_OF_MEMORY)
        return f"its worker died {most} time{'s' * (most > 1)}{why}"

    def _companion(self, first: Item) -> Item | None:
        """Hand out another item like `first`, of its scenario where that is no waste."""
        groups = [kind_of(first)]
        if isinstance(first, TrialJob) and first.scenario.number in self._sure:
            groups.insert(0, first.scenario.number)
        for group in groups:
            head = self._ready.peek(group)
            if head is not None and head.name not in self._attempts:
                item = self._take(group, wait=False)
                if item is not None:
                    return item
        return None

    def _take(self, group: Hashable, *, wait: bool = True) -> Item | None:
        """Hand out the first item of a group; what another study is at, only to `wait` for it."""
        if self.allowance.spent:
            return None
        later: list[tuple[float, Item]] = []
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
        for rank, item in later:
            self._ready.push(rank, item)
        if taken is None:
            return None
        rank, item = taken
        self._out[item.name] = rank
        self.allowance.take(item)
        return item
