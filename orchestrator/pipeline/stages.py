"""One job's stages, each through the store."""

from collections.abc import Generator

from orchestrator.pipeline.audits import work_on_audit
from orchestrator.pipeline.chain import chain_of
from orchestrator.pipeline.tools import StageTools
from orchestrator.plan.jobs import Job, JobKind, Progress, StageRun

SHOWN = 3  # triggered test images of each scenario, stored for the gallery


class StageRunner(StageTools):
    """Does jobs step by step."""

    def work(self, job: Job) -> Generator[Progress, None, tuple[StageRun, ...]]:
        """Do a job step by step; leaving the iterator early abandons the stage in flight.

        Nothing is done twice: what the store has is taken from there, and what should
        have been there but is not (a file damaged since) is made again.
        """
        self.cached.runs.clear()
        if job.kind is JobKind.HELPER:
            yield from self.victims.helped(job.scenario, until=job.helper)
        elif job.kind is JobKind.VICTIM:
            victim = yield from self.victims.victim(job.scenario)
            key = self.keys.victim(job.scenario)
            yield from self.evaluate(job.scenario, key, victim, shown=SHOWN)
        elif job.audit is not None:
            yield from work_on_audit(self, job.audit)
        else:
            yield from chain_of(job.trial)[job.position].work(self, job)
        return self.executed
