"""What stages took, kept in the store for the estimates of later studies."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.entries import PACE, StoredPace
from orchestrator.errors import Unusable
from orchestrator.findings import RepairFinding, ScoreFinding, VictimFinding
from orchestrator.keys import result_key
from orchestrator.machine import Compute
from orchestrator.plan import Plan, Scenario
from orchestrator.store import Store
from orchestrator.workload import Workload, machine_of

VERSION = 1


@dataclass
class Pace:
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
class Experience:
    """Paces by kind of item, network and dataset."""

    paces: dict[tuple[str, tuple[str, str]], Pace] = field(
        default_factory=lambda: defaultdict(Pace)
    )

    def rate(self, kind: str, scenario: Scenario) -> float | None:
        """Return seconds per unit of load of such an item, None if none is known."""
        found = self.paces.get((kind, machine_of(scenario)))
        return None if found is None else found.rate

    def note(self, kind: str, scenario: Scenario, seconds: float, load: float) -> None:
        self.paces[kind, machine_of(scenario)].add(seconds, load)


def gather(
    plan: Plan,
    victims: Mapping[int, VictimFinding],
    scores: Mapping[int, ScoreFinding],
    repairs: Mapping[int, RepairFinding],
) -> Experience:
    """Return the paces of all results that a study rests on, whoever computed them.

    Args:
        plan: The study's.
        victims: What the store has, by the scenario's number; the others by the trial's.
        scores: Of phase 1.
        repairs: Of phase 2.
    """
    found, load = Experience(), Workload(plan)
    for scenario in plan.scenarios:
        victim = victims.get(scenario.number)
        if victim is not None:
            spent = sum(run.seconds for run in victim.runs)  # without its helpers
            found.note("victim", scenario, spent, load.victim(scenario).passes)
    seen: set[str] = set()
    for trial in plan.trials:
        scored, repaired = scores.get(trial.number), repairs.get(trial.number)
        if scored is not None and scored.runs[0].key not in seen:
            seen.add(scored.runs[0].key)
            found.note("ascent", trial.scenario, scored.seconds, load.ascent(trial).passes)
        if scored is not None and repaired is not None and scored.relearn_key not in seen:
            seen.add(scored.relearn_key)
            found.note("trial", trial.scenario, repaired.seconds, load.relearn(trial).passes)
    return found


def keep(store: Store, compute: Compute, experience: Experience) -> None:
    """Keep paces for later studies; a store that takes none is no error here."""
    for (kind, machine), pace in experience.paces.items():
        content = StoredPace(seconds=pace.seconds, load=pace.load)
        try:
            PACE.write(store, _key(kind, machine, compute), content)
        except Unusable:
            return


def recall(store: Store, compute: Compute, plan: Plan) -> Experience:
    """Return what former studies left about a plan's networks and datasets."""
    found = Experience()
    for machine in {machine_of(scenario) for scenario in plan.scenarios}:
        for kind in ("helper", "victim", "ascent", "trial"):
            kept = PACE.peek(store, _key(kind, machine, compute))
            if kept is not None:
                found.paces[kind, machine].add(kept.content.seconds, kept.content.load)
    return found


def _key(kind: str, machine: tuple[str, str], compute: Compute) -> str:
    config = {"kind": kind, "machine": list(machine), "compute": compute}
    return result_key(PACE.name, VERSION, config, {})
