"""Chosen trials: to compute again (``--redo``, ``--redo-victims``), or to stop (``--stop``)."""

import re
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from orchestrator.errors import SpecError
from orchestrator.files import read_table
from orchestrator.pipeline.chain import chain_of, reached
from orchestrator.plan.columns import SCENARIO, count
from orchestrator.plan.labels import cell_text
from orchestrator.plan.plan import Plan, Scenario, Trial, make_plan
from orchestrator.scheduler.decisions import Status
from orchestrator.scheduler.sampling import recorded
from orchestrator.spec.model import Study
from orchestrator.spec.rules import nearest
from orchestrator.store.lookup import StageResults
from orchestrator.store.serialization import (
    ASCENT,
    EVALUATION,
    HELPER,
    RELEARNING,
    REPAIRED,
    TRIGGER,
    VICTIM,
)
from orchestrator.store.study_folder import StudyFolder

MOST_LISTED = 12  # values of a column that a message names
STOP = "--stop"
ANSWER_SECONDS = 30.0  # to wait for a running study's answer
LOOK_SECONDS = 0.2  # between looks for it
_AND = re.compile(r"\s+and\s+", re.IGNORECASE)

_Conditions: TypeAlias = list[tuple[str, str]]  # column and value
_Point: TypeAlias = Mapping[str, tuple[Any, ...]]  # all names of a trial's value, by column


@dataclass(frozen=True, kw_only=True)
class Redo:
    """Which results of a study are forgotten before it resumes.

    Attributes:
        trials: Filters, as ``attack=sig and reinit_ratio=0.5``; what meets one of them is chosen.
        victims: Likewise, by the columns of scenarios.
    """

    trials: Sequence[str] = ()
    victims: Sequence[str] = ()

    def __bool__(self) -> bool:
        return bool(self.trials or self.victims)

    def chosen(self, plan: Plan, folder: StudyFolder) -> tuple[list[Trial], list[Scenario]]:
        """Return the trials and the victims that the filters choose.

        Raises:
            SpecError: A filter is none, names an unknown column or value, or chooses nothing.
        """
        problems: list[str] = []
        trials: dict[int, Trial] = {}
        scenarios: dict[int, Scenario] = {}
        if self.trials:
            statuses = _statuses(plan, folder) if "status" in " ".join(self.trials) else {}
            pending = Status.PENDING.value
            points = [
                (t, {**_point(plan, t), "status": (statuses.get(t.number, pending),)})
                for t in plan.rows
            ]
            for text in self.trials:
                found = _matching("--redo", "trial", text, points, problems)
                trials |= {trial.number: trial for trial in found}
        if self.victims:
            places = [(scenario, _names(scenario)) for scenario in plan.scenarios]
            for text in self.victims:
                matched = _matching("--redo-victims", "victim", text, places, problems)
                scenarios |= {scenario.number: scenario for scenario in matched}
        if problems:
            raise SpecError([f"command line: {problem}" for problem in problems])
        return list(trials.values()), list(scenarios.values())

    def forget(self, plan: Plan, folder: StudyFolder, findings: StageResults) -> str:
        """Delete the results that the filters choose from the store; return what was done.

        What rests on a result goes before it: after a kill in between, nothing that is left
        rests on a result that will be computed again.

        Raises:
            SpecError: As `chosen` does; then nothing is deleted.
            ResourceError: The store cannot be written to.
        """
        trials, scenarios = self.chosen(plan, folder)
        victims = {findings.keys.victim(scenario): scenario for scenario in scenarios}
        of_victims = [t for t in plan.trials if findings.keys.victim(t.scenario) in victims]
        chosen = {t.number: t for t in (*trials, *of_victims)}.values()
        last = _last_keys(findings, chosen)
        stages = {found.relearn_key for trial in chosen for found in reached(findings, trial)}
        store, keys = findings.store, findings.keys
        gone = 0
        cuts, skips = folder.drop_cuts(last), folder.drop_skips(stages)
        for key in last:
            gone += store.remove(EVALUATION.name, keys.evaluation(key))
            gone += sum(store.remove(stage.name, key) for stage in (RELEARNING, REPAIRED))
        for stage, key in _first_stages(findings, of_victims):
            gone += store.remove(stage, key)
        for key in victims:
            gone += store.remove(EVALUATION.name, keys.evaluation(key))
            gone += sum(store.remove(stage.name, key) for stage in (VICTIM, TRIGGER))
        for scenario in scenarios:
            # A benign victim is its helper's model. Others that start from the helper stay sound:
            # the same training gives the same model.
            for helper in scenario.helpers if scenario.benign else ():
                gone += store.remove(HELPER.name, keys.helper(scenario, helper))
        named = [count(len(trials), "trial")] if trials else []
        if scenarios:
            named.append(f"{count(len(scenarios), 'victim')} with all that rests on them")
        if not gone and not cuts and not skips:
            return f"nothing is stored of {' and '.join(named)} to be forgotten"
        own = {trial.number for trial in (*trials, *of_victims)}
        others = [trial for trial in plan.trials if trial.number not in own]
        shared = sum(key in last for trial in others for key in _last_keys(findings, [trial]))
        cut = f" and {count(cuts, 'cut curve')}" if cuts else ""
        cut += f" and {count(skips, 'skip')}" if skips else ""
        also = f"{count(shared, 'other trial')} of this study and " if shared else ""
        return (
            f"forgot {count(gone, 'result')}{cut} of {' and '.join(named)}; {also}other studies "
            f"that share them get the new ones"
        )


def stop_trials(study: Study, folder: StudyFolder, filters: Sequence[str]) -> str:
    """Have the driver of a running study stop trials; return what it did.

    Args:
        study: As it runs.
        folder: Its folder.
        filters: As `Redo` has them; what meets one of them is chosen.

    Raises:
        SpecError: A filter is none, or names an unknown column or value; the study does not run;
            or no trial that is chosen runs or waits. Nothing is stopped.
    """
    problems: list[str] = []
    plan = make_plan(study, recorded(study, folder))
    points = [(trial, _point(plan, trial)) for trial in plan.rows]
    chosen = {t.key for text in filters for t in _matching(STOP, "trial", text, points, problems)}
    holder = folder.holder()
    if not holder:
        problems.append(f"{STOP}: no study runs in {folder.path}, so there is nothing to stop")
    if problems:
        raise SpecError([f"command line: {problem}" for problem in problems])
    name, until = folder.ask_to_stop(sorted(chosen)), time.monotonic() + ANSWER_SECONDS
    while (stopped := folder.stop_answered(name)) is None and time.monotonic() < until:
        if not folder.holder():
            raise SpecError([f"command line: {STOP}: the study ended before it could be asked"])
        time.sleep(LOOK_SECONDS)
    if stopped is None:
        return f"{holder} was asked to stop; it does so as soon as what it works on reports"
    if not stopped:
        none = f"{count(len(chosen), 'trial')} met the filter, and none of them runs or waits"
        raise SpecError([f"command line: {STOP}: {none}"])
    ended = len(chosen) - stopped
    also = f"; {count(ended, 'other')} that met the filter had ended" if ended else ""
    return f"stopped {count(stopped, 'trial')}{also}; to run them later, run the study again"


def _last_keys(findings: StageResults, trials: Iterable[Trial]) -> dict[str, None]:
    """Return the keys of trials' last stages, as far as the stages before are stored."""
    befores = [(trial, reached(findings, trial)) for trial in trials]
    whole = [found[-1] for trial, found in befores if len(found) == len(chain_of(trial))]
    return {found.relearn_key: None for found in whole if found.relearn_key}


def _first_stages(findings: StageResults, trials: Sequence[Trial]) -> dict[tuple[str, str], None]:
    """Return stage and key of all that trials have stored before their last stages."""
    later: dict[tuple[str, str], None] = {}
    ascents: dict[tuple[str, str], None] = {}
    for trial in trials:
        runs = reached(findings, trial)[-1].runs
        later |= {(run.stage, run.key): None for run in reversed(runs) if run.stage != ASCENT.name}
        if trial.method is None:  # to whatever threshold they went down
            names = findings.store.names(ASCENT.name, findings.keys.ascent(trial))
            ascents |= {(ASCENT.name, name): None for name in names}
    return later | ascents


def _matching(
    option: str,
    what: str,
    text: str,
    points: Sequence[tuple[Any, _Point]],
    problems: list[str],
) -> list[Any]:
    """Return what meets all conditions of a filter; what is wrong with it is noted."""
    at_first = len(problems)
    conditions = _conditions(option, text, problems)
    columns = list(points[0][1]) if points else []
    for column, value in conditions:
        if not points:
            break
        if column not in columns:
            end = nearest(column, columns, "there are")
            problems.append(f"{option}: {column!r} names no {what}{end}")
        elif not any(_is_one(value, point[column]) for _, point in points):
            there = dict.fromkeys(cell_text(name) for _, point in points for name in point[column])
            end = nearest(value, there, "there are" if len(there) <= MOST_LISTED else "")
            problems.append(f"{option}: no {what} has {column}={value}{end}")
    found = [
        one
        for one, point in points
        if len(problems) == at_first and all(_is_one(v, point[name]) for name, v in conditions)
    ]
    if not found and len(problems) == at_first:
        problems.append(f"{option}: no {what} has {text}")
    return found


def _conditions(option: str, text: str, problems: list[str]) -> _Conditions:
    conditions = []
    for part in _AND.split(text.strip()):
        column, equals, value = (word.strip() for word in part.partition("="))
        if not (column and equals and value):
            problems.append(
                f"{option}: {part!r} is no condition; write COLUMN=VALUE, several joined by ' and '"
            )
            continue
        conditions.append((column, value))
    return conditions


def _is_one(text: str, values: Collection[Any]) -> bool:
    """Whether a text is one of the names of a value; 0.50 is 0.5."""
    for value in values:
        if text.lower() == cell_text(value).lower():
            return True
        if isinstance(value, int | float) and not isinstance(value, bool):
            try:
                if float(text) == value:
                    return True
            except ValueError:
                continue
    return False


def _names(scenario: Scenario) -> _Point:
    """Return the columns of a scenario; a bare name matches every variant."""
    names: dict[str, tuple[Any, ...]] = {n: (v,) for n, v in scenario.columns.items()}
    architecture = scenario.architecture
    names["dataset"] += (scenario.dataset.name,)
    names["architecture"] += (architecture.called, architecture.name)
    return names


def _point(plan: Plan, trial: Trial) -> _Point:
    values = {name: (value,) for name, value in plan.point(trial).items() if name not in SCENARIO}
    return {**_names(trial.scenario), **values, "trial": (trial.name, trial.number)}


def _statuses(plan: Plan, folder: StudyFolder) -> dict[int, str]:
    """Return what results.csv says of trials, by their number.

    Raises:
        SpecError: It cannot be read.
    """
    file = folder.path / "results.csv"
    if not file.exists():
        return {}
    table = read_table(file, ("status",))
    points = {trial.number: plan.point(trial) for trial in plan.trials}
    names = list(next(iter(points.values()), {}))
    rows = [row for row in table.rows if row["status"] in set(Status)]
    known = {tuple(row.get(name) for name in names): row["status"] for row in rows}
    cells = {
        number: tuple("" if point[name] is None else str(point[name]) for name in names)
        for number, point in points.items()
    }
    return {number: known[cell] for number, cell in cells.items() if cell in known}
