"""The executor for a debugger: everything in this process, one item after the other."""

from orchestrator.pipeline.stages import StageRunner
from orchestrator.plan.jobs import Job, Site
from orchestrator.scheduler.batches import AssignedBatch, JobBatch
from orchestrator.scheduler.scheduler import StudyScheduler
from orchestrator.terminal import Interrupts


def run_inline(conductor: StudyScheduler, site: Site, interrupts: Interrupts) -> None:
    """Run a study to its end without Ray; the results are the same."""
    workshop = StageRunner(site, conductor.plan.study.victim)
    while not conductor.complete:
        item = conductor.next_item()
        if item is not None:
            _run(conductor, workshop, item, interrupts)


def _run(
    conductor: StudyScheduler, workshop: StageRunner, item: Job, interrupts: Interrupts
) -> None:
    shift, assignment = JobBatch(workshop, [item], bundled=False), AssignedBatch(conductor, [item])
    interrupts.check()
    while not assignment.take(shift.work()):
        interrupts.check()
    shift.close()
