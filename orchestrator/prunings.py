"""What was pruned and why: in words for the terminal, in a table for the study folder."""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.definition import Objective
from orchestrator.files import write_text
from orchestrator.plan import Plan, Trial
from orchestrator.search import Evidence

COLUMNS = (
    *("level", "setting", "scenario", "step", "value", "reference", "p_value", "pairs"),
    *("worse", "against"),
)


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """One act of pruning, for the record.

    Attributes:
        level: ``setting``: abandoned for all further scenarios; ``curve``: one trial cut.
        trial: The trial after which a setting was abandoned, or that was cut.
    """

    level: str
    trial: Trial
    evidence: Evidence


def sentence(plan: Plan, pruning: Pruning) -> str:
    """Return a decision and its evidence in one line."""
    found, trial, objective = pruning.evidence, pruning.trial, plan.study.objective
    name = objective.value.upper()
    value = amount(objective, found.value)
    if pruning.level == "curve":
        what = f"{trial.name} cut after epoch {found.step}: {name} {value}"
        if found.reference is None:
            return what
        return (
            f"{what}, worse than {found.worse} of {found.pairs} settings there "
            f"(median {amount(objective, found.reference)})"
        )
    what = (
        f"setting {trial.setting.text} abandoned after {found.step} scenarios as unlikely to be "
        f"the best of this grid"
    )
    if found.against is None or found.reference is None or found.p_value is None:
        return f"{what}: mean {name} {value}"
    return (
        f"{what}: worse than {plan.settings[found.against].text} "
        f"on {found.worse} of {found.pairs}, "
        f"nominal p = {found.p_value:.2g} (mean {name} {value} against "
        f"{amount(objective, found.reference)})"
    )


def amount(objective: Objective, value: float) -> str:
    """Return a value of the objective as people read it: DER a fraction, others in percent."""
    return f"{value:.3f}" if objective is Objective.DER else f"{value:.1%}"


def write_prunings(plan: Plan, prunings: Iterable[Pruning], path: Path) -> None:
    """Write the decisions as a table, in the order of the plan, whole."""
    places = {number: place for place, number in enumerate(plan.setting_order)}
    turns = {number: turn for turn, number in enumerate(plan.scenario_order)}

    def rank(pruning: Pruning) -> tuple[int, int]:
        trial = pruning.trial
        return places[trial.setting.number], turns[trial.scenario.number]

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for pruning in sorted(prunings, key=rank):
        e, trial = pruning.evidence, pruning.trial
        names = (pruning.level, trial.setting.text, trial.scenario.text)
        against = None if e.against is None else plan.settings[e.against].text
        writer.writerow(
            (*names, e.step, e.value, e.reference, e.p_value, e.pairs, e.worse, against)
        )
    write_text(path, text.getvalue())
