"""A study on many GPUs in simulated time: ``python -m benchmarks.scale --gpus 1 8 64 512``.

The scheduler is the real one (plan, scheduler, decisions, shifts); only the work is not done: an
job takes the seconds below, which no clock waits for, and its result is made up. It says how
well a study fills machines that nobody has at hand, and what the driver itself costs.

The seconds are synthetic, of one GPU: an epoch of a victim on 50,000 images of 32 pixels, as often
as the study's recipe and the attacks' helpers say, and what an ascent and a relearning of the
defender's 500 take beside it; each job's times a factor of its own (log-normal). No two settings
share a relearning, which is the most there can be to do.
"""

import argparse
import heapq
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from benchmarks._common import report
from benchmarks.replay import Replay
from orchestrator.pipeline.catalog import JobCatalog
from orchestrator.plan.cost_model import lengths
from orchestrator.plan.jobs import Job, JobKind, JobResult
from orchestrator.plan.plan import Plan, Scenario, make_plan
from orchestrator.scheduler.callbacks import StudyCallback
from orchestrator.scheduler.scheduler import StudyScheduler
from orchestrator.spec.load import load_study
from orchestrator.store.study_folder import StudyFolder

EPOCH = {"preact_resnet18": 2.4, "vgg19_bn": 1.8, "vit_b_16": 24.0}  # seconds, 50,000 images
PIXELS = {"cifar10": 1.0, "cifar100": 1.0, "gtsrb": 0.8, "tiny_imagenet": 6.0}
LOADING = {"preact_resnet18": 1.0, "vgg19_bn": 1.0, "vit_b_16": 4.0}  # of a victim and test sets
ASCENT, RELEARN = 2.0, 3.0  # in epochs of a victim
SPREAD = 0.2  # standard deviation of the logarithm of a job's own factor
BETWEEN = 0.05  # seconds of Tune from one shift to the next on a worker


@dataclass(frozen=True)
class Outcome:
    """How a simulated study went, in seconds."""

    makespan: float
    work: float
    loading: float
    chain: float  # the longest of jobs that wait for each other
    driver: float
    done: int
    pruned: int
    relearns: int


class Costs:
    """How long each job of a plan takes on a GPU."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def _epoch(self, scenario: Scenario) -> float:
        return EPOCH[scenario.architecture.name] * PIXELS[scenario.dataset.name]

    def of(self, job: Job) -> float:
        """Return a job's seconds."""
        factor = Random(job.name).lognormvariate(0.0, SPREAD)  # noqa: S311 - no secret
        one = factor * self._epoch(job.scenario)
        recipe = self._plan.study.victim.config(
            job.scenario.dataset.name, job.scenario.poison.attack.name
        )
        if job.helper is not None:
            return one * job.helper.cost(recipe)
        if job.kind is JobKind.VICTIM:
            return one * recipe.epochs
        return one * (ASCENT if job.kind is JobKind.STAGE else RELEARN)

    def before(self, scenario: Scenario) -> float:
        """Return the typical seconds of a scenario's helpers and victim."""
        recipe = self._plan.study.victim.config(scenario.dataset.name, scenario.poison.attack.name)
        helpers = sum(helper.cost(recipe) for helper in scenario.helpers)
        return self._epoch(scenario) * (helpers + recipe.epochs)


class Simulation:
    """So many GPUs that take shifts from the scheduler, in simulated time."""

    def __init__(self, plan: Plan, folder: Path, *, near: bool, ordered: bool) -> None:
        self._plan, self._near = plan, near
        self._costs = Costs(plan)
        self._findings = Replay(plan)
        (folder / "logs").mkdir(parents=True)
        record = StudyFolder(folder)
        record.open_record()
        self._length = lengths(plan) if ordered else None
        self.scheduler = StudyScheduler(plan, record, self._findings, StudyCallback())
        self._chains = _Chains(plan)
        self._events: list[tuple[float, int, Job, float, bool]] = []
        self._number = 0
        self._work = self._loading = 0.0
        self._relearns = 0

    def run(self, gpus: int) -> Outcome:
        """Do the whole study."""
        started, now = time.process_time(), 0.0
        self.scheduler.open(self._length)
        free: list[Scenario | None] = [None] * gpus  # where each idle GPU was last
        while True:
            free = [last for last in free if not self._start(last, now, gpus)]
            if not self._events:
                break
            now, _, job, seconds, is_last = heapq.heappop(self._events)
            free += [job.scenario] * is_last
            self._finish(job, seconds)
        if not self.scheduler.decisions.complete():
            raise RuntimeError("the simulated study is not complete")
        statuses = self.scheduler.decisions
        verdicts = [statuses.verdict(trial) for trial in self._plan.trials]
        done = sum(verdict is not None and verdict.status.value == "done" for verdict in verdicts)
        return Outcome(
            makespan=now,
            work=self._work,
            loading=self._loading,
            chain=self._chains.longest,
            driver=time.process_time() - started,
            done=done,
            pruned=len(verdicts) - done,
            relearns=self._relearns,
        )

    def _start(self, last: Scenario | None, now: float, gpus: int) -> bool:
        """Give a GPU a shift, if there is one, and return whether there was."""
        jobs = self.scheduler.next_batch(gpus, last if self._near else None)
        at = now + BETWEEN
        for job in jobs:
            seconds = self._costs.of(job)
            at += seconds + self._load(job, last)
            last = job.scenario
            self._number += 1
            heapq.heappush(self._events, (at, self._number, job, seconds, job is jobs[-1]))
        return bool(jobs)

    def _load(self, job: Job, last: Scenario | None) -> float:
        same = last is not None and last.number == job.scenario.number
        if same or not job.trials:
            return 0.0
        seconds = LOADING[job.scenario.architecture.name]
        self._loading += seconds
        return seconds

    def _finish(self, job: Job, seconds: float) -> None:
        self._work += seconds
        self._relearns += job.is_trial
        self._chains.add(job, seconds)
        self._findings.make(job)
        self.scheduler.finished(job, JobResult(spent=seconds))


class _Chains:
    """How long a scenario's jobs keep each other waiting: helpers, victim, ascent, one trial."""

    def __init__(self, plan: Plan) -> None:
        catalog = JobCatalog(plan)
        self._users: dict[str, list[int]] = defaultdict(list)
        for scenario in plan.scenarios:
            for job in catalog.helpers_of(scenario):
                self._users[job.name].append(scenario.number)
        self._own: dict[int, float] = defaultdict(float)
        self._last: dict[int, float] = defaultdict(float)

    def add(self, job: Job, seconds: float) -> None:
        """Note a job; relearnings wait for phase 1 but not for each other."""
        number = job.scenario.number
        if job.is_trial:
            self._last[number] = max(self._last[number], seconds)
        else:
            for user in self._users.get(job.name, [number]):
                self._own[user] += seconds

    @property
    def longest(self) -> float:
        return max(self._own[number] + self._last[number] for number in self._own)


def simulate(plan: Plan, gpus: int, *, near: bool = True, ordered: bool = True) -> Outcome:
    """Return how a study goes on so many GPUs."""
    with tempfile.TemporaryDirectory() as folder:
        return Simulation(plan, Path(folder) / "study", near=near, ordered=ordered).run(gpus)


def main(argv: Sequence[str] | None = None) -> None:
    """Print a line for each number of GPUs and each way to do it, and one of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("study", nargs="?", type=Path, default=Path("studies/paper.yaml"))
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64, 512])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    given = parser.parse_args(argv)
    overrides = ["store=memory://scale", "mlflow.uri=sqlite:///nowhere.db", *given.set]
    whole = make_plan(load_study(str(given.study), [*overrides, "prune=none"]))
    pruned = make_plan(load_study(str(given.study), overrides))
    ways: dict[str, tuple[Plan, bool, bool]] = {
        "every trial": (whole, True, True),
        "every trial, victims loaded anew": (whole, False, True),
        "every trial, victims in the plan's order": (whole, True, False),
        "with pruning": (pruned, True, True),
        "with pruning, victims in the plan's order": (pruned, True, False),
    }
    heads = ("GPUs", "way", "makespan, h", "efficiency", "loading", "÷ bound", "÷ greedy's bound")
    print("| " + " | ".join((*heads, "relearns", "driver, ms a trial")) + " |")
    print("|" + "---|" * (len(heads) + 2))
    found: list[dict[str, Any]] = []
    for gpus in given.gpus:
        for way, (plan, near, ordered) in ways.items():
            outcome = simulate(plan, gpus, near=near, ordered=ordered)
            print(line(gpus, way, outcome), flush=True)
            found.append({"gpus": gpus, "way": way, **outcome.__dict__})
    report("scale", n=len(whole.trials), outcomes=found)


def line(gpus: int, way: str, outcome: Outcome) -> str:
    """Return a row of the table.

    The bound is what no scheduler can beat: the work spread evenly, or the longest chain. The
    greedy one is what none that leaves no GPU idle can exceed (Graham 1969): their sum.
    """
    even = outcome.work / gpus
    bound = max(outcome.chain, even)
    greedy = even + (1 - 1 / gpus) * outcome.chain
    cells = (
        *(str(gpus), way, f"{outcome.makespan / 3600:.2f}"),
        *(f"{100 * even / outcome.makespan:.1f} %", f"{outcome.loading / outcome.work:.1%}"),
        *(f"{outcome.makespan / bound:.3f}", f"{outcome.makespan / greedy:.3f}"),
        *(
            f"{outcome.relearns:,}",
            f"{1000 * outcome.driver / (outcome.done + outcome.pruned):.2f}",
        ),
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
