"""Where a study is run: in this process, on a Ray of its own, on a running cluster."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from orchestrator.address import Address
from orchestrator.errors import ResourceError
from orchestrator.executor.ray_setup import configure, notice_cuts
from orchestrator.plan.jobs import Site
from orchestrator.plan.resources import Node, Shares, this_machine
from orchestrator.scheduler.scheduler import StudyScheduler
from orchestrator.spec.model import Study
from orchestrator.store.store import Store
from orchestrator.terminal import Interrupts, apart, hush_libraries

if TYPE_CHECKING:
    from orchestrator.executor.ray_cluster import Membership


@dataclass(frozen=True, kw_only=True)
class Executor:
    """What runs a study.

    Attributes:
        nodes: The machines, as far as they are known before it starts.
        member: Of the running cluster, if that is what runs it.
    """

    inline: bool
    address: Address | None
    verbose: bool
    nodes: Sequence[Node]
    member: "Membership | None"
    errors: Console

    def leave(self) -> None:
        """Be done with what was joined: if it dies from now on, nobody minds."""
        if self.member is not None:
            self.member.leave()

    @property
    def text(self) -> str:
        """What the log of starts calls it."""
        return "inline" if self.inline else str(self.address or "Ray on this machine")

    def run(
        self, conductor: StudyScheduler, site: Site, shares: Shares, interrupts: Interrupts
    ) -> None:
        """Run a study to its end.

        Raises:
            ResourceError: It cannot be run there, or no longer.
        """
        if self.inline:
            from orchestrator.executor.inline import run_inline

            if site.device == "cuda" and not this_machine().gpus:
                raise ResourceError(
                    "resources asks for a GPU, and torch finds none on this machine"
                )
            hush_libraries(verbose=self.verbose)
            run_inline(conductor, site, interrupts)
            return
        if self.address is None:
            configure(conductor.plan.study.resources.cpu)
        from orchestrator.executor.ray_cluster import embedded
        from orchestrator.executor.ray_tune import run_on_ray

        hush_libraries(verbose=self.verbose)  # Ray sets its loggers up when it is imported
        with ExitStack() as stack:
            member = self.member
            if member is None:
                plan = conductor.plan
                own = embedded(plan.study, shares, plan.scenarios, self.errors)
                member = stack.enter_context(own)
            run_on_ray(conductor, site, shares, member, interrupts)


@contextmanager
def executor(
    study: Study,
    console: Console,
    log: Path,
    *,
    address: Address | None,
    inline: bool,
    verbose: bool,
) -> Iterator[Executor]:
    """Make ready what runs a study: with Ray, what libraries write goes to `log`."""
    with ExitStack() as stack:
        member = None
        errors = Console(stderr=True, highlight=False)
        if not inline:
            errors = stack.enter_context(apart(console, log, verbose=verbose))
            if address is not None:
                configure(study.resources.cpu)
                notice_cuts()
                from orchestrator.executor.ray_cluster import joined

                there = joined(address, study, Store(study.store), errors)
                member = stack.enter_context(there)
        yield Executor(
            inline=inline,
            address=address,
            verbose=verbose,
            nodes=[this_machine()] if member is None else member.nodes,
            member=member,
            errors=errors,
        )
