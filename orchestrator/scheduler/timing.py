"""Seconds of stages: from earlier studies, else from a calibration."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from orchestrator.errors import ResourceError
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
    size_of,
)
from orchestrator.plan.jobs import Job
from orchestrator.plan.plan import Plan, Scenario, Trial
from orchestrator.plan.resources import Compute
from orchestrator.spec.model import LogModels
from orchestrator.store.keys import result_key
from orchestrator.store.lookup import Findings, RepairResult, VictimResult
from orchestrator.store.serialization import PACE, StoredPace
from orchestrator.store.store import Store
from ulrl.precision import Precision

VERSION = 1


@dataclass
class StageTiming:
    """Seconds, and the load that they went into."""

    seconds: float = 0.0
    load: float = 0.0

    def add(self, seconds: float, load: float) -> None:
        self.seconds += seconds
        self.load += load

    @property
    def rate(self) -> float | None:
        """Seconds per unit of load, once there is some."""
        return self.seconds / self.load if self.load else None


@dataclass
class StageTimings:
    """Paces by kind of item, network and dataset."""

    paces: dict[tuple[str, tuple[str, str]], StageTiming] = field(
        default_factory=lambda: defaultdict(StageTiming)
    )

    def rate(self, kind: str, scenario: Scenario) -> float | None:
        """Return seconds per unit of load of such an item, None if none is known."""
        found = self.paces.get((kind, machine_of(scenario)))
        return None if found is None else found.rate

    def note(self, kind: str, scenario: Scenario, seconds: float, load: float) -> None:
        self.paces[kind, machine_of(scenario)].add(seconds, load)


def gather(
    plan: Plan,
    victims: Mapping[int, VictimResult],
    scores: Mapping[int, Findings],
    repairs: Mapping[int, RepairResult],
) -> StageTimings:
    """Return the paces of all results that a study rests on, of other studies too.

    Args:
        plan: The study's.
        victims: What the store has, by the scenario's number; the others by the trial's.
        scores: Of phase 1.
        repairs: Of phase 2.
    """
    found, load = StageTimings(), Workload(plan)
    for scenario in plan.scenarios:
        victim = victims.get(scenario.number)
        if victim is not None:
            spent = sum(run.seconds for run in victim.runs)  # without its helpers
            found.note("victim", scenario, spent, load.victim(scenario).passes)
    seen: set[str] = set()
    for trial in plan.trials:
        scored, repaired = scores.get(trial.number), repairs.get(trial.number)
        if scored is not None and scored.runs and scored.runs[0].key not in seen:
            seen.add(scored.runs[0].key)
            spent_in = [scored.seconds]  # of ULRL's ascent with its scores
            if trial.method is not None:
                spent_in = [run.seconds for run in scored.runs]
            for position, seconds in enumerate(spent_in):
                passes = load.stage(trial, position).passes
                found.note(kind_of(trial, position), trial.scenario, seconds, passes)
        if scored is not None and repaired is not None and scored.relearn_key not in seen:
            seen.add(scored.relearn_key)
            last = 1 if trial.method is None else len(trial.method.stages) - 1
            passes = load.stage(trial, last).passes
            found.note(kind_of(trial, last), trial.scenario, repaired.seconds, passes)
    return found


def keep(store: Store, compute: Compute, experience: StageTimings) -> None:
    """Keep paces for later studies; a store that takes none is no error here."""
    for (kind, machine), pace in experience.paces.items():
        content = StoredPace(seconds=pace.seconds, load=pace.load)
        try:
            PACE.write(store, _key(kind, machine, compute), content)
        except ResourceError:
            return


def recall(store: Store, compute: Compute, plan: Plan) -> StageTimings:
    """Return what former studies left about a plan's networks and datasets."""
    found = StageTimings()
    methods = {trial.method: trial for trial in plan.trials}
    stages = [kind for one in methods.values() for kind in kinds_of(one)]
    for machine in {machine_of(scenario) for scenario in plan.scenarios}:
        for kind in ("helper", "victim", *stages):
            kept = PACE.peek(store, _key(kind, machine, compute))
            if kept is not None:
                found.paces[kind, machine].add(kept.content.seconds, kept.content.load)
    return found


def _key(kind: str, machine: tuple[str, str], compute: Compute) -> str:
    config = {"kind": kind, "machine": list(machine), "compute": compute}
    return result_key(PACE.name, VERSION, config, {})


CURVE_BYTES = 4096  # of a relearning without its weights


class Source(StrEnum):
    """Where an estimate's seconds come from."""

    TAKEN = "what such stages took before"
    TIMED = "steps of these networks, timed now"
    ARITHMETIC = "arithmetic"


class StageCosts:
    """Seconds of each item on one worker, from the best source there is."""

    def __init__(
        self, plan: Plan, taken: StageTimings, recalled: StageTimings, compute: Compute
    ) -> None:
        self._plan = plan
        self._load = Workload(plan)
        self._taken, self._recalled = taken, recalled
        self._keeps = plan.study.mlflow.log_models is LogModels.ALL
        self._speeds: dict[tuple[int, int, bool], Speed] = {}  # by scenario, batch, replayed
        self._sizes: dict[int, Size] = {}  # by scenario
        machines = {machine_of(scenario) for scenario in plan.scenarios}
        self._gpu = compute.device == "cuda"
        # A victim's batches and the defender's; a GPU replays some trainings, and others not.
        kinds = (3 if self._gpu else 2) * len(machines)
        self._calibration = Calibration(compute.device, compute.threads, kinds)

    def helper(self, item: Job) -> tuple[float, Source]:
        return self._cost("helper", item.scenario, self._load.helper(item))

    def victim(self, scenario: Scenario) -> tuple[float, Source]:
        return self._cost("victim", scenario, self._load.victim(scenario))

    def stage(self, trial: Trial, position: int) -> tuple[float, Source]:
        load = self._load.stage(trial, position)
        return self._cost(kind_of(trial, position), trial.scenario, load)

    def weights(self, scenario: Scenario) -> float:
        """Return the bytes of a network."""
        return 4.0 * self._size(scenario).parameters

    def head(self, scenario: Scenario) -> float:
        """Return the bytes of what an ascent keeps."""
        return 4.0 * self._size(scenario).head * 4

    def repaired(self, scenario: Scenario) -> float:
        """Return the bytes of a relearning."""
        return CURVE_BYTES + (self.weights(scenario) if self._keeps else 0)

    def _cost(self, kind: str, scenario: Scenario, load: JobLoad) -> tuple[float, Source]:
        for experience in (self._taken, self._recalled):
            rate = experience.rate(kind, scenario)
            if rate is not None:
                return rate * load.passes, Source.TAKEN
        replayed = load.replayed or not self._gpu
        place = scenario.number, load.batch, replayed
        if place not in self._speeds:
            self._speeds[place] = self._calibration.speed(
                self._kind(scenario, load.batch, replayed=replayed)
            )
        speed = self._speeds[place]
        seconds = load.trained * speed.train + load.tested * speed.test
        return seconds, Source.TIMED if speed.timed else Source.ARITHMETIC

    def _kind(self, scenario: Scenario, batch: int, *, replayed: bool) -> StageShape:
        classes, channels, side = _shape(scenario)
        return StageShape(
            architecture=scenario.architecture,
            classes=classes,
            channels=channels,
            side=side,
            preprocessing=scenario.preprocessing,
            batch=batch,
            precision=Precision.AUTO,
            replayed=replayed,
        )

    def _size(self, scenario: Scenario) -> Size:
        if scenario.number not in self._sizes:
            self._sizes[scenario.number] = size_of(scenario.architecture, *_shape(scenario))
        return self._sizes[scenario.number]


def _shape(scenario: Scenario) -> tuple[int, int, int]:
    """Return classes, channels and side; CIFAR-10's where the file that tells is missing."""
    info = scenario.dataset.info()
    return (info.classes, info.channels, info.side) if info else (10, 3, 32)
