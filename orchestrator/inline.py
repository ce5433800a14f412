"""The executor for a debugger: everything in this process, one item after the other."""

from orchestrator.bench import steps_of
from orchestrator.conductor import Conductor
from orchestrator.signals import Interrupts
from orchestrator.work import Item, Site
from orchestrator.workshop import Workshop


def run_inline(conductor: Conductor, site: Site, interrupts: Interrupts) -> None:
    """Run a study to its end without Ray; the results are the same."""
    workshop = Workshop(site, conductor.plan.study.victim)
    while not conductor.complete:
        item = conductor.next_item()
        if item is not None:
            _run(conductor, workshop, item, interrupts)


def _run(conductor: Conductor, workshop: Workshop, item: Item, interrupts: Interrupts) -> None:
    steps = steps_of(workshop, item)
    while True:
        interrupts.check()
        try:
            progress = next(steps)
        except StopIteration as end:
            conductor.finished(item, end.value)
            return
        if conductor.progress(item, progress):
            steps.close()
            conductor.stopped(item, progress)
            return
