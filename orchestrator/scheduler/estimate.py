"""Estimated time of a plan, and the timings of stages that it uses.

Seconds come from the stored results, of earlier studies too; where there are none, from a few
steps of the networks, timed now. Each is a mean, in seconds per unit of load, of a kind of job
on one network and dataset.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeAlias

from orchestrator.errors import ResourceError
from orchestrator.pipeline.audits import find_audit
from orchestrator.pipeline.catalog import JobCatalog
from orchestrator.pipeline.chain import chain_of, reached
from orchestrator.pipeline.ulrl_chain import find_ascent
from orchestrator.plan.audits import planned_audits
from orchestrator.plan.cost_model import (
    Calibration,
    JobLoad,
    Size,
    Speed,
    StageShape,
    Workload,
    kind_of,
    kinds_of,
    machine_of,
    shape_of,
    size_of,
)
from orchestrator.plan.jobs import Job, audit_job, victim_job
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
from ulrl.methods import RepairStage
from ulrl.models import WeightsError
from ulrl.precision import Precision
from ulrl.weight_selection import Suspects

VERSION = 1  # of the stored timings
NO_SUSPECTS = Suspects(layers=(), reset_bias=False)
PACKED = 0.25  # by how much more at most workers do that share a GPU, than one of them alone
START_SECONDS = 12.0  # until workers work: imports, Ray, MLflow's tables
END_SECONDS = 6.0  # for the report and what MLflow still lacks
CURVE_BYTES = 4096  # of a relearning without its weights

Kind: TypeAlias = tuple[str, tuple[str, str]]  # of a job, and the network and dataset


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


Timings: TypeAlias = dict[Kind, StageTiming]


def gather(
    plan: Plan,
    victims: Mapping[int, VictimResult],
    scores: Mapping[int, Findings],
    repairs: Mapping[int, RepairResult],
) -> Timings:
    """Return the timings of all results that a study rests on, of other studies too.

    Args:
        plan: The study's.
        victims: What the store has, by the scenario's number; the others by the trial's.
        scores: Of phase 1.
        repairs: Of phase 2.
    """
    found: Timings = defaultdict(StageTiming)
    load, seen = Workload(plan), set[str]()
    for scenario in plan.scenarios:
        if (victim := victims.get(scenario.number)) is not None:
            spent = sum(run.seconds for run in victim.runs)  # without its helpers
            found["victim", machine_of(scenario)].add(spent, load.victim(scenario).passes)
    for trial in plan.trials:
        scored, repaired = scores.get(trial.number), repairs.get(trial.number)
        if scored is None:
            continue
        spent_in: dict[int, float] = {}  # by the stage's position
        if scored.runs and scored.runs[0].key not in seen:
            seen.add(scored.runs[0].key)
            # ULRL's ascent is one stage with its scores.
            ulrl = trial.method is None
            spent_in |= enumerate([scored.seconds] if ulrl else [r.seconds for r in scored.runs])
        if repaired is not None and scored.relearn_key not in seen:
            seen.add(scored.relearn_key)
            spent_in[len(kinds_of(trial)) - 1] = repaired.seconds
        for position, spent in spent_in.items():
            kind = kind_of(trial, position), machine_of(trial.scenario)
            found[kind].add(spent, load.stage(trial, position).passes)
    return found


def keep(store: Store, compute: Compute, timings: Timings) -> None:
    """Store timings for later studies; a store that takes none is no error here."""
    with suppress(ResourceError):
        for kind, timing in timings.items():
            content = StoredPace(seconds=timing.seconds, load=timing.load)
            PACE.write(store, _key(kind, compute), content)


def recall(store: Store, compute: Compute, plan: Plan) -> Timings:
    """Return the timings that earlier studies stored of a plan's networks and datasets."""
    found: Timings = {}
    methods = {trial.method: trial for trial in plan.trials}
    stages = [kind for trial in methods.values() for kind in kinds_of(trial)]
    for machine in {machine_of(scenario) for scenario in plan.scenarios}:
        for name in ("helper", "victim", *stages):
            stored = PACE.peek(store, _key((name, machine), compute))
            if stored is not None:
                found[name, machine] = StageTiming(stored.content.seconds, stored.content.load)
    return found


def _key(kind: Kind, compute: Compute) -> str:
    config = {"kind": kind[0], "machine": list(kind[1]), "compute": compute}
    return result_key(PACE.name, VERSION, config, {})


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


def estimate(
    plan: Plan,
    store: Store,
    keys: CacheKeys,
    workers: int,
    gpu: float,
    cuts: Cuts | None = None,
    skips: Collection[str] = (),
) -> PlanEstimate:
    """Count what `plan` needs and what `store` has, and estimate the rest.

    Trials that the stored results prune, or whose method was found not to apply, are not counted;
    those that pruning will spare are.
    Nothing but the store's present entries is read, and nothing is written.

    Args:
        plan: The study's.
        store: Where results are, or not.
        keys: Of these results.
        workers: How many work at once.
        gpu: What each takes of a GPU.
        cuts: Curves of relearnings that were cut before, by their keys.
        skips: Keys of stages whose method does not apply.
    """
    count = _JobCount(plan, store, keys, crowding(sharing(workers, gpu)), skips)
    longest = count.add_all(cuts or {})
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


class _JobCount:
    """Counts a plan's jobs, and adds up the seconds and bytes of those without a result."""

    def __init__(
        self, plan: Plan, store: Store, keys: CacheKeys, crowd: float, skips: Collection[str]
    ) -> None:
        self._plan, self._findings = plan, StageResults(store, keys)
        self._skips = skips
        self._skipped: set[int] = set()  # trials, by number
        self._crowd = crowd  # how much longer a job takes beside those that share its GPU
        self._catalog, self._load = JobCatalog(plan), Workload(plan)
        self._trained: set[int] = set()  # scenarios with a victim, evaluated or not
        self._found: dict[int, int] = {}  # stages before the last one, by the trial's number
        self._scores: dict[int, Findings] = {}  # likewise
        self._repairs: dict[int, RepairResult] = {}
        self._timings = recall(store, keys.compute, plan)
        self._timings |= gather(plan, self._read(), self._scores, self._repairs)
        self._gpu = keys.compute.device == "cuda"
        # A victim's batches and the defender's; a GPU replays some trainings, and others not.
        kinds = (3 if self._gpu else 2) * len({machine_of(s) for s in plan.scenarios})
        self._rates: dict[tuple[int, str, int, bool], float | Speed] = {}
        self._sizes: dict[int, Size] = {}
        self._calibration = Calibration(keys.compute.device, keys.compute.threads, kinds)
        self.runs: Counter[str] = Counter()
        self.cached: Counter[str] = Counter()
        self.sources: dict[Source, float] = defaultdict(float)
        self.stages: dict[str, float] = defaultdict(float)
        self.disk = 0.0
        self.relearns: set[Hashable] = set()
        self._likely: set[Hashable] = set()  # of trials whose relearnings are counted

    def _read(self) -> dict[int, VictimResult]:
        """Read what the store has of each trial, and return the victims that are evaluated.

        There are none where a file that names one is missing. An older version's store may have
        a victim whose evaluation only is to be repeated.
        """
        victims: dict[int, VictimResult] = {}
        for scenario in self._plan.scenarios:
            with suppress(DatasetError, ImportRefused, WeightsError):
                victim = self._findings.victim(scenario)
                if victim is not None:
                    victims[scenario.number] = victim
                if victim is not None or self._findings.is_trained(scenario):
                    self._trained.add(scenario.number)
        for trial in self._plan.trials:
            if trial.scenario.number not in self._trained:
                continue
            befores, stages = reached(self._findings, trial), chain_of(trial)
            self._found[trial.number] = len(befores) - 1
            if befores[-1].relearn_key in self._skips:
                self._skipped.add(trial.number)
            if len(befores) == len(stages):
                self._scores[trial.number] = befores[-1]
                repaired = stages[-1].repaired(self._findings, trial, befores[-1])
                if repaired is not None:
                    self._repairs[trial.number] = repaired
        return victims

    def add_all(self, cuts: Cuts) -> float:
        """Count all jobs, and return the seconds of the longest chain."""
        spared = self._pruned(cuts) | self._skipped
        groups: dict[int, dict[object, list[Trial]]] = defaultdict(lambda: defaultdict(list))
        for group in self._catalog.groups:
            wanted = [t for t in group.trials if t.number not in spared]
            if wanted:
                groups[group.scenario.number][group.shared] += wanted
        helped: dict[str, float] = {}
        for job in self._catalog.helpers:
            run = None
            with suppress(DatasetError, WeightsError):
                run = job.helper and self._findings.helper(job.scenario, job.helper)
            helped[job.name] = self._add(job, cached=run is not None)
        longest = 0.0
        for scenario in self._plan.scenarios:
            known, victim = scenario.number in self._trained, victim_job(scenario)
            chain = sum(helped[job.name] for job in self._catalog.helpers_of(scenario))
            chain += self._add(victim, cached=known)
            chain += sum(self._add_group(trials) for trials in groups[scenario.number].values())
            longest = max(longest, chain)
            if self._plan.study.mlflow.log_models is LogModels.BEST and not known:
                self.disk += self._bytes(victim)  # of the best repaired model
        # Which model is the best, and so whether it is audited already, only the run can tell.
        for target in planned_audits(self._plan):
            known = not target.repaired and find_audit(self._findings, target) is not None
            longest = max(longest, self._add(audit_job(target), cached=known))
        return longest

    def _add(self, job: Job, *, cached: bool) -> float:
        """Count a job and return the seconds that it will take alone, 0 if its result is there."""
        stage = job.stage
        if job.trials and job.trial.method is not None:
            stage = kind_of(job.trial, job.position)
        self.runs[stage] += 1
        self.cached[stage] += cached
        if cached:
            return 0.0
        alone, source = self._seconds(job)
        seconds = alone if source is Source.TAKEN else alone * self._crowd
        self.stages[stage] += seconds
        self.sources[source] += seconds
        self.disk += self._bytes(job)
        return alone

    def _add_group(self, trials: list[Trial]) -> float:
        """Count the stages of trials that share the first; return the seconds of one chain."""
        first = trials[0]
        if first.method is not None:
            return self._add_chains(trials)
        scored = [trial.number in self._scores for trial in trials]
        known = all(scored) or self._is_climbed(trials)
        chain, longest = self._add(self._catalog.group_of(first).job, cached=known), 0.0
        for trial in sorted(trials, key=lambda trial: trial.number not in self._scores):
            found, likely = self._scores.get(trial.number), likely_relearning(trial)
            result = likely if found is None else found.relearn_key
            job = self._catalog.job(trial, 1)
            if result not in self.relearns and (found is not None or likely not in self._likely):
                self.relearns.add(result)
                done = found is not None and (
                    trial.number in self._repairs or self._findings.is_relearned(str(result))
                )
                longest = max(longest, self._add(job, cached=done))
            elif found is None:  # not expected, but possible
                self.runs["relearn"] += 1
                self.disk += self._bytes(job)
            self._likely.add(likely)
        return chain + longest

    def _is_climbed(self, trials: list[Trial]) -> bool:
        """Whether the store has the ascent of trials that share one, down to their last stop."""
        first = trials[0]
        if first.scenario.number not in self._trained:
            return False
        classes, _, _ = shape_of(first.scenario.dataset)
        floor = min(trial.hyperparameters.score.stop_at(classes) for trial in trials)
        ascent = self._findings.keys.ascent(first)
        return find_ascent(self._findings.store, ascent, first, floor) is not None

    def _add_chains(self, trials: list[Trial]) -> float:
        """Count the stages of other methods' trials, as if no two strengths cut the same."""
        alone: dict[tuple[RepairStage, ...], float] = {}
        longest = 0.0
        for trial in trials:
            stages = () if trial.method is None else trial.method.stages
            done = self._found.get(trial.number, 0) + (trial.number in self._repairs)
            chain = 0.0
            for position in range(len(stages)):
                so_far = stages[: position + 1]
                if so_far not in alone:
                    job = self._catalog.job(trial, position)
                    alone[so_far] = self._add(job, cached=position < done)
                chain += alone[so_far]
            longest = max(longest, chain)
        return longest

    def _seconds(self, job: Job) -> tuple[float, Source]:
        """Return a job's seconds on one worker, from the best source there is."""
        load = self._load.of(job)
        name = kind_of(job.trial, job.position) if job.trials else job.kind.value
        if job.audit is not None:
            name = f"audit.{job.audit.audit.name}"
        place = (job.scenario.number, name, load.batch, load.replayed)
        if place not in self._rates:  # once for thousands of trials
            self._rates[place] = self._rate(job.scenario, name, load)
        rate = self._rates[place]
        if isinstance(rate, float):
            return rate * load.passes, Source.TAKEN
        seconds = load.trained * rate.train + load.tested * rate.test
        return seconds, Source.TIMED if rate.timed else Source.ARITHMETIC

    def _rate(self, scenario: Scenario, name: str, load: JobLoad) -> float | Speed:
        """Return seconds per pass where such jobs were timed before, else seconds per image."""
        timing = self._timings.get((name, machine_of(scenario)))
        if timing is not None and timing.rate is not None:
            return timing.rate
        classes, channels, side = shape_of(scenario.dataset)
        kind = StageShape(
            architecture=scenario.architecture,
            classes=classes,
            channels=channels,
            side=side,
            preprocessing=scenario.preprocessing,
            batch=load.batch,
            precision=Precision.AUTO,
            replayed=load.replayed or not self._gpu,
        )
        return self._calibration.speed(kind)

    def _bytes(self, job: Job) -> float:
        """Return the bytes of a job's result."""
        scenario = job.scenario
        if scenario.number not in self._sizes:
            self._sizes[scenario.number] = size_of(
                scenario.architecture, *shape_of(scenario.dataset)
            )
        size = self._sizes[scenario.number]
        if job.is_trial:
            stored = self._plan.study.mlflow.log_models is LogModels.ALL
            return CURVE_BYTES + 4.0 * size.parameters * stored
        ascent = bool(job.trials) and job.trial.method is None
        return 4.0 * (4 * size.head if ascent else size.parameters)

    def _pruned(self, cuts: Cuts) -> set[int]:
        """Return the trials without a result that pruning spares, by what is known already."""
        prune = self._plan.study.prune
        if (prune.setting is None and prune.curve is None) or not (self._repairs or cuts):
            return set()
        outcomes, decisions = TrialOutcomes(self._plan, self._findings), Decisions(self._plan)
        for trial in decisions.order:
            repaired, scored = self._repairs.get(trial.number), self._scores.get(trial.number)
            outcome = None if repaired is None else outcomes.of_repair(trial, repaired)
            cut = None if scored is None else cuts.get(scored.relearn_key)
            if outcome is None and cut is not None:
                outcome = TrialOutcome(curve=outcomes.of_curve(trial, cut))
            if outcome is not None:
                decisions.offer(trial, outcome)
        verdicts = [decisions.verdict(trial) for trial in self._plan.trials]
        pruned = {v.trial.number for v in verdicts if v and v.status is Status.PRUNED}
        return pruned - self._repairs.keys()


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
