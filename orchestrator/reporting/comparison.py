"""Several studies side by side: what they share, and how far they differ there.

Trials are the same where scenario and setting are, value by value. A difference is first a mean
within each scenario; `orchestrator.inference` says what its confidence interval is over.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TypeAlias

from orchestrator.errors import Mistakes
from orchestrator.inference import Estimate, estimate
from orchestrator.reporting.evidence import StudyFile, read_study
from orchestrator.reporting.naming import distinct
from orchestrator.reporting.results import Results, Scenario, Trial, read_results
from orchestrator.reporting.schema import Family, column_of
from orchestrator.reporting.summary import Outcome, Repair, Summary, summarise

METRICS = ("acc", "asr", "ra", "der")
UNKNOWN = "?"  # value of an axis that a study neither names nor tells the preset of
Point = tuple[Scenario, tuple[str, ...]]  # a scenario, and a value of every axis
Pair: TypeAlias = tuple[Trial, Trial] | tuple[Repair, Repair]  # of two studies


@dataclass(frozen=True, kw_only=True)
class Side:
    """One study of a comparison.

    Attributes:
        label: Its name, with the folder's where two studies have the same.
        preset: Where values come from that no axis names, or None if nothing says so.
    """

    label: str
    results: Results
    summary: Summary
    preset: str | None

    def value(self, trial: Trial, axis: str) -> str:
        """Return a trial's value of any study's axis: its own or the preset's."""
        if axis in trial.cells:
            return trial.cells[axis]
        preset = trial.cells.get("preset", self.preset)
        if axis == "preset" or preset is None:
            return preset or UNKNOWN
        return preset_text(preset, trial.scenario.family.dataset, axis)

    def outcomes(self) -> Mapping[Scenario, Outcome]:
        return {outcome.scenario: outcome for outcome in self.summary.outcomes}


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What a study has more than the first one, on the report half.

    Attributes:
        gap: In fractions, with its interval and test.
        trials: How many trials both have done, or how many pairs of best ones there are.
    """

    gap: Estimate
    trials: int


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Studies, and the axes by which their settings are told apart.

    Attributes:
        axes: Named by every study; settings are the same where all axes are.
        lonely: Axes named by only some studies, with the labels of those.
    """

    sides: Sequence[Side]
    axes: Sequence[str]
    lonely: Mapping[str, Sequence[str]]

    def points(self, side: Side) -> dict[Point, Trial]:
        """Return a study's trials by what they are."""
        everything = (*self.axes, *self.lonely)
        return {
            (t.scenario, tuple(side.value(t, axis) for axis in everything)): t
            for t in side.results.trials
        }

    def elsewhere(self, axis: str) -> list[str]:
        """Return the values that a lonely axis has where it is none."""
        without = [side for side in self.sides if axis not in side.results.setting_axes]
        return distinct(s.value(trial, axis) for s in without for trial in s.results.trials)

    def scenarios(self) -> list[Scenario]:
        return distinct(o.scenario for side in self.sides for o in side.summary.outcomes)

    def families(self) -> list[Family]:
        return distinct(scenario.family for scenario in self.scenarios())


def read_sides(folders: Sequence[Path]) -> Comparison:
    """Return the studies in `folders`.

    Raises:
        Mistakes: A folder is no study's, or a file in it is not what it should be: all at once.
    """
    found: list[tuple[Path, StudyFile, Results, Summary]] = []
    mistakes: list[str] = []
    for folder in folders:
        if not (folder / "results.csv").exists():
            mistakes.append(f"{folder}: no study folder; it has no results.csv")
            continue
        try:
            results = read_results(folder / "results.csv")
            study = read_study(folder / "study.yaml")
        except Mistakes as error:
            mistakes += error.lines
            continue
        summary = summarise(results, study.objective or "der", study.sampler)
        found.append((folder, study, results, summary))
    if mistakes:
        raise Mistakes(mistakes)
    names = [study.name or folder.resolve().name for folder, study, _, _ in found]
    places = [folder.resolve().name for folder, _, _, _ in found]
    sides = [
        Side(
            label=name
            if names.count(name) == 1
            else f"{name} ({folder.name if places.count(folder.name) == 1 else folder})",
            results=results,
            summary=summary,
            preset=study.preset,
        )
        for name, (folder, study, results, summary) in zip(names, found, strict=True)
    ]
    axes = distinct(axis for side in sides for axis in side.results.setting_axes)
    having = {a: [s.label for s in sides if a in s.results.setting_axes] for a in axes}
    return Comparison(
        sides=sides,
        axes=[axis for axis in axes if len(having[axis]) == len(sides)],
        lonely={axis: labels for axis, labels in having.items() if len(labels) < len(sides)},
    )


def preset_text(preset: str, dataset: str, axis: str) -> str:
    """Return a preset's value of a hyper-parameter as results.csv writes it.

    Args:
        preset: Its name.
        dataset: As results.csv names it, which may go on after the dataset's own name.
        axis: The hyper-parameter.
    """
    from ulrl.hyperparameters import Preset, preset_values  # torch, which few comparisons need

    named = re.match(r"\w*", dataset)
    try:
        value = preset_values(Preset(preset), named[0] if named else "")[axis]
    except (ValueError, KeyError):
        return UNKNOWN
    if value is None:
        return ""
    return json.dumps(value) if isinstance(value, tuple) else str(value)


def aligned(comparison: Comparison, first: Side, other: Side) -> list[tuple[Trial, Trial]]:
    """Return the trials that both studies have done, in the first one's order."""
    theirs = comparison.points(other)
    return [
        (trial, theirs[point])
        for point, trial in comparison.points(first).items()
        if trial.done and point in theirs and theirs[point].done
    ]


def fair(pairs: Iterable[Pair]) -> list[Pair]:
    """Return the pairs whose victims both took: a weak one says nothing about a defence."""
    return [pair for pair in pairs if all(trial.victim_ok for trial in pair)]


def bests(first: Side, other: Side) -> list[tuple[Repair, Repair]]:
    """Return the best repairs of each scenario that both have, whatever their settings."""
    theirs = other.outcomes()
    found = []
    for scenario, outcome in first.outcomes().items():
        rival = theirs.get(scenario)
        if outcome.best is not None and rival is not None and rival.best is not None:
            found.append((outcome.best, rival.best))
    return found


def difference(pairs: Iterable[Pair], metric: str) -> Difference | None:
    """Return the mean of second minus first, None without a pair."""
    column = column_of(metric, "report")
    by_scenario: dict[Scenario, list[float]] = {}
    for first, other in pairs:
        gap = other.numbers[column] - first.numbers[column]
        by_scenario.setdefault(first.scenario, []).append(gap)
    if not by_scenario:
        return None
    means = [fmean(gaps) for gaps in by_scenario.values()]
    attacks = [scenario.family.attack for scenario in by_scenario]
    trials = sum(map(len, by_scenario.values()))
    return Difference(gap=estimate(means, attacks), trials=trials)


def other_victims(first: Side, other: Side) -> int:
    """Return how many scenarios both have, with victims that are not the same."""
    theirs = other.outcomes()
    return sum(
        bool(o.victim and theirs[scenario].victim)
        and any(
            abs(theirs[scenario].victim[name] - v) > 1e-9
            for name, v in o.victim.items()
            if "_before_" in name
        )
        for scenario, o in first.outcomes().items()
        if scenario in theirs
    )
