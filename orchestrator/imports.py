"""Pre-trained victims looked at before a study starts, so that no trial finds out late."""

from pathlib import Path

from orchestrator.errors import Mistakes
from orchestrator.materials import import_victim
from orchestrator.plan import Plan, Scenario
from ulrl.interchange import ImportRefused
from ulrl.models import Blueprint


def check_imports(plan: Plan, *, absent: bool = True) -> None:
    """Read every victim that is to be imported, and say what is wrong with any of them.

    Args:
        plan: Of the study.
        absent: Whether one that is not there is wrong; a plan can do without.

    Raises:
        Mistakes: Some are not there, not sound, or not of the scenarios they are for.
    """
    seen: dict[str, None] = {}
    for scenario in plan.scenarios:
        blueprint = blueprint_from_facts(scenario)
        if scenario.source is None or blueprint is None:
            continue
        if not absent and not Path(scenario.source).exists():
            continue
        try:
            import_victim(scenario, blueprint)
        except ImportRefused as error:
            seen[f"{plan.study.source}: victim.import: {error}"] = None
    if seen:
        raise Mistakes(list(seen))


def blueprint_from_facts(scenario: Scenario) -> Blueprint | None:
    """Return what a scenario's network is built from, without an image; None if unknown."""
    facts = scenario.dataset.facts()
    if facts is None:
        return None
    return Blueprint(
        architecture=scenario.architecture,
        classes=facts.classes,
        channels=facts.channels,
        side=facts.side,
        treatment=scenario.treatment,
    )
