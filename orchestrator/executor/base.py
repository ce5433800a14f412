"""Where a study is run: in this process, on a Ray of its own, on a running cluster."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from orchestrator.address import Address
from orchestrator.errors import ResourceError
from orchestrator.executor.ray_setup import configure, notice_cuts, use_plain_workers
from orchestrator.plan.jobs import Site
from orchestrator.plan.plan import Plan
from orchestrator.plan.resources import Node, Shares, this_machine
from orchestrator.scheduler.scheduler import StudyScheduler
from orchestrator.spec.model import Study
from orchestrator.store.store import Store
from orchestrator.terminal import Interrupts, apart, hush_libraries

if TYPE_CHECKING:
    from orchestrator.executor.ray_cluster import EmbeddedRay, Membership


@dataclass(kw_only=True)
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
    _own: "EmbeddedRay | None" = field(default=None, init=False)

    def begin(self, plan: Plan, shares: Shares) -> None:
        """Start what will run a plan, if it is to be started; it does so in the background.

        Until `run` the main thread may import anything but Ray Tune.
        """
        if self.inline or self.address is not None or self._own is not None:
            return
        configure(plan.study.resources.cpu)
        from orchestrator.executor.ray_cluster import EmbeddedRay

        hush_libraries(verbose=self.verbose)  # Ray sets its loggers up when it is imported
        self._own = EmbeddedRay(plan.study, shares, plan.scenarios, self.errors)

    def leave(self) -> None:
        """End what was started and leave what was joined: it may die from now on."""
        if self.member is not None:
            self.member.leave()
        if self._own is not None:
            self._own.close()
            self._own = None

    @property
    def text(self) -> str:
        """What the log of starts calls it."""
        return "inline" if self.inline else str(self.address or "Ray on this machine")

    def run(
        self, scheduler: StudyScheduler, site: Site, shares: Shares, interrupts: Interrupts
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
            run_inline(scheduler, site, interrupts)
            return
        self.begin(scheduler.plan, shares)
        member = self.member if self._own is None else self._own.member()
        if member is None:
            raise AssertionError("neither a Ray of this study's nor a cluster")
        from orchestrator.executor.ray_tune import run_on_ray

        hush_libraries(verbose=self.verbose)
        if self._own is not None:
            use_plain_workers()
        run_on_ray(scheduler, site, shares, member, interrupts)


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
        made = Executor(
            inline=inline,
            address=address,
            verbose=verbose,
            nodes=[this_machine()] if member is None else member.nodes,
            member=member,
            errors=errors,
        )
        stack.callback(made.leave)
        yield made
