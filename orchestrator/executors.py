"""Where a study is run: in this process, on a Ray of its own, on a running cluster."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from orchestrator.chatter import hush_libraries
from orchestrator.conductor import Conductor
from orchestrator.definition import Study
from orchestrator.errors import Unusable
from orchestrator.machine import Node, Shares, this_machine
from orchestrator.quiet import apart
from orchestrator.signals import Interrupts
from orchestrator.store import Store
from orchestrator.work import Site


@dataclass(frozen=True, kw_only=True)
class Executor:
    """What runs a study.

    Attributes:
        nodes: The machines, as far as they are known before it starts.
    """

    inline: bool
    address: str | None
    verbose: bool
    nodes: Sequence[Node]
    errors: Console

    @property
    def text(self) -> str:
        """What the log of starts calls it."""
        return "inline" if self.inline else self.address or "Ray on this machine"

    def run(self, conductor: Conductor, site: Site, shares: Shares, interrupts: Interrupts) -> None:
        """Run a study to its end.

        Raises:
            Unusable: It cannot be run there, or no longer.
        """
        if self.inline:
            from orchestrator.inline import run_inline

            if site.device == "cuda" and not this_machine().gpus:
                raise Unusable("resources asks for a GPU, and torch finds none on this machine")
            hush_libraries(verbose=self.verbose)
            run_inline(conductor, site, interrupts)
            return
        from orchestrator.cluster import embedded, run_on_ray

        hush_libraries(verbose=self.verbose)  # Ray sets its loggers up when it is imported
        with ExitStack() as stack:
            nodes = self.nodes
            if self.address is None:
                plan = conductor.plan
                nodes = stack.enter_context(embedded(plan.study, shares, plan.scenarios))
            run_on_ray(conductor, site, shares, nodes, interrupts, self.errors)


@contextmanager
def executor(
    study: Study,
    console: Console,
    log: Path,
    *,
    address: str | None,
    inline: bool,
    verbose: bool,
) -> Iterator[Executor]:
    """Make ready what runs a study: with Ray, what libraries write goes to `log`."""
    with ExitStack() as stack:
        nodes: Sequence[Node] = [this_machine()]
        errors = console
        if not inline:
            errors = stack.enter_context(apart(console, log, verbose=verbose))
            if address is not None:
                from orchestrator.cluster import joined

                nodes = stack.enter_context(joined(address, study, Store(study.store)))
        yield Executor(inline=inline, address=address, verbose=verbose, nodes=nodes, errors=errors)
