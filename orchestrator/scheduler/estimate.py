"""Estimated time of a plan, and the timings of stages that it uses.

Seconds come from the stored results, of earlier studies too; where there are none, from a few
steps of the networks, timed now. Each is a mean, in seconds per unit of load, of a kind of job
on one network and dataset.
"""

from collections import defaultdict
from collections.abc import Collection, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TypeAlias

from orchestrator.errors import ResourceError
from orchestrator.pipeline.catalog import JobCatalog
from orchestrator.pipeline.chain import chain_of, reached
from orchestrator.plan.cost_model import (
    Calibration,
    Size,
    StageShape,
    Workload,
    kind_of,
    kinds_of,
    machine_of,
    shape_of,
    size_of,
)
from orchestrator.plan.jobs import Job, victim_job
from orchestrator.plan.plan import Plan, Scenario, Trial
from orchestrator.plan.resources import Compute
from orchestrator.scheduler.decisions import Decisions, Status, TrialOutcome
from orchestrator.scheduler.scheduler import TrialOutcomes
from orchestrator.spec.model import LogModels
from orchestrator.store.keys import CacheKeys, result_key
from orchestrator.store.lookup import Findings, RepairResult, StageResults, VictimResult
from orchestrator.store.serialization import PACE, StoredPace
from orchestrator.store.store import Store
from orchestrator.store.study_folder import Cuts
from ulrl.datasets import DatasetError
from ulrl.interchange import ImportRefused
from ulrl.models import WeightsError
from ulrl.precision import Precision
from ulrl.weight_selection import Suspects

VERSION = 1  # of the stored timings
NO_SUSPECTS = Suspects(layers=(), reset_bias=False)
PACKED = 0.25  # by how much more at most workers do that share a GPU, than one of them alone
START_SECONDS = 12.0  # until workers work: imports, Ray, MLflow's tables
END_SECONDS = 6.0  # for the report and what MLflow still lacks
CURVE_BYTES = 4096  # of a relearning without its weights

Machine: TypeAlias = tuple[str, str]
Kind: TypeAlias = tuple[str, Machine]


class Source(StrEnum):
    """Where an estimate's seconds come from."""

    TAKEN = "what such stages took before"
    TIMED = "steps of these networks, timed now"
    ARITHMETIC = "arithmetic"


@dataclass
class StageTiming:
    """Seconds, and the load that they went into."""

    seconds: float = 0.0
    load: float = 0.0

    def add(self, seconds: float, load: float) -> None:
        """Add a job, or a part of one."""
        self.seconds += seconds
        self.load += load

    @property
    def rate(self) -> float | None:
        """Seconds per unit of load, once there is some."""
        return self.seconds / self.load if self.load else None


class StageTimings:
    """Timings by kind of job, network and dataset."""

    def __init__(self) -> None:
        self.known: dict[Kind, StageTiming] = defaultdict(StageTiming)

    def note(self, kind: Kind, seconds: float, load: float) -> None:
        """Add a job's seconds and load."""
        self.known[kind].add(seconds, load)

    def rate(self, kind: Kind) -> float | None:
        """Return seconds per unit of load, None if none is known."""
        return self.known[kind].rate if kind in self.known else None


def timed_as(job: Job) -> Kind:
    """Return what jobs have in common that take as long for the same load."""
    name = kind_of(job.trial, job.position) if job.trials else job.kind.value
    return name, machine_of(job.scenario)


def gather(
    plan: Plan,
    victims: Mapping[int, VictimResult],
    scores: Mapping[int, Findings],
    repairs: Mapping[int, RepairResult],
) -> StageTimings:
    """Return the timings of all results that a study rests on, of other studies too.

    Args:
        plan: The study's.
        victims: What the store has, by the scenario's number; the others by the trial's.
        scores: Of phase 1.
        repairs: Of phase 2.
    """
    found, load = StageTimings(), Workload(plan)
    for scenario in plan.scenarios:
        if (victim := victims.get(scenario.number)) is not None:
            spent = sum(run.seconds for run in victim.runs)  # without its helpers
            found.note(("victim", machine_of(scenario)), spent, load.victim(scenario).passes)
    seen: set[str] = set()
    for trial in plan.trials:
        machine = machine_of(trial.scenario)
        scored, repaired = scores.get(trial.number), repairs.get(trial.number)
        if scored is not None and scored.runs and scored.runs[0].key not in seen:
            seen.add(scored.runs[0].key)
            spent_in = [scored.seconds]  # of ULRL's ascent with its scores
            if trial.method is not None:
                spent_in = [run.seconds for run in scored.runs]
            for position, seconds in enumerate(spent_in):
                kind = kind_of(trial, position), machine
                found.note(kind, seconds, load.stage(trial, position).passes)
        if scored is not None and repaired is not None and scored.relearn_key not in seen:
            seen.add(scored.relearn_key)
            last = len(kinds_of(trial)) - 1
            kind = kind_of(trial, last), machine
            found.note(kind, repaired.seconds, load.stage(trial, last).passes)
    return found


def keep(store: Store, compute: Compute, timings: StageTimings) -> None:
    """Store timings for later studies; a store that takes none is no error here."""
    with suppress(ResourceError):
        for kind, timing in timings.known.items():
            content = StoredPace(seconds=timing.seconds, load=timing.load)
            PACE.write(store, _key(kind, compute), content)


def recall(store: Store, compute: Compute, plan: Plan) -> StageTimings:
    """Return the timings that earlier studies stored of a plan's networks and datasets."""
    found = StageTimings()
    methods = {trial.method: trial for trial in plan.trials}
    stages = [kind for trial in methods.values() for kind in kinds_of(trial)]
    for machine in {machine_of(scenario) for scenario in plan.scenarios}:
        for name in ("helper", "victim", *stages):
            stored = PACE.peek(store, _key((name, machine), compute))
            if stored is not None:
                found.note((name, machine), stored.content.seconds, stored.content.load)
    return found


def _key(kind: Kind, compute: Compute) -> str:
    config = {"kind": kind[0], "machine": list(kind[1]), "compute": compute}
    return result_key(PACE.name, VERSION, config, {})


class StageCosts:
    """Seconds and bytes of each job on one worker, from the best source there is."""

    def __init__(self, plan: Plan, timings: StageTimings, compute: Compute) -> None:
        self._load = Workload(plan)
        self._timings = timings
        self._keeps = plan.study.mlflow.log_models is LogModels.ALL
        machines = {machine_of(scenario) for scenario in plan.scenarios}
        self._gpu = compute.device == "cuda"
        # A victim's batches and the defender's; a GPU replays some trainings, and others not.
        kinds = (3 if self._gpu else 2) * len(machines)
        self._calibration = Calibration(compute.device, compute.threads, kinds)

    def of(self, job: Job) -> tuple[float, Source]:
        """Return a job's seconds, and where they come from."""
        load, rate = self._load.of(job), self._timings.rate(timed_as(job))
        if rate is not None:
            return rate * load.passes, Source.TAKEN
        classes, channels, side = shape_of(job.scenario.dataset)
        kind = StageShape(
            architecture=job.scenario.architecture,
            classes=classes,
            channels=channels,
            side=side,
            preprocessing=job.scenario.preprocessing,
            batch=load.batch,
            precision=Precision.AUTO,
            replayed=load.replayed or not self._gpu,
        )
        speed = self._calibration.speed(kind)
        seconds = load.trained * speed.train + load.tested * speed.test
        return seconds, Source.TIMED if speed.timed else Source.ARITHMETIC

    def weights(self, scenario: Scenario) -> float:
        """Return the bytes of a network."""
        return 4.0 * self._size(scenario).parameters

    def head(self, scenario: Scenario) -> float:
        """Return the bytes of what an ascent keeps."""
        return 4.0 * self._size(scenario).head * 4

    def repaired(self, scenario: Scenario) -> float:
        """Return the bytes of a relearning."""
        return CURVE_BYTES + (self.weights(scenario) if self._keeps else 0)

    @staticmethod
    def _size(scenario: Scenario) -> Size:
        return size_of(scenario.architecture, *shape_of(scenario.dataset))


@dataclass(frozen=True, kw_only=True)
class PlanEstimate:
    """How much there is to do.

    Attributes:
        runs: Distinct results that the plan needs, per stage: an upper bound for relearning,
            which is shared where phase 1 agrees.
        cached: How many of them the store has.
        relearns: Of these, as many as there will be if thresholds flag the same neurons; what
            pruning may still spare is among them.
        seconds: Of one worker, for what is missing of as many.
        stages: Of these, what each stage and the evaluation of its models take.
        longest: Of these, the longest chain that no number of workers makes shorter.
        disk: Bytes that the missing results will take.
        sources: Share of the seconds that each source vouches for.
    """

    runs: Mapping[str, int]
    cached: Mapping[str, int]
    relearns: int
    seconds: float
    stages: Mapping[str, float]
    longest: float
    disk: float
    workers: int
    gpu: float
    sources: Mapping[Source, float]

    @property
    def hours(self) -> float:
        """Wall-clock hours, with start and end."""
        if not self.seconds:
            return 0.0
        work = max(self.seconds / self.workers, self.longest)
        return (START_SECONDS + work + END_SECONDS) / 3600

    @property
    def gpu_hours(self) -> float:
        """Hours of GPUs: those that share one are there together."""
        held = self.gpu if self.gpu >= 1 else float(self.gpu > 0)
        return self.seconds / sharing(self.workers, self.gpu) * held / 3600


@dataclass
class _Count:
    crowd: float  # how much longer a job takes beside those that share its GPU
    costs: StageCosts
    runs: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    cached: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    sources: dict[Source, float] = field(default_factory=lambda: defaultdict(float))
    stages: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    disk: float = 0.0
    relearns: set[Hashable] = field(default_factory=set)

    def add(self, job: Job, *, cached: bool, disk: float) -> float:
        """Count a job and return the seconds that it will take alone, 0 if its result is there."""
        stage = job.stage
        if job.trials and job.trial.method is not None:
            stage = kind_of(job.trial, job.position)
        self.runs[stage] += 1
        self.cached[stage] += cached
        if cached:
            return 0.0
        alone, source = self.costs.of(job)
        seconds = alone if source is Source.TAKEN else alone * self.crowd
        self.stages[stage] += seconds
        self.sources[source] += seconds
        self.disk += disk
        return alone


def estimate(
    plan: Plan,
    store: Store,
    keys: CacheKeys,
    workers: int,
    gpu: float,
    cuts: Cuts | None = None,
) -> PlanEstimate:
    """Count what `plan` needs and what `store` has, and estimate the rest.

    Trials that the stored results prune are not counted, those that pruning will spare are.
    Nothing but the store's present entries is read, and nothing is written.

    Args:
        plan: The study's.
        store: Where results are, or not.
        keys: Of these results.
        workers: How many work at once.
        gpu: What each takes of a GPU.
        cuts: Curves of relearnings that were cut before, by their keys.
    """
    findings, catalog = StageResults(store, keys), JobCatalog(plan)
    victims, trained = _victims(plan, findings)
    scores, repairs = _present(plan, findings, trained)
    pruned = _pruned(plan, TrialOutcomes(plan, findings), scores, repairs, cuts or {})
    timings = recall(store, keys.compute, plan)
    timings.known |= gather(plan, victims, scores, repairs).known
    costs = StageCosts(plan, timings, keys.compute)
    count = _Count(crowd=crowding(sharing(workers, gpu)), costs=costs)
    groups: dict[int, dict[object, list[Trial]]] = defaultdict(lambda: defaultdict(list))
    for group in catalog.groups:
        wanted = [t for t in group.trials if t.number not in pruned or t.number in repairs]
        if wanted:
            groups[group.scenario.number][group.shared] += wanted
    helped: dict[str, float] = {}
    for job in catalog.helpers:
        known = False
        with suppress(DatasetError, WeightsError):
            known = job.helper is not None and findings.helper(job.scenario, job.helper) is not None
        helped[job.name] = count.add(job, cached=known, disk=costs.weights(job.scenario))
    longest = 0.0
    for scenario in plan.scenarios:
        known, weights = scenario.number in trained, costs.weights(scenario)
        chain = sum(helped[job.name] for job in catalog.helpers_of(scenario))
        chain += count.add(victim_job(scenario), cached=known, disk=weights)
        for trials in groups[scenario.number].values():
            if trials[0].method is None:
                chain += _count_group(count, catalog, trials, findings, scores, repairs)
            else:
                done = len(reached(findings, trials[0])) - 1 if known else 0
                done += trials[0].number in repairs
                chain += _count_stages(count, catalog, trials[0], done)
        longest = max(longest, chain)
        if plan.study.mlflow.log_models is LogModels.BEST and not known:
            count.disk += weights
    total = sum(count.stages.values())
    return PlanEstimate(
        runs=dict(count.runs),
        cached=dict(count.cached),
        relearns=len(count.relearns),
        seconds=total,
        stages=dict(count.stages),
        longest=longest,
        disk=count.disk,
        workers=workers,
        gpu=gpu,
        sources={source: part / total for source, part in count.sources.items() if part},
    )


def _count_group(
    count: _Count,
    catalog: JobCatalog,
    trials: list[Trial],
    findings: StageResults,
    scores: Mapping[int, Findings],
    repairs: Mapping[int, RepairResult],
) -> float:
    """Count an ascent and its relearnings; return the seconds of it and one of them."""
    known = all(trial.number in scores for trial in trials)
    ascent, scenario = catalog.group_of(trials[0]).job, trials[0].scenario
    chain = count.add(ascent, cached=known, disk=count.costs.head(scenario))
    longest, disk = 0.0, count.costs.repaired(scenario)
    for trial in trials:
        result = scores[trial.number].relearn_key if known else likely_relearning(trial)
        if result not in count.relearns:
            count.relearns.add(result)
            done = known and (trial.number in repairs or findings.is_relearned(str(result)))
            spent = count.add(catalog.job(trial, 1), cached=done, disk=disk)
            longest = max(longest, spent)
        elif not known:  # not expected, but possible
            count.runs["relearn"] += 1
            count.disk += disk
    return chain + longest


def _count_stages(count: _Count, catalog: JobCatalog, trial: Trial, done: int) -> float:
    """Count the stages of another method than ULRL, `done` of them there; return their seconds."""
    last, costs = len(chain_of(trial)) - 1, count.costs
    return sum(
        count.add(
            catalog.job(trial, position),
            cached=position < done,
            disk=costs.weights(trial.scenario)
            if position < last
            else costs.repaired(trial.scenario),
        )
        for position in range(last + 1)
    )


def likely_relearning(trial: Trial) -> Hashable:
    """Return what a trial's relearning depends on if every threshold flags the same neurons.

    An ascent passes its thresholds within few epochs, mostly with the same neurons ahead.
    Which of their weights moved most does change on its way, so settings that differ by the
    threshold are taken to agree where the ratio marks all weights or none.
    """
    parts = trial.hyperparameters
    place = (trial.scenario.number, trial.defence_seed, parts.clean)
    if parts.score.max_suspects == 0:
        return (*place, parts.relearn.effective(NO_SUSPECTS))
    score = parts.score
    if parts.reset.reinit_ratio in (0, 1):
        score = replace(score, unlearn_threshold=0)
    return (*place, parts.unlearn, score, parts.reset, parts.relearn)


def sharing(workers: int, gpu: float) -> int:
    """Return how many of the workers share a GPU: Ray fills one before it takes the next."""
    return min(workers, int(1 / gpu)) if 0 < gpu < 1 else 1


def crowding(workers: int) -> float:
    """Return how many times longer a job takes where so many workers share a GPU.

    One worker nearly fills it: 2, 4 and 8 did 1.15, 1.18 and 1.22 times the trials of one on
    an H200 (benchmarks/results/2026-11-26-h200.md).
    """
    return workers / (1 + PACKED * (1 - 1 / workers))


def _victims(plan: Plan, findings: StageResults) -> tuple[dict[int, VictimResult], set[int]]:
    """Return the victims that are evaluated, and the scenarios of all that are trained.

    There are none where a file that names one is missing. An older version's store may have a
    victim whose evaluation only is to be repeated.
    """
    found: dict[int, VictimResult] = {}
    trained: set[int] = set()
    for scenario in plan.scenarios:
        with suppress(DatasetError, ImportRefused, WeightsError):
            victim = findings.victim(scenario)
            if victim is not None:
                found[scenario.number] = victim
            if victim is not None or findings.is_trained(scenario):
                trained.add(scenario.number)
    return found, trained


def _present(
    plan: Plan, findings: StageResults, trained: Collection[int]
) -> tuple[dict[int, Findings], dict[int, RepairResult]]:
    """Return what the store has of each trial."""
    scores: dict[int, Findings] = {}
    repairs: dict[int, RepairResult] = {}
    for trial in plan.trials:
        if trial.scenario.number not in trained:
            continue
        befores, stages = reached(findings, trial), chain_of(trial)
        if len(befores) == len(stages):
            scores[trial.number] = scored = befores[-1]
            if (repaired := stages[-1].repaired(findings, trial, scored)) is not None:
                repairs[trial.number] = repaired
    return scores, repairs


def _pruned(
    plan: Plan,
    outcomes: TrialOutcomes,
    scores: Mapping[int, Findings],
    repairs: Mapping[int, RepairResult],
    cuts: Cuts,
) -> set[int]:
    """Return the trials that pruning spares, by what is known already."""
    prune = plan.study.prune
    if (prune.setting is None and prune.curve is None) or not (repairs or cuts):
        return set()
    decisions = Decisions(plan)
    for trial in decisions.order:
        repaired, scored = repairs.get(trial.number), scores.get(trial.number)
        outcome = None if repaired is None else outcomes.of_repair(trial, repaired)
        cut = None if scored is None else cuts.get(scored.relearn_key)
        if outcome is None and cut is not None:
            outcome = TrialOutcome(curve=outcomes.of_curve(trial, cut))
        if outcome is not None:
            decisions.offer(trial, outcome)
    verdicts = [decisions.verdict(trial) for trial in plan.trials]
    return {v.trial.number for v in verdicts if v is not None and v.status is Status.PRUNED}
