"""How much real victims let settings share: ``python -m benchmarks.surface_counts STUDY.yaml``.

Takes a study's scenarios with the settings of `bench_surface`, 5 thresholds × 5 ratios × 4 alphas
× 3 defence seeds, does phase 1 of all of them in this process (and victims that the study's store
lacks), and counts the relearnings that differ. Phase 2 is not done: nothing of it decides that.
"""

import argparse
import sys
import time
from collections import defaultdict

from benchmarks._common import report, spread, summary, table
from benchmarks._sharing import SURFACE, Count, distinct_relearnings, scored
from orchestrator.errors import SpecError
from orchestrator.pipeline.catalog import JobCatalog
from orchestrator.pipeline.stages import StageRunner
from orchestrator.plan.jobs import Job, Site, victim_job
from orchestrator.plan.plan import Plan, Trial, make_plan
from orchestrator.plan.resources import Shares, this_machine
from orchestrator.spec.load import load_study
from orchestrator.store.keys import CacheKeys
from orchestrator.store.lookup import StageResults
from orchestrator.store.store import Store


def main(argv: list[str] | None = None) -> int:
    """Print a row per attack and the line of JSON, and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("study")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    given = parser.parse_args(argv)
    try:
        plan = make_plan(load_study(given.study, [*SURFACE, *given.set]))
    except SpecError as error:
        print(error, file=sys.stderr)
        return 2
    counter = Counter(plan)
    found: dict[str, list[tuple[Count, Count]]] = defaultdict(list)
    for number, scenario in enumerate(plan.scenarios):
        print(f"{number + 1} of {len(plan.scenarios)}: {scenario.text}", file=sys.stderr)
        found[scenario.poison.attack.name].append(counter.counts(number))
    everything = [pair for pairs in found.values() for pair in pairs]
    heads = ["attack", "victims", "relearnings", "epochs", "without sharing", "times fewer"]
    rows = [*found.items(), ("all", everything)]
    table(heads, [[name, len(pairs), *columns(pairs)] for name, pairs in rows])
    report(
        "surface_counts",
        settings=len(plan.trials) // len(plan.scenarios),
        relearnings=summary([ours.relearnings for ours, _ in everything]),
        times_fewer=summary([alone.epochs / ours.epochs for ours, alone in everything]),
    )
    return 0


def columns(pairs: list[tuple[Count, Count]]) -> list[str]:
    """Return the numbers of a row: medians over victims, with the smallest and largest."""
    return [
        whole([ours.relearnings for ours, _ in pairs]),
        whole([ours.epochs for ours, _ in pairs]),
        whole([alone.epochs for _, alone in pairs]),
        spread([alone.epochs / ours.epochs for ours, alone in pairs]),
    ]


def whole(values: list[int]) -> str:
    """Return a median of counts with the smallest and largest."""
    told = summary(values)
    return f"{told['median']:.0f} ({told['low']}–{told['high']})"


class Counter:
    """Phase 1 of every scenario, done as a worker would."""

    def __init__(self, plan: Plan) -> None:
        study = plan.study
        compute = Shares(study, [this_machine()]).compute
        keys = CacheKeys(study.victim, compute)
        self._findings = StageResults(Store(study.store), keys)
        site = Site(
            store=study.store, study="counts", device=compute.device, threads=compute.threads
        )
        self._workshop = StageRunner(site, study.victim)
        self._plan, self._catalogue = plan, JobCatalog(plan)
        self._trials: dict[int, list[Trial]] = defaultdict(list)
        for trial in plan.trials:
            self._trials[trial.scenario.number].append(trial)

    def counts(self, number: int) -> tuple[Count, Count]:
        """Return the work of one scenario's settings, shared and each for itself."""
        scenario = self._plan.scenarios[number]
        for helper in self._catalogue.helpers_of(scenario):
            self._do(helper)
        self._do(victim_job(scenario))
        for group in self._catalogue.groups_in(number):
            self._do(group.job)
        trials = self._trials[number]
        found = scored(self._findings, trials)
        ascents: dict[str, int] = {}  # the epoch at which each may stop
        for one in found:
            ascent = next(run.key for run in one.runs if run.stage == "unlearn")
            ascents[ascent] = max(ascents.get(ascent, 0), one.scores.stop_epoch)
        relearnings = distinct_relearnings(trials, found)
        keys = len({one.relearn_key for one in found})
        if relearnings != keys:
            raise RuntimeError(f"{keys} keys for {relearnings} distinct relearnings")
        epochs = trials[0].hyperparameters.relearn.relearn_epochs
        shared = Count(
            ascents=len(ascents),
            ascent=sum(ascents.values()),
            relearnings=relearnings,
            relearn=relearnings * epochs,
        )
        alone = Count(
            ascents=len(trials),
            ascent=sum(one.scores.stop_epoch for one in found),
            relearnings=len(trials),
            relearn=len(trials) * epochs,
        )
        return shared, alone

    def _do(self, item: Job) -> None:
        for progress in self._workshop.work(item):
            time.sleep(progress.pause)  # while another program makes it


if __name__ == "__main__":
    sys.exit(main())
