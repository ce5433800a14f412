"""What is left of a study's budget, for one start of the command."""

import time
from collections.abc import Callable

from orchestrator.resources import Budget
from orchestrator.work import Item, TrialItem


class Allowance:
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
        if isinstance(item, TrialItem):
            self._trials.add(item.name)

    def give_back(self, item: Item) -> None:
        """Count off an item that was handed out and not begun."""
        self._trials.discard(item.name)
