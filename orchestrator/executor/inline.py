"""The executor for a debugger: everything in this process, one item after the other."""

from orchestrator.pipeline.stages import Workshop
from orchestrator.plan.jobs import Item, Site
from orchestrator.scheduler.batches import Assignment, Shift
from orchestrator.scheduler.scheduler import Conductor
from orchestrator.terminal import Interrupts


def run_inline(conductor: Conductor, site: Site, interrupts: Interrupts) -> None:
    """Run a study to its end without Ray; the results are the same."""
    workshop = Workshop(site, conductor.plan.study.victim)
    while not conductor.complete:
        item = conductor.next_item()
        if item is not None:
            _run(conductor, workshop, item, interrupts)


def _run(conductor: Conductor, workshop: Workshop, item: Item, interrupts: Interrupts) -> None:
    shift, assignment = Shift(workshop, [item], bundled=False), Assignment(conductor, [item])
    interrupts.check()
    while not assignment.take(shift.work()):
        interrupts.check()
    shift.close()
