"""What a plan will cost: counted exactly where it can be, estimated where it cannot."""

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from orchestrator.catalogue import Catalogue, Group
from orchestrator.definition import LogModels
from orchestrator.findings import Findings
from orchestrator.keys import KeyRing
from orchestrator.plan import Plan, Scenario, Trial
from orchestrator.store import Store
from orchestrator.work import HelperItem
from ulrl.datasets import DatasetError
from ulrl.interchange import ImportRefused
from ulrl.models import Architecture, WeightsError
from ulrl.poisoning import MONITOR_COUNT

STEP_SECONDS = 0.004  # of a training step besides its arithmetic: Python and small kernels
EFFICIENCY = 0.4  # of the measured matrix-product rate that small convolutions reach
CURVE_BYTES = 4096  # of a relearning without its weights
ASCENT_EPOCHS = 8  # a typical ascent; it ends where the threshold is reached


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """How much there is to do.

    Attributes:
        runs: Distinct results that the plan needs, per stage: an upper bound for relearning,
            which is shared where phase 1 agrees.
        cached: How many of them the store has.
        seconds: Of one worker, for what is missing.
        disk: Bytes that the missing results will take.
    """

    runs: Mapping[str, int]
    cached: Mapping[str, int]
    seconds: float
    disk: float
    workers: int
    gpu: float

    @property
    def hours(self) -> float:
        """Wall-clock hours with all workers busy."""
        return self.seconds / self.workers / 3600

    @property
    def gpu_hours(self) -> float:
        return self.seconds * self.gpu / 3600


@dataclass
class _Count:
    runs: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    cached: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    seconds: float = 0.0
    disk: float = 0.0

    def add(self, stage: str, *, cached: bool, seconds: float = 0.0, disk: float = 0.0) -> None:
        self.runs[stage] += 1
        self.cached[stage] += cached
        if not cached:
            self.seconds += seconds
            self.disk += disk


def estimate(plan: Plan, store: Store, keys: KeyRing, workers: int, gpu: float) -> Estimate:
    """Count what `plan` needs and what `store` has, and estimate the rest.

    Nothing but the store's present entries is read, and nothing is written.
    """
    findings = Findings(store, keys)
    count = _Count()
    groups = defaultdict(list)
    catalogue = Catalogue(plan)
    for group in catalogue.groups:
        groups[group.scenario.number].append(group)
    relearns: set[str] = set()
    for item in catalogue.helpers:
        cost = _Cost(item.scenario, plan)
        known = _has_helper(findings, item)
        count.add("train_helper", cached=known, seconds=cost.helper(item), disk=cost.weights)
    for scenario in plan.scenarios:
        cost = _Cost(scenario, plan)
        known = _is_known(findings, scenario)
        count.add("train_victim", cached=known, seconds=cost.victim, disk=cost.weights)
        for group in groups[scenario.number]:
            _count_group(count, group, cost, findings if known else None, relearns)
        if plan.study.mlflow.log_models is LogModels.BEST and not known:
            count.disk += cost.weights
    return Estimate(
        runs=dict(count.runs),
        cached=dict(count.cached),
        seconds=count.seconds,
        disk=count.disk,
        workers=workers,
        gpu=gpu,
    )


def _count_group(
    count: _Count, group: Group, cost: "_Cost", findings: Findings | None, relearns: set[str]
) -> None:
    found = [findings.scores(trial) if findings else None for trial in group.trials]
    known = all(item is not None for item in found)
    count.add("unlearn", cached=known, seconds=cost.ascent(group.trials[0]), disk=cost.head)
    for trial, scored in zip(group.trials, found, strict=True):
        if scored is None or findings is None:
            count.add("relearn", cached=False, seconds=cost.relearn(trial), disk=cost.repaired)
        elif scored.relearn_key not in relearns:
            relearns.add(scored.relearn_key)
            done = findings.repair(trial, scored.relearn_key) is not None
            count.add("relearn", cached=done, seconds=cost.relearn(trial), disk=cost.repaired)


class _Cost:
    """Seconds of each stage of a scenario on one worker of this machine."""

    def __init__(self, scenario: Scenario, plan: Plan) -> None:
        facts = scenario.dataset.facts()
        classes, side, channels = (
            (facts.classes, facts.side, facts.channels) if facts else (10, 32, 3)
        )
        self._train = facts.train_count if facts else 50_000
        self._test = facts.test_count if facts else 10_000
        self._forward, parameters, head = _network(scenario.architecture, classes, channels, side)
        self._imported = scenario.source is not None
        self._victim = plan.study.victim.config(scenario.dataset.name)
        self.weights = 4.0 * parameters
        everyone = plan.study.mlflow.log_models is LogModels.ALL
        self.repaired = CURVE_BYTES + (self.weights if everyone else 0)
        self.head = 4.0 * head * 4

    @property
    def victim(self) -> float:
        epochs, batch = self._victim.epochs, self._victim.batch_size
        if self._imported:
            return self._seconds(0, 2 * self._test)
        steps = epochs * -(-self._train // batch)
        return self._seconds(steps, 3 * epochs * self._train + 2 * self._test)

    def helper(self, item: HelperItem) -> float:
        passes = item.helper.cost(self._victim)
        steps = passes * -(-self._train // self._victim.batch_size)
        return self._seconds(int(steps), int(3 * passes * self._train))

    def ascent(self, trial: Trial) -> float:
        config = trial.hyperparameters.unlearn
        epochs = min(ASCENT_EPOCHS, config.unlearn_epochs)
        return self._epochs(trial, epochs, config.unlearn_batch_size)

    def relearn(self, trial: Trial) -> float:
        config = trial.hyperparameters.relearn
        phase = self._epochs(trial, config.relearn_epochs, config.relearn_batch_size)
        return phase + self._seconds(0, 2 * self._test)

    def _epochs(self, trial: Trial, epochs: int, batch: int) -> float:
        samples = int(self._train * trial.hyperparameters.clean.clean_ratio)
        steps = epochs * -(-samples // batch)
        passes = epochs * (3 * samples + 2 * min(MONITOR_COUNT, self._test // 2))
        return self._seconds(steps, passes)

    def _seconds(self, steps: int, passes: int) -> float:
        return steps * STEP_SECONDS + passes * self._forward / (EFFICIENCY * _rate())


def _has_helper(findings: Findings, item: HelperItem) -> bool:
    try:
        return findings.helper(item.scenario, item.helper) is not None
    except (DatasetError, WeightsError):
        return False


def _is_known(findings: Findings, scenario: Scenario) -> bool:
    """Whether the store has a scenario's victim; not, where a file that names it is missing."""
    try:
        return findings.victim(scenario) is not None
    except (DatasetError, ImportRefused, WeightsError):
        return False


@lru_cache
def _network(
    architecture: Architecture, classes: int, channels: int, side: int
) -> tuple[float, int, int]:
    """Return FLOPs of a forward pass per image, parameters, and weights of the head."""
    with torch.device("meta"):
        network = architecture.build(classes=classes, channels=channels, side=side).eval()
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            network(torch.empty(1, channels, side, side))
    head = network.get_submodule(architecture.head)
    size = sum(p.numel() for p in head.parameters())
    parameters = sum(p.numel() for p in network.parameters())
    return float(counter.get_total_flops()), parameters, size


@lru_cache
def _rate() -> float:
    """Return the FLOP/s of a matrix product on one thread of this machine, measured now."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    a = torch.ones(512, 512)
    a @ a
    started = time.perf_counter()
    for _ in range(20):
        a @ a
    elapsed = time.perf_counter() - started
    torch.set_num_threads(threads)
    return 20 * 2 * 512**3 / elapsed
