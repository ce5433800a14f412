"""How many items a worker is handed at once, from how long such items take."""

from collections import defaultdict, deque
from collections.abc import Hashable
from statistics import median

from orchestrator.ready import kind_of
from orchestrator.work import Item

SHIFT_SECONDS = 2.0  # of work handed out at once, if it is made of shorter items
LATELY = 9  # items of a kind whose durations are remembered
LARGEST = 500  # items of a shift, however short they are


class Pace:
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
