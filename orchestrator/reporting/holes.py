"""Rows that a table of results lacks, though its study leaves no combination out."""

from collections.abc import Iterator
from pathlib import Path

from orchestrator.errors import Mistakes
from orchestrator.reporting.naming import distinct, names_of, setting_text
from orchestrator.reporting.results import Results, Scenario, Setting


def refuse_holes(path: Path, results: Results) -> None:
    """Raise ``Mistakes`` where a scenario lacks a setting that others have, or a family a seed."""
    holes = list(_holes(results))
    if not holes:
        return
    (scenario, setting), *others = holes
    named = names_of(results).scenario(scenario)
    which = f" with {setting_text(setting)}" if setting else ""
    more = f" (and {len(others)} more like this)" if others else ""
    missing = f"{path}: has no row of {named}{which}{more}, though study.yaml excludes nothing"
    raise Mistakes([f"{missing}; the study's own command writes the table anew"])


def _holes(results: Results) -> Iterator[tuple[Scenario, Setting]]:
    settings = distinct(trial.setting for trial in results.trials)
    there: dict[Scenario, set[Setting]] = {}
    for trial in results.trials:
        there.setdefault(trial.scenario, set()).add(trial.setting)
    seeds = distinct(scenario.seed for scenario in there)
    for family in distinct(scenario.family for scenario in there):
        for seed in seeds:
            scenario = Scenario(family, seed)
            if scenario not in there:
                yield scenario, ()
            else:
                yield from ((scenario, s) for s in settings if s not in there[scenario])
