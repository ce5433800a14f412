"""Studies compared with each other.

Trials are the same where scenario and setting are, value by value. A difference is first a mean
within each scenario; `orchestrator.search.inference` says what its confidence interval is over.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from pathlib import Path
from statistics import fmean
from typing import Any, TypeAlias

from orchestrator.errors import SpecError
from orchestrator.files import csv_text
from orchestrator.plan.columns import (
    AFTER,
    DER,
    SCENARIO,
    STATUSES,
    Family,
    column_of,
    count,
    spoken,
)
from orchestrator.reporting.figures import Pair, draw_pairs
from orchestrator.reporting.page import FigureView, fill, view
from orchestrator.reporting.read_folder import (
    GIVEN,
    ScenarioRow,
    StudyFile,
    StudyResults,
    TrialRow,
    distinct,
    grouped,
    read_results,
    read_study,
)
from orchestrator.reporting.summary import (
    Repair,
    ScenarioOutcome,
    Summary,
    sound,
    summarise,
)
from orchestrator.reporting.svg import Styles, attack_styles
from orchestrator.reporting.text import (
    NOTHING,
    Names,
    difference_texts,
    label_of,
    labelled,
    names_of,
    oracle_note,
    report_texts,
    setting_text,
    title_of,
    weak_text,
)
from orchestrator.search.inference import MeanEstimate, estimate

METRICS = ("acc", "asr", "ra", "der")
UNKNOWN = "?"  # value of an axis that a study neither names nor tells the preset of
Point = tuple[ScenarioRow, tuple[str, ...]]  # a scenario, and a value of every axis
Trials: TypeAlias = tuple[TrialRow, TrialRow] | tuple[Repair, Repair]  # of two studies


@dataclass(frozen=True, kw_only=True)
class Side:
    """One study of a comparison."""

    label: str  # its name, with the folder's where two studies have the same
    results: StudyResults
    summary: Summary
    preset: str | None  # the preset of values that no axis names, or None if nothing says so

    def value(self, trial: TrialRow, axis: str) -> str:
        """Return a trial's value of any study's axis: its own or the preset's.

        Options of a method are those that it gives: which others vary is a study's own affair.
        """
        if axis == "repair_options" and GIVEN in trial.cells:
            return trial.cells[GIVEN]
        if axis in trial.cells:
            return trial.cells[axis]
        preset = trial.cells.get("preset", self.preset)
        if axis == "preset" or preset is None:
            return preset or UNKNOWN
        return preset_text(preset, trial.scenario.family.dataset, axis)

    @cached_property
    def outcomes(self) -> Mapping[ScenarioRow, ScenarioOutcome]:
        return {outcome.scenario: outcome for outcome in self.summary.outcomes}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Studies, and the axes that tell their settings apart."""

    sides: Sequence[Side]
    axes: Sequence[str]  # named by every study; settings are the same where all axes are
    labels: Mapping[str, str]  # what to call names: of the studies that say so, the first's
    lonely: Mapping[str, Sequence[str]]  # axes named by only some studies, with the labels of those

    def points(self, side: Side) -> dict[Point, TrialRow]:
        """Return a study's trials by scenario and setting."""
        axes = (*self.axes, *self.lonely)
        return {(t.scenario, tuple(side.value(t, a) for a in axes)): t for t in side.results.trials}

    def values(self, axis: str, sides: Iterable[Side]) -> list[str]:
        """Return an axis's values in some studies."""
        return distinct(side.value(t, axis) for side in sides for t in side.results.trials)

    def scenarios(self) -> list[ScenarioRow]:
        return distinct(scenario for side in self.sides for scenario in side.outcomes)

    def families(self) -> list[Family]:
        return distinct(scenario.family for scenario in self.scenarios())


def read_sides(folders: Sequence[Path]) -> Comparison:
    """Return the studies in `folders`.

    Raises:
        SpecError: A folder is no study's, or a file in it is not what it should be: all at once.
    """
    found: list[tuple[Path, StudyFile, StudyResults]] = []
    mistakes: list[str] = []
    for folder in folders:
        if not (folder / "results.csv").exists():
            mistakes.append(f"{folder}: no study folder; it has no results.csv")
            continue
        try:
            results = read_results(folder / "results.csv")
            if not results.trials:
                mistakes.append(
                    f"{folder}: no scenario has an attack, so there is nothing to compare"
                )
                continue
            found.append((folder, read_study(folder / "study.yaml"), results))
        except SpecError as error:
            mistakes += error.lines
    if mistakes:
        raise SpecError(mistakes)
    places = [folder.resolve().name for folder in folders]
    names = [study.name or place for (_, study, _), place in zip(found, places, strict=True)]
    sides = []
    for name, (folder, study, results) in zip(names, found, strict=True):
        place = folder.name if places.count(folder.name) == 1 else folder
        label = name if names.count(name) == 1 else f"{name} ({place})"
        summary = summarise(results, study.objective or "der", study.sampler, lowest=study.lowest)
        sides.append(Side(label=label, results=results, summary=summary, preset=study.preset))
    axes = distinct(axis for side in sides for axis in side.results.setting_axes)
    having = {a: [s.label for s in sides if a in s.results.setting_axes] for a in axes}
    return Comparison(
        sides=sides,
        axes=[axis for axis in axes if len(having[axis]) == len(sides)],
        labels=dict(item for _, study, _ in reversed(found) for item in study.labels.items()),
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


def aligned(comparison: Comparison, first: Side, other: Side) -> list[tuple[TrialRow, TrialRow]]:
    """Return the trials that both studies have done, in the first one's order."""
    ours, theirs = comparison.points(first), comparison.points(other)
    pairs = [(trial, theirs[point]) for point, trial in ours.items() if point in theirs]
    return [(one, two) for one, two in pairs if one.done and two.done]


def fair(pairs: Iterable[Trials]) -> list[Trials]:
    """Return the pairs whose victims both took: a weak one says nothing about a defence."""
    return [pair for pair in pairs if all(trial.victim_ok for trial in pair)]


def bests(first: Side, other: Side) -> list[tuple[Repair, Repair]]:
    """Return the best repairs of each scenario that both have, whatever their settings."""
    pairs = _common(first, other)
    return [(one.best, two.best) for one, two in pairs if one.best and two.best]


def _common(first: Side, other: Side) -> list[tuple[ScenarioOutcome, ScenarioOutcome]]:
    """Return the outcomes of each scenario that both have."""
    theirs = other.outcomes
    return [(one, theirs[s]) for s, one in first.outcomes.items() if s in theirs]


def _same_victim(one: ScenarioOutcome, two: ScenarioOutcome) -> bool:
    columns = [name for name in one.victim if "_before_" in name and two.victim]
    return all(abs(one.victim[name] - two.victim[name]) <= 1e-9 for name in columns)


_SAME, _OWN = "The same trials, all scenarios", "Own best settings, all scenarios"
MOST_LISTED = 100  # scenarios that only some studies have
_SHOWN = ("acc", "asr", "der")


def comparison_page(comparison: Comparison) -> str:
    """Return the page as one HTML file that asks for nothing else."""
    with labelled(comparison.labels):
        return _page(comparison)


def _page(comparison: Comparison) -> str:
    sides = comparison.sides
    names = names_of(*(side.results for side in sides))
    styles = attack_styles(names.attack(family) for family in comparison.families())
    others = [_against(comparison, sides[0], other, names, styles) for other in sides[1:]]
    missing = _missing(comparison, names)
    lonely = []
    for axis, having in comparison.lonely.items():
        without = [side for side in sides if axis not in side.results.setting_axes]
        values = comparison.values(axis, without)
        lonely.append((axis, having, [value or NOTHING for value in values]))
    return fill(
        "comparison.html.jinja",
        [against["figure"].width for against in others if against["figure"]],
        labels=[side.label for side in sides],
        headline=_headline(sides[0].label, others),
        studies=[_study(side) for side in sides],
        repairs=_repairs(comparison, names),
        others=others,
        lonely=lonely,
        unknown=UNKNOWN,
        settings=_settings(comparison),
        missing=missing[:MOST_LISTED],
        oracle_note=oracle_note(trial for side in sides for trial in side.results.trials),
        missing_more=max(0, len(missing) - MOST_LISTED),
        metrics=[title_of(metric) for metric in METRICS],
    )


def comparison_csv(comparison: Comparison) -> str:
    """Return every trial that any study has, with what each of them reached."""
    axes = (*comparison.axes, *comparison.lonely)
    measures = ("status", *AFTER, *DER)
    rows: dict[Point, dict[str, object]] = {}
    for side in comparison.sides:
        for (scenario, setting), trial in comparison.points(side).items():
            cells = {**scenario.cells(), **dict(zip(axes, setting, strict=True))}
            row = rows.setdefault((scenario, setting), {**cells})
            row |= {f"{name} [{side.label}]": trial.cells[name] for name in measures}
    columns = [f"{name} [{side.label}]" for side in comparison.sides for name in measures]
    return csv_text((*SCENARIO, *axes, *columns), rows.values())


def _study(side: Side) -> tuple[str, ...]:
    """Return label, scenarios, settings, counts by status, weak victims, and the best setting."""
    summary = side.summary
    best = "none: no victim took" if summary.all_weak else NOTHING
    if summary.common:
        best = f"{setting_text(summary.common)} (by {spoken(summary.objective)})"
    settings = {summary.named(trial.setting) for trial in side.results.trials}
    weak = sum(outcome.took is False for outcome in summary.outcomes)
    counts = [summary.counts[status] for status in STATUSES]
    return side.label, *map(str, (len(summary.outcomes), len(settings), *counts, weak)), best


def _repairs(
    comparison: Comparison, names: Names
) -> list[tuple[str, list[str], list[tuple[str, ...]]]]:
    """Return per family its weak victims, and what each study's own best settings reach."""
    rows = []
    for family in comparison.families():
        cells, weak = [], {}
        for side in comparison.sides:
            group = [o for o in side.summary.outcomes if o.scenario.family == family]
            weak[side.label] = weak_text(group)
            found = [outcome.best for outcome in sound(group) if outcome.best]
            cells.append((str(len(found)), *report_texts(found, _SHOWN)))
        texts = {f"{label}: {text}": text for label, text in weak.items() if text}
        alike = len(set(weak.values())) == 1
        rows.append((names.family(family), distinct(texts.values() if alike else texts), cells))
    return rows


def _against(
    comparison: Comparison, first: Side, other: Side, names: Names, styles: Styles
) -> dict[str, Any]:
    """Return a study beside the first one, in words."""
    same, common = aligned(comparison, first, other), _common(first, other)
    rows: dict[str, Sequence[Trials]] = {
        _SAME: same,
        _OWN: bests(first, other),
    }
    by_attack = grouped(same, lambda pair: names.attack(pair[0].scenario.family))
    rows |= {f"The same trials, {label_of(attack)}": pairs for attack, pairs in by_attack.items()}
    gaps, texts = _gaps({title: fair(pairs) for title, pairs in rows.items()})
    sentence = (
        f"Both have {count(len(common), 'scenario')} and have done {count(len(same), 'trial')} "
        f"that are the same in scenario and setting."
    )
    if others := sum(not _same_victim(*pair) for pair in common):
        sentence += (
            f" But in {count(others, 'scenario')} the victims are not the same (trained "
            f"otherwise, or on another kind of machine): differences are theirs too."
        )
    return {
        "label": other.label,
        "sentence": sentence,
        "rows": _table({title: len(fair(pairs)) for title, pairs in rows.items()}, gaps, texts),
        "overall": [(*key, gaps[key], texts[key]) for key in gaps if key[0] in (_SAME, _OWN)],
        "figure": _figure(first, other, same, names, styles) if same else None,
    }


Gaps: TypeAlias = Mapping[tuple[str, str], MeanEstimate]  # by kind of pairs and metric


def _gaps(rows: Mapping[str, Sequence[Trials]]) -> tuple[Gaps, Mapping[tuple[str, str], str]]:
    """Return each metric's difference by kind of pairs, and the same in words."""
    gaps = {}
    for title, pairs in rows.items():
        by_scenario = grouped(pairs, lambda pair: pair[0].scenario)
        attacks = [scenario.family.attack for scenario in by_scenario]
        for metric in METRICS if pairs else ():
            column = column_of(metric, "report")
            means = [
                fmean(two.numbers[column] - one.numbers[column] for one, two in group)
                for group in by_scenario.values()
            ]
            gaps[title, metric] = estimate(means, attacks)
    found = difference_texts([(gap, metric) for (_, metric), gap in gaps.items()])
    return gaps, dict(zip(gaps, found, strict=True))


def _table(
    sizes: Mapping[str, int], gaps: Gaps, texts: Mapping[tuple[str, str], str]
) -> list[tuple[str, ...]]:
    """Return kind of pairs, scenarios, trials, each metric's difference and its sample."""
    table = []
    for title, size in sizes.items():
        cells = [texts.get((title, metric), NOTHING) for metric in METRICS]
        gap = gaps.get((title, METRICS[0]))
        scenarios, sample = (str(gap.scenarios), gap.sample) if gap else ("0", NOTHING)
        table.append((title, scenarios, str(size), *cells, sample))
    return table


def _headline(first: str, others: Sequence[Mapping[str, Any]]) -> str:
    """Say which metric differs most from the first study, by how much, and whether clearly.

    The same trials say it, or own best settings where no two studies share a trial.
    """
    found = [(other["label"], *entry) for other in others for entry in other["overall"]]
    found = [one for one in found if one[1] == _SAME] or found
    if not found:
        return "No scenario is repaired in two of these studies, so nothing can be compared."
    by_size = sorted(found, key=lambda one: -abs(one[-2].mean))
    over = "the same trials" if found[0][1] == _SAME else "own best settings"
    _, _, most, gap, _ = by_size[0]
    if not gap.mean:
        return f"Nothing differs over {over}: all means are equal."

    def amount(one: tuple[str, str, str, MeanEstimate, str]) -> str:
        label, _, metric, gap, text = one
        unit = "" if metric == "der" else " points"
        return f"{label} less {first} is {text.rstrip('*')}{unit}, {gap.sample}"

    clear = next((one for one in by_size if one[-1].endswith("*")), None)
    sure = "a clear difference" if clear == by_size[0] else "not a clear difference"
    if gap.p is None:
        sure = "one scenario cannot show whether that is clear"
    text = f"{most.upper()} differs most over {over}: {amount(by_size[0])}; {sure}."
    if clear and clear != by_size[0]:
        text += f" Clear is the one in {clear[2].upper()}: {amount(clear)}."
    return text


def _figure(
    first: Side,
    other: Side,
    pairs: Sequence[tuple[TrialRow, TrialRow]],
    names: Names,
    styles: Styles,
) -> FigureView:
    marks = []
    for one, two in pairs:
        columns = {metric: column_of(metric, "report") for metric in _SHOWN}
        numbers = {metric: (one.numbers[c], two.numbers[c]) for metric, c in columns.items()}
        tip = f"{names.scenario(one.scenario)}\n{setting_text(one.setting)}"
        took = first.outcomes[one.scenario].took
        marks.append(Pair(names.attack(one.scenario.family), took, tip, numbers))
    drawing = draw_pairs(marks, (first.label[:36], other.label[:36]), styles, (235, 235))
    return view(f"against-{first.label}-{other.label}".replace(" ", "-"), drawing)


def _missing(comparison: Comparison, names: Names) -> list[tuple[str, list[str]]]:
    """Return the scenarios that not all studies have done alike: done of all, per study."""
    rows = []
    for scenario in comparison.scenarios():
        outcomes = [side.outcomes.get(scenario) for side in comparison.sides]
        cells = [
            f"{sum(trial.done for trial in o.trials)} of {len(o.trials)}" if o else "missing"
            for o in outcomes
        ]
        if len(set(cells)) > 1:
            rows.append((names.scenario(scenario), cells))
    return rows


def _settings(comparison: Comparison) -> list[tuple[str, str]]:
    """Return the settings that only some studies have, with the labels of those."""
    sides = comparison.sides
    varied = [
        # A defence seed that follows the seed makes no settings.
        len(comparison.values(axis, sides)) > 1
        if axis in comparison.lonely
        else any(axis in side.results.varied for side in sides)
        for axis in (*comparison.axes, *comparison.lonely)
    ]
    having: dict[str, dict[str, None]] = {}
    for side in sides:
        for _, setting in comparison.points(side):
            pairs = zip((*comparison.axes, *comparison.lonely), setting, strict=True)
            text = setting_text((a, v or NOTHING) for (a, v) in compress(pairs, varied))
            having.setdefault(text, {})[side.label] = None
    return [(text, ", ".join(who)) for text, who in having.items() if len(who) < len(sides)]
