"""In which order preparation begins: what takes longest first, so that nobody waits for it last."""

from collections.abc import Callable

from orchestrator.calibration import size_of
from orchestrator.plan import Plan, Scenario
from orchestrator.work import HelperItem
from orchestrator.workload import Workload

Length = Callable[[Scenario], float]


def lengths(plan: Plan) -> Length:
    """Return how long the preparation of a scenario of `plan` is: FLOPs of helpers and victim.

    Networks are looked at only where scenarios differ in them. One that cannot be built fails
    where it is trained, not here.
    """
    workload = Workload(plan)
    differ = len({(s.architecture, s.dataset) for s in plan.scenarios}) > 1

    def length(scenario: Scenario) -> float:
        items = [HelperItem(number=0, scenario=scenario, helper=h) for h in scenario.helpers]
        loads = [workload.victim(scenario), *(workload.helper(item) for item in items)]
        return sum(load.passes for load in loads) * (_forward(scenario) if differ else 1.0)

    return length


def _forward(scenario: Scenario) -> float:
    facts = scenario.dataset.facts()
    shape = (facts.classes, facts.channels, facts.side) if facts else (10, 3, 32)
    try:
        return size_of(scenario.architecture, *shape).forward
    except Exception:  # noqa: BLE001 - the order is advice
        return 0.0
