"""Seconds and bytes of each item of a plan, from the best source there is."""

from enum import StrEnum

from orchestrator.calibration import Calibration, Kind, Size, Speed, size_of
from orchestrator.definition import LogModels
from orchestrator.experience import Experience
from orchestrator.machine import Compute
from orchestrator.plan import Plan, Scenario, Trial
from orchestrator.work import HelperItem
from orchestrator.workload import Load, Workload, machine_of
from ulrl.precision import Precision

CURVE_BYTES = 4096  # of a relearning without its weights


class Source(StrEnum):
    """Where an estimate's seconds come from."""

    TAKEN = "what such stages took before"
    TIMED = "steps of these networks, timed now"
    ARITHMETIC = "arithmetic"


class Costs:
    """Seconds of each item on one worker, from the best source there is."""

    def __init__(
        self, plan: Plan, taken: Experience, recalled: Experience, compute: Compute
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
        replayed = load.replayed or not self._gpu
        place = scenario.number, load.batch, replayed
        if place not in self._speeds:
            self._speeds[place] = self._calibration.speed(
                self._kind(scenario, load.batch, replayed=replayed)
            )
        speed = self._speeds[place]
        seconds = load.trained * speed.train + load.tested * speed.test
        return seconds, Source.TIMED if speed.timed else Source.ARITHMETIC

    def _kind(self, scenario: Scenario, batch: int, *, replayed: bool) -> Kind:
        classes, channels, side = _shape(scenario)
        return Kind(
            architecture=scenario.architecture,
            classes=classes,
            channels=channels,
            side=side,
            treatment=scenario.treatment,
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
    facts = scenario.dataset.facts()
    return (facts.classes, facts.channels, facts.side) if facts else (10, 3, 32)
