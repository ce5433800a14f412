"""Callbacks: what listens to the events of a running study."""

from collections.abc import Iterable

from orchestrator.plan.jobs import Job, JobResult, Progress
from orchestrator.plan.plan import Scenario
from orchestrator.scheduler.decisions import Verdict
from orchestrator.store.lookup import VictimResult


class StudyCallback:
    """Receives every event, in order, in the driver; what it does changes no result.

    Each method does nothing here: a subclass defines those whose events it needs.
    """

    def started(self, job: Job) -> None:
        """A job was handed to a worker."""

    def progressed(self, job: Job, progress: Progress) -> None:
        """A running job reported."""

    def ended(self, job: Job, result: JobResult) -> None:
        """A job ended, well or not; the decision that may follow is an event of its own."""

    def victim(self, scenario: Scenario, finding: VictimResult) -> None:
        """A scenario's victim is there, from the store or just trained."""

    def decided(self, verdict: Verdict) -> None:
        """A trial is done, pruned, skipped or failed."""


class CallbackList(StudyCallback):
    """Several callbacks as one, in the order in which they were added."""

    def __init__(self, members: Iterable[StudyCallback] = ()) -> None:
        self._members = list(members)

    def add(self, *members: StudyCallback) -> None:
        """Add callbacks, which receive what happens from now on."""
        self._members += members

    def started(self, job: Job) -> None:
        for member in self._members:
            member.started(job)

    def progressed(self, job: Job, progress: Progress) -> None:
        for member in self._members:
            member.progressed(job, progress)

    def ended(self, job: Job, result: JobResult) -> None:
        for member in self._members:
            member.ended(job, result)

    def victim(self, scenario: Scenario, finding: VictimResult) -> None:
        for member in self._members:
            member.victim(scenario, finding)

    def decided(self, verdict: Verdict) -> None:
        for member in self._members:
            member.decided(verdict)
