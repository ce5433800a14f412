"""What a plan will cost: counted exactly where it can be, estimated where it cannot."""

from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum

from orchestrator.calibration import Calibration, Kind, Size, Speed, size_of
from orchestrator.catalogue import Catalogue
from orchestrator.definition import LogModels
from orchestrator.experience import Experience, gather, recall
from orchestrator.findings import Findings, RepairFinding, ScoreFinding, VictimFinding
from orchestrator.keys import Compute, KeyRing
from orchestrator.plan import Plan, Scenario, Trial
from orchestrator.store import Store
from orchestrator.work import HelperItem
from orchestrator.workload import Load, Workload, machine_of
from ulrl.datasets import DatasetError
from ulrl.interchange import ImportRefused
from ulrl.models import WeightsError
from ulrl.precision import Precision

CURVE_BYTES = 4096  # of a relearning without its weights
START_SECONDS = 12.0  # until workers work: imports, Ray, MLflow's tables
END_SECONDS = 6.0  # for the report and what MLflow still lacks


class Source(StrEnum):
    """Where an estimate's seconds come from."""

    TAKEN = "what such stages took before"
    TIMED = "steps of these networks, timed now"
    ARITHMETIC = "arithmetic"


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """How much there is to do.

    Attributes:
        runs: Distinct results that the plan needs, per stage: an upper bound for relearning,
            which is shared where phase 1 agrees.
        cached: How many of them the store has.
        seconds: Of one worker, for what is missing.
        longest: Of these, the longest chain that no number of workers makes shorter.
        disk: Bytes that the missing results will take.
        sources: Share of the seconds that each source vouches for.
    """

    runs: Mapping[str, int]
    cached: Mapping[str, int]
    seconds: float
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
        return self.seconds * self.gpu / 3600


@dataclass
class _Count:
    runs: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    cached: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    sources: dict[Source, float] = field(default_factory=lambda: defaultdict(float))
    seconds: float = 0.0
    disk: float = 0.0

    def add(self, stage: str, *, cached: bool, cost: tuple[float, Source], disk: float) -> float:
        """Count a result and return the seconds that it will take, 0 if it is there."""
        self.runs[stage] += 1
        self.cached[stage] += cached
        if cached:
            return 0.0
        seconds, source = cost
        self.seconds += seconds
        self.sources[source] += seconds
        self.disk += disk
        return seconds


def estimate(plan: Plan, store: Store, keys: KeyRing, workers: int, gpu: float) -> Estimate:
    """Count what `plan` needs and what `store` has, and estimate the rest.

    Seconds come from what the results that are there took, or such results of former
    studies in this store; else from a few steps of the networks themselves, timed now; else
    from arithmetic. Nothing but the store's present entries is read, and nothing is written.
    """
    findings = Findings(store, keys)
    victims = _victims(plan, findings)
    scores, repairs = _present(plan, findings, victims)
    taken = gather(plan, victims, scores, repairs)
    costs = _Costs(plan, taken, recall(store, keys.compute, plan), keys.compute)
    count, catalogue = _Count(), Catalogue(plan)
    groups: dict[int, dict[object, list[Trial]]] = defaultdict(lambda: defaultdict(list))
    for group in catalogue.groups:
        groups[group.scenario.number][group.shared] += group.trials
    helped: dict[int, float] = {}
    for item in catalogue.helpers:
        known = _has_helper(findings, item)
        disk = costs.weights(item.scenario)
        spent = count.add("train_helper", cached=known, cost=costs.helper(item), disk=disk)
        helped[item.number] = spent
    relearns: set[str] = set()
    longest = 0.0
    for scenario in plan.scenarios:
        known = scenario.number in victims
        weights = costs.weights(scenario)
        chain = sum(helped[item.number] for item in catalogue.helpers_of(scenario))
        chain += count.add("train_victim", cached=known, cost=costs.victim(scenario), disk=weights)
        for trials in groups[scenario.number].values():
            chain += _count_group(count, trials, costs, scores, repairs, relearns)
        longest = max(longest, chain)
        if plan.study.mlflow.log_models is LogModels.BEST and not known:
            count.disk += weights
    total = sum(count.sources.values())
    return Estimate(
        runs=dict(count.runs),
        cached=dict(count.cached),
        seconds=count.seconds,
        longest=longest,
        disk=count.disk,
        workers=workers,
        gpu=gpu,
        sources={source: part / total for source, part in count.sources.items() if part},
    )


def _present(
    plan: Plan, findings: Findings, victims: Mapping[int, VictimFinding]
) -> tuple[dict[int, ScoreFinding], dict[int, RepairFinding]]:
    """Return what the store has of each trial."""
    scores: dict[int, ScoreFinding] = {}
    repairs: dict[int, RepairFinding] = {}
    for trial in plan.trials:
        if trial.scenario.number not in victims:
            continue
        scored = findings.scores(trial)
        repaired = None if scored is None else findings.repair(trial, scored.relearn_key)
        if scored is not None:
            scores[trial.number] = scored
        if repaired is not None:
            repairs[trial.number] = repaired
    return scores, repairs


def _count_group(
    count: _Count,
    trials: list[Trial],
    costs: "_Costs",
    scores: Mapping[int, ScoreFinding],
    repairs: Mapping[int, RepairFinding],
    relearns: set[str],
) -> float:
    """Count an ascent and its relearnings; return the seconds of it and one of them."""
    known = all(trial.number in scores for trial in trials)
    first = trials[0]
    scenario = first.scenario
    chain = count.add("unlearn", cached=known, cost=costs.ascent(first), disk=costs.head(scenario))
    longest = 0.0
    for trial in trials:
        scored = scores.get(trial.number) if known else None
        if scored is not None and scored.relearn_key in relearns:
            continue
        if scored is not None:
            relearns.add(scored.relearn_key)
        done = scored is not None and trial.number in repairs
        disk = costs.repaired(scenario)
        spent = count.add("relearn", cached=done, cost=costs.relearn(trial), disk=disk)
        longest = max(longest, spent)
    return chain + longest


class _Costs:
    """Seconds of each item on one worker, from the best source there is."""

    def __init__(
        self, plan: Plan, taken: Experience, recalled: Experience, compute: Compute
    ) -> None:
        self._plan = plan
        self._load = Workload(plan)
        self._taken, self._recalled = taken, recalled
        self._keeps = plan.study.mlflow.log_models is LogModels.ALL
        self._speeds: dict[tuple[int, int], Speed] = {}  # by scenario and batch
        self._sizes: dict[int, Size] = {}  # by scenario
        machines = {machine_of(scenario) for scenario in plan.scenarios}
        kinds = 2 * len(machines)  # a victim's batches and the defender's
        self._calibration = Calibration(compute.device, compute.threads, kinds)

    def helper(self, item: HelperItem) -> tuple[float, Source]:
        return self._cost("helper", item.scenario, self._load.helper(item))

    def victim(self, scenario: Scenario) -> tuple[float, Source]:
        return self._cost("victim", scenario, self._load.victim(scenario))

    def ascent(self, trial: Trial) -> tuple[float, Source]:
        return self._cost("ascent", trial.scenario, self._load.ascent(trial))

    def relearn(self, trial: Trial) -> tuple[float, Source]:
        return self._cost("trial", trial.scenario, self._load.relearn(trial))

    def weights(self, scenario: Scenario) -> float:
        """Return the bytes of a network."""
        return 4.0 * self._size(scenario).parameters

    def head(self, scenario: Scenario) -> float:
        """Return the bytes of what an ascent keeps."""
        return 4.0 * self._size(scenario).head * 4

    def repaired(self, scenario: Scenario) -> float:
        """Return the bytes of a relearning."""
        return CURVE_BYTES + (self.weights(scenario) if self._keeps else 0)

    def _cost(self, kind: str, scenario: Scenario, load: Load) -> tuple[float, Source]:
        for experience in (self._taken, self._recalled):
            rate = experience.rate(kind, scenario)
            if rate is not None:
                return rate * load.passes, Source.TAKEN
        place = scenario.number, load.batch
        if place not in self._speeds:
            self._speeds[place] = self._calibration.speed(self._kind(scenario, load.batch))
        speed = self._speeds[place]
        seconds = load.trained * speed.train + load.tested * speed.test
        return seconds, Source.TIMED if speed.timed else Source.ARITHMETIC

    def _kind(self, scenario: Scenario, batch: int) -> Kind:
        classes, channels, side = _shape(scenario)
        return Kind(
            architecture=scenario.architecture,
            classes=classes,
            channels=channels,
            side=side,
            treatment=scenario.dataset.treatment,
            batch=batch,
            precision=Precision.AUTO,
        )

    def _size(self, scenario: Scenario) -> Size:
        if scenario.number not in self._sizes:
            self._sizes[scenario.number] = size_of(scenario.architecture, *_shape(scenario))
        return self._sizes[scenario.number]


def _shape(scenario: Scenario) -> tuple[int, int, int]:
    """Return classes, channels and side; CIFAR-10's where the file that tells is missing."""
    facts = scenario.dataset.facts()
    return (facts.classes, facts.channels, facts.side) if facts else (10, 3, 32)


def _has_helper(findings: Findings, item: HelperItem) -> bool:
    try:
        return findings.helper(item.scenario, item.helper) is not None
    except (DatasetError, WeightsError):
        return False


def _victims(plan: Plan, findings: Findings) -> dict[int, VictimFinding]:
    """Return the victims that the store has; none where a file that names one is missing."""
    found: dict[int, VictimFinding] = {}
    for scenario in plan.scenarios:
        with suppress(DatasetError, ImportRefused, WeightsError):
            victim = findings.victim(scenario)
            if victim is not None:
                found[scenario.number] = victim
    return found
