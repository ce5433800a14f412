"""What a study would do: ``--plan``."""

import io
from collections import defaultdict
from collections.abc import Collection, Mapping
from html import escape
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.cli.summary import stage_names
from orchestrator.errors import ResourceError
from orchestrator.pipeline.victims import check_imports
from orchestrator.plan.columns import count, span
from orchestrator.plan.cost_model import kinds_to_share
from orchestrator.plan.plan import Plan, make_plan
from orchestrator.plan.resources import Shares, this_machine
from orchestrator.scheduler.estimate import PlanEstimate, estimate
from orchestrator.scheduler.sampling import foresee, recorded
from orchestrator.search.abandonment import forecast
from orchestrator.spec.load import missing_data
from orchestrator.spec.model import Device, Study
from orchestrator.store.keys import CacheKeys
from orchestrator.store.store import Store
from orchestrator.store.study_folder import StudyFolder

BOUNDED = frozenset(["relearn"])  # stages of which a plan counts as many as there can be


def check_start(folder: StudyFolder, store: Store) -> None:
    """Refuse what a run cannot begin with, as far as that shows without writing anything.

    A run and its plan both ask here, so that a plan passes only what a run does not refuse
    for its files.

    Raises:
        ResourceError: The study folder lies where something else is, or it or a local store
            can be no folder, or the folder's record is another program's.
    """
    if store.folder is not None:
        out, place = folder.path.resolve(), store.folder.resolve()
        if place in (out, *out.parents):
            text = "the store" if place == out else "inside the store"
            raise ResourceError(f"{out} is {text}; name another study folder with --out")
    folder.check()
    store.look()


class StudyPlan:
    """What a study would do; nothing is run, written or needed on disk.

    Attributes:
        trials, scenarios, settings: How many there are; of drawn settings, as many as there
            may be.
        runs: Distinct results that the trials need, by stage: an upper bound for
            ``relearn``, and for stages after a cut.
        cached: How many of them the store has.
        workers: That would run at once.
        hours: Estimated time.
        gpu_hours: Of all workers together.
        disk: Bytes that the missing results will take.

    Raises:
        ResourceError: A run could not begin.
    """

    def __init__(self, study: Study, out: Path, *, inline: bool) -> None:
        folder, store = StudyFolder(out), Store(study.store)
        self._study, self._plan = study, make_plan(study, recorded(study, folder))
        plan = self._plan
        check_start(folder, store)
        check_imports(plan, absent=False)
        self._known = len(plan.settings)
        foresee(plan)
        self._missing = missing_data(study)
        here = this_machine()
        shares = Shares(study, [here])
        taken = shares.all(plan.scenarios)
        self.workers = 1 if inline else shares.likely([here], plan.scenarios)
        keys = CacheKeys(study.victim, shares.compute)
        gpu = max(share.gpu for share in taken)
        self._cost = cost = estimate(
            plan, store, keys, self.workers, gpu, folder.cuts(), folder.skips()
        )
        self._remark = "" if here.gpus or not cost.seconds else _without_gpu(shares.device, study)
        self.trials, self.scenarios = len(plan.trials), len(plan.scenarios)
        self.settings = len(plan.settings)
        self.runs, self.cached = cost.runs, cost.cached
        self.hours, self.gpu_hours, self.disk = cost.hours, cost.gpu_hours, cost.disk

    def show(self, console: Console) -> None:
        """Print the plan."""
        study, plan, cost, known = self._study, self._plan, self._cost, self._known
        console.print(f"[bold]{study.name}[/]: {counts(plan)}", soft_wrap=True)
        if study.search is not None:
            drawn = f"{known} {_are(known)} drawn, " if known else ""
            left = len(plan.settings) - known
            console.print(
                f"{drawn}{left} {_are(left)} to be drawn by {study.search.sampler}; "
                f"counts and costs below are of as many drawn at random",
                soft_wrap=True,
            )
        bounded = BOUNDED | kinds_to_share(plan.trials)
        console.print(planned(len(plan.trials), cost.runs, bounded), soft_wrap=True)
        table = Table("stage", "runs after sharing", "cached", box=None, padding=(0, 2))
        for stage, name in stage_names(cost.runs).items():
            if stage in cost.runs:
                runs, cached = f"{cost.runs[stage]:,}", f"{cost.cached[stage]:,}"
                note = " of attacks" if stage == "train_helper" else ""
                note += " (at most)" if stage in bounded else ""
                table.add_row(f"{name}s{note}", runs, cached)
        console.print(table)
        console.print(
            f"about {span(cost.hours * 3600)} on {count(self.workers, 'worker')}; "
            + (f"{cost.gpu_hours:.2f} GPU-hours; " if cost.gpu else "")
            + f"{cost.disk / 1e6:,.0f} MB of disk"
        )
        for line in self._missing:
            console.print(Text(f"a run would be refused: {line}", "yellow"), soft_wrap=True)
        if self._remark:
            console.print(self._remark, soft_wrap=True)
        if cost.sources:
            parts = sorted(cost.sources.items(), key=lambda pair: -pair[1])
            text = ", ".join(f"{share:.0%} {source}" for source, share in parts)
            console.print(f"the time is estimated from: {text}", soft_wrap=True)
            if assumed := _assumed(study, cost):
                console.print(f"it counts {assumed}", soft_wrap=True)
        if study.prune.setting is not None:
            for line in _forecasts(plan, study.prune.setting.arguments):
                console.print(line, soft_wrap=True)

    def __str__(self) -> str:
        text = io.StringIO()
        console = Console(
            file=text, width=100, highlight=False, force_jupyter=False, force_terminal=False
        )
        self.show(console)
        return text.getvalue().rstrip()

    __repr__ = __str__  # what a prompt shows

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


def _forecasts(plan: Plan, arguments: Mapping[str, Any]) -> list[str]:
    """Return what the pruner of settings does, once for all methods of which it is the same."""
    families = [plan.family_of(scenario) for scenario in plan.scenarios if not scenario.benign]
    methods: dict[str, list[str]] = defaultdict(list)
    for method, settings in plan.settings_of_methods.items():
        methods[forecast(settings, families, arguments)].append(method)
    if len(methods) == 1:
        return list(methods)
    return [f"{', '.join(names)}: {text}" for text, names in methods.items()]


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def _without_gpu(device: Device, study: Study) -> str:
    """Return what a plan made on a machine without a GPU cannot say, and what to do."""
    if device is Device.CUDA:
        return (
            "this machine has no GPU, so steps were not timed; plan on one that has, or with the "
            "store of a study that ran there"
        )
    if study.resources.device is Device.CPU or study.resources.gpus:
        return ""
    return (
        "this machine has no GPU, so this is the time on its CPUs; on a GPU: --set resources.gpu=1"
    )


def planned(trials: int, counts: Mapping[str, int], bounded: Collection[str] = BOUNDED) -> str:
    """Return what so many trials need: "81 trials → 9 victims, 9 ascents, at most 81 relearns"."""
    parts = [
        f"{'at most ' if stage in bounded else ''}{count(counts[stage], name)}"
        for stage, name in stage_names(counts).items()
        if counts.get(stage)
    ]
    return f"{count(trials, 'trial')} → {', '.join(parts)}"


def _assumed(study: Study, cost: PlanEstimate) -> str:
    """Return what the time rests on besides speed, nothing if there is nothing to assume."""
    most = cost.runs.get("relearn", 0)
    prune = study.prune
    doubts = []
    if cost.relearns < most:
        doubts.append("thresholds flag the same neurons")
    if cost.cached.get("relearn", 0) < most and (prune.setting or prune.curve):
        doubts.append("pruning spares none")
    return f"{count(cost.relearns, 'relearn')}, as if {' and '.join(doubts)}" if doubts else ""


def counts(plan: Plan) -> str:
    """Return how large a study is, in one line."""
    scenarios, search = count(len(plan.scenarios), "scenario"), plan.study.search
    if search is not None:
        settings, to_draw = count(search.settings, "setting"), plan.to_draw
        if len(to_draw) > 1:
            fewer = [f"{m} has {most}" for m, most in to_draw.items() if most < search.settings]
            settings += f" of each of {len(to_draw)} repair methods"
            settings += f" ({', '.join(fewer)})" if fewer else ""
        return (
            f"{scenarios} × {settings} drawn by {search.sampler} = at "
            f"most {count(plan.planned_trials, 'trial')}"
        )
    whole = len(plan.scenarios) * len(plan.settings)
    seeds = plan.study.grid.settings.get("defence_seed", ())
    draws = len(seeds) if isinstance(seeds, tuple) and len(seeds) > 1 else 1
    excluded = f" - {whole - len(plan.trials):,} excluded" if whole > len(plan.trials) else ""
    settings = count(len(plan.settings) // draws, "setting")
    settings += f" × {count(draws, 'defence seed')}" if draws > 1 else ""
    return f"{scenarios} × {settings}{excluded} = {count(len(plan.trials), 'trial')}"
