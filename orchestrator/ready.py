"""Items that could be worked on now, the most useful first."""

import heapq
from collections import defaultdict
from collections.abc import Hashable
from typing import TypeAlias

from orchestrator.plan import Scenario
from orchestrator.work import Item, TrialItem

Entry: TypeAlias = tuple[float, int, Item]  # rank, order of arrival, item


class Ready:
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
        if isinstance(item, TrialItem):
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
