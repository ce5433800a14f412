"""Who is told what happens in a study: the terminal, MLflow, the log."""

from collections.abc import Sequence
from typing import Protocol

from orchestrator.plan.jobs import Item, JobResult, Progress
from orchestrator.plan.plan import Scenario
from orchestrator.scheduler.decisions import Verdict
from orchestrator.store.lookup import VictimResult


class StudyCallback(Protocol):
    """Told of every event, in order, by the driver; what it does changes no result."""

    def started(self, item: Item) -> None: ...

    def progressed(self, item: Item, progress: Progress) -> None: ...

    def ended(self, item: Item, result: JobResult) -> None: ...

    def victim(self, scenario: Scenario, finding: VictimResult) -> None: ...

    def decided(self, verdict: Verdict) -> None: ...


class CallbackList:
    """Several observers as one."""

    def __init__(self, members: Sequence[StudyCallback]) -> None:
        self._members = tuple(members)

    def started(self, item: Item) -> None:
        for member in self._members:
            member.started(item)

    def progressed(self, item: Item, progress: Progress) -> None:
        for member in self._members:
            member.progressed(item, progress)

    def ended(self, item: Item, result: JobResult) -> None:
        for member in self._members:
            member.ended(item, result)

    def victim(self, scenario: Scenario, finding: VictimResult) -> None:
        for member in self._members:
            member.victim(scenario, finding)

    def decided(self, verdict: Verdict) -> None:
        for member in self._members:
            member.decided(verdict)
