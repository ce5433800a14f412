"""What the hooks of Ray Tune do, without Ray."""

from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.catalogue import Drawn
from orchestrator.conductor import Conductor
from orchestrator.machine import Shares
from orchestrator.plan import Scenario
from orchestrator.resources import Share
from orchestrator.shift import Assignment, News
from orchestrator.signals import Interrupts


class Session:
    """One Tuner's way to the conductor, and which Tune trial has what.

    Attributes:
        workers: How many there are.
        interrupts: The signals that end the study.
    """

    def __init__(
        self, conductor: Conductor, interrupts: Interrupts, shares: Shares, workers: int
    ) -> None:
        self._conductor = conductor
        self.interrupts = interrupts
        self._shares = shares
        self.workers = workers
        self._shifts: dict[str, tuple[Assignment, Scenario]] = {}
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
            self._shifts[trial_id] = Assignment(self._conductor, items), items[-1].scenario
            return [(item.name, self._conductor.drawn_for(item)) for item in items], share
        return [], Share()

    def take(self, trial_id: str, news: News) -> bool:
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
