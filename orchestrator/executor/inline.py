"""The executor for a debugger: everything in this process, one job after the other."""

from orchestrator.pipeline.stages import StageRunner
from orchestrator.plan.jobs import Job, Site
from orchestrator.scheduler.batches import AssignedBatch, JobBatch
from orchestrator.scheduler.scheduler import StudyScheduler
from orchestrator.terminal import Interrupts


def run_inline(scheduler: StudyScheduler, site: Site, interrupts: Interrupts) -> None:
    """Run a study to its end without Ray; the results are the same."""
    runner = StageRunner(site, scheduler.plan.study.victim)
    while not scheduler.complete:
        scheduler.heed()
        job = scheduler.next_job()
        if job is not None:
            _run(scheduler, runner, job, interrupts)


def _run(scheduler: StudyScheduler, runner: StageRunner, job: Job, interrupts: Interrupts) -> None:
    batch, assignment = JobBatch(runner, [job], bundled=False), AssignedBatch(scheduler, [job])
    interrupts.check()
    while not assignment.take(batch.work()):
        interrupts.check()
        scheduler.heed()
    batch.close()
