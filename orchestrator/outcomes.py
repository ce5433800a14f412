"""What the store's results mean to decisions and to the choice: values of the objective."""

from collections.abc import Iterable

from orchestrator.best import Point
from orchestrator.decisions import Outcome
from orchestrator.definition import Objective
from orchestrator.findings import Findings, RepairFinding, objective_value
from orchestrator.plan import Plan, Trial
from ulrl.metrics import Metrics


class Outcomes:
    """Reads what trials and their curves reached."""

    def __init__(self, plan: Plan, findings: Findings) -> None:
        self._study = plan.study
        self._findings = findings

    def of_repair(self, trial: Trial, repaired: RepairFinding) -> Outcome | None:
        """Return what a repaired model is worth; None if its victim is not there."""
        victim = self._findings.victim(trial.scenario)
        if victim is None:
            return None
        before, after = victim.evaluation.selection, repaired.evaluation.selection
        return Outcome(
            value=objective_value(self._study.objective, before, after),
            curve=self.of_curve(trial, repaired.curve),
            sound=self._study.victim_rule.admits(before),
        )

    def of_curve(self, trial: Trial, curve: Iterable[tuple[float, ...]]) -> tuple[float, ...]:
        """Return a monitor curve as the objective's values."""
        victim = self._findings.victim(trial.scenario)
        if victim is None:
            return ()
        before = victim.evaluation.selection
        points = (Metrics(acc=acc, asr=asr, ra=ra) for acc, asr, ra in curve)
        return tuple(objective_value(self._study.objective, before, point) for point in points)


def point_of(
    trial: Trial, objective: Objective, value: float | None, *, took: bool | None
) -> Point:
    """Return a planned trial as the choice of the best setting sees it.

    Args:
        trial: The trial.
        objective: What the study seeks.
        value: Its value on the selection half; None where the trial has none that may compete.
        took: Whether its victim is one; None where there is none.
    """
    setting = tuple(
        (name, axis) for name, axis in trial.setting.values.items() if name != "defence_seed"
    )
    return Point(
        scenario=trial.scenario.number,
        attack=trial.scenario.choice.attack.name,
        setting=setting,
        defence_seed=trial.defence_seed,
        value=value if value is None or objective.maximise else -value,
        took=took,
    )
