"""Estimated time of a plan."""

from collections import defaultdict
from collections.abc import Collection, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

from orchestrator.pipeline.catalog import JobCatalog
from orchestrator.pipeline.chain import chain_of, reached
from orchestrator.plan.cost_model import kinds_of
from orchestrator.plan.jobs import Job
from orchestrator.plan.plan import Plan, Trial
from orchestrator.scheduler.decisions import Decisions, Status, TrialOutcome
from orchestrator.scheduler.scheduler import TrialOutcomes
from orchestrator.scheduler.timing import Source, StageCosts, gather, recall
from orchestrator.spec.model import LogModels
from orchestrator.store.keys import CacheKeys
from orchestrator.store.lookup import Findings, RepairResult, StageResults, VictimResult
from orchestrator.store.store import Store
from orchestrator.store.study_folder import Cuts
from ulrl.datasets import DatasetError
from ulrl.interchange import ImportRefused
from ulrl.models import WeightsError
from ulrl.weight_selection import Suspects

NOBODY = Suspects(layers=(), reset_bias=False)


def likely_relearning(trial: Trial) -> Hashable:
    """Return what a trial's relearning hangs on if every threshold flags the same neurons.

    An ascent passes its thresholds within few epochs, mostly with the same neurons ahead.
    Which of their weights moved most does change on its way, so settings that differ by the
    threshold are taken to agree where the ratio marks all weights or none.
    """
    parts = trial.hyperparameters
    place = (trial.scenario.number, trial.defence_seed, parts.clean)
    if parts.score.max_suspects == 0:
        return (*place, parts.relearn.effective(NOBODY))
    score = parts.score
    if parts.reset.reinit_ratio in (0, 1):
        score = replace(score, unlearn_threshold=0)
    return (*place, parts.unlearn, score, parts.reset, parts.relearn)


PACKED = 0.25  # by how much more at most workers do that share a GPU, than one of them alone
START_SECONDS = 12.0  # until workers work: imports, Ray, MLflow's tables
END_SECONDS = 6.0  # for the report and what MLflow still lacks


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
    crowd: float  # how much longer an item takes beside those that share its GPU
    runs: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    cached: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    sources: dict[Source, float] = field(default_factory=lambda: defaultdict(float))
    stages: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    disk: float = 0.0
    relearns: set[Hashable] = field(default_factory=set)

    def add(self, stage: str, *, cached: bool, cost: tuple[float, Source], disk: float) -> float:
        """Count a result and return the seconds that it will take alone, 0 if it is there."""
        self.runs[stage] += 1
        self.cached[stage] += cached
        if cached:
            return 0.0
        alone, source = cost
        seconds = alone if source is Source.TAKEN else alone * self.crowd
        self.stages[stage] += seconds
        self.sources[source] += seconds
        self.disk += disk
        return alone

    def bound(self, stage: str, *, disk: float) -> None:
        """Count a result that there will be at most, and that is not expected."""
        self.runs[stage] += 1
        self.disk += disk


def estimate(
    plan: Plan,
    store: Store,
    keys: CacheKeys,
    workers: int,
    gpu: float,
    cuts: Cuts | None = None,
) -> PlanEstimate:
    """Count what `plan` needs and what `store` has, and estimate the rest.

    Seconds come from what the results that are there took, or such results of former
    studies in this store; else from a few steps of the networks themselves, timed now; else
    from arithmetic. Trials that the stored results prune are not counted, those that pruning
    will spare are. Nothing but the store's present entries is read, and nothing is written.

    Args:
        plan: The study's.
        store: Where results are, or not.
        keys: Of these results.
        workers: How many work at once.
        gpu: What each takes of a GPU.
        cuts: Curves of relearnings that were cut before, by their keys.
    """
    findings = StageResults(store, keys)
    victims, trained = _victims(plan, findings)
    scores, repairs = _present(plan, findings, trained)
    pruned = _pruned(plan, TrialOutcomes(plan, findings), scores, repairs, cuts or {})
    taken = gather(plan, victims, scores, repairs)
    costs = StageCosts(plan, taken, recall(store, keys.compute, plan), keys.compute)
    count, catalogue = _Count(crowd=crowding(sharing(workers, gpu))), JobCatalog(plan)
    groups: dict[int, dict[object, list[Trial]]] = defaultdict(lambda: defaultdict(list))
    for group in catalogue.groups:
        wanted = [t for t in group.trials if t.number not in pruned or t.number in repairs]
        if wanted:
            groups[group.scenario.number][group.shared] += wanted
    helped: dict[str, float] = {}
    for item in catalogue.helpers:
        known = _has_helper(findings, item)
        disk = costs.weights(item.scenario)
        spent = count.add("train_helper", cached=known, cost=costs.helper(item), disk=disk)
        helped[item.name] = spent
    longest = 0.0
    for scenario in plan.scenarios:
        known = scenario.number in trained
        weights = costs.weights(scenario)
        chain = sum(helped[item.name] for item in catalogue.helpers_of(scenario))
        chain += count.add("train_victim", cached=known, cost=costs.victim(scenario), disk=weights)
        for trials in groups[scenario.number].values():
            if trials[0].method is None:
                chain += _count_group(count, trials, costs, scores, repairs, findings)
            else:
                done = len(reached(findings, trials[0])) - 1 if known else 0
                done += trials[0].number in repairs
                chain += _count_stages(count, trials[0], costs, done)
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


def sharing(workers: int, gpu: float) -> int:
    """Return how many of the workers share a GPU: Ray fills one before it takes the next."""
    return min(workers, int(1 / gpu)) if 0 < gpu < 1 else 1


def crowding(workers: int) -> float:
    """Return how many times longer an item takes where so many workers share a GPU.

    One worker nearly fills it: 2, 4 and 8 did 1.15, 1.18 and 1.22 times the trials of one on
    an H200 (benchmarks/results/2026-11-26-h200.md).
    """
    return workers / (1 + PACKED * (1 - 1 / workers))


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
        if len(befores) < len(stages):
            continue
        scores[trial.number] = scored = befores[-1]
        repaired = stages[-1].repaired(findings, trial, scored)
        if repaired is not None:
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


def _count_group(
    count: _Count,
    trials: list[Trial],
    costs: StageCosts,
    scores: Mapping[int, Findings],
    repairs: Mapping[int, RepairResult],
    findings: StageResults,
) -> float:
    """Count an ascent and its relearnings; return the seconds of it and one of them."""
    known = all(trial.number in scores for trial in trials)
    first = trials[0]
    scenario = first.scenario
    chain = count.add(
        "unlearn", cached=known, cost=costs.stage(first, 0), disk=costs.head(scenario)
    )
    longest, disk = 0.0, costs.repaired(scenario)
    for trial in trials:
        result = scores[trial.number].relearn_key if known else likely_relearning(trial)
        if result not in count.relearns:
            count.relearns.add(result)
            done = known and (trial.number in repairs or findings.is_relearned(str(result)))
            spent = count.add("relearn", cached=done, cost=costs.stage(trial, 1), disk=disk)
            longest = max(longest, spent)
        elif not known:
            count.bound("relearn", disk=disk)
    return chain + longest


def _count_stages(count: _Count, trial: Trial, costs: StageCosts, done: int) -> float:
    """Count the stages of another method than ULRL, `done` of them there; return their seconds."""
    kinds, scenario = kinds_of(trial), trial.scenario
    disks = [costs.weights(scenario)] * (len(kinds) - 1) + [costs.repaired(scenario)]
    return sum(
        count.add(kind, cached=place < done, cost=costs.stage(trial, place), disk=disk)
        for place, (kind, disk) in enumerate(zip(kinds, disks, strict=True))
    )


def _has_helper(findings: StageResults, item: Job) -> bool:
    try:
        return item.helper is None or findings.helper(item.scenario, item.helper) is not None
    except (DatasetError, WeightsError):
        return False


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
