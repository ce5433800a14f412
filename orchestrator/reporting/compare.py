"""Studies compared with each other.

Trials are the same where scenario and setting are, value by value. A difference is first a mean
within each scenario; `orchestrator.search.inference` says what its confidence interval is over.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TypeAlias

from orchestrator.errors import SpecError
from orchestrator.files import csv_text
from orchestrator.plan.columns import AFTER, DER, SCENARIO, STATUSES, Family, column_of, count
from orchestrator.plan.labels import setting_text
from orchestrator.reporting.figures import (
    colour_of,
    diagonal_panel,
    factor,
    legend,
    title_of,
)
from orchestrator.reporting.page import FigureView, fill, view
from orchestrator.reporting.read_logs import StudyFile, read_study
from orchestrator.reporting.read_results import ScenarioRow, StudyResults, TrialRow, read_results
from orchestrator.reporting.summary import (
    Repair,
    ScenarioOutcome,
    Summary,
    sound,
    spread_of,
    summarise,
)
from orchestrator.reporting.svg import Styles, SvgCanvas, attack_styles
from orchestrator.reporting.text import (
    NOTHING,
    Names,
    difference_text,
    distinct,
    fraction,
    names_of,
    percent,
    weak_text,
)
from orchestrator.search.inference import MeanEstimate, estimate, holm, sample_text

METRICS = ("acc", "asr", "ra", "der")
UNKNOWN = "?"  # value of an axis that a study neither names nor tells the preset of
Point = tuple[ScenarioRow, tuple[str, ...]]  # a scenario, and a value of every axis
Pair: TypeAlias = tuple[TrialRow, TrialRow] | tuple[Repair, Repair]  # of two studies


@dataclass(frozen=True, kw_only=True)
class Side:
    """One study of a comparison.

    Attributes:
        label: Its name, with the folder's where two studies have the same.
        preset: Where values come from that no axis names, or None if nothing says so.
    """

    label: str
    results: StudyResults
    summary: Summary
    preset: str | None

    def value(self, trial: TrialRow, axis: str) -> str:
        """Return a trial's value of any study's axis: its own or the preset's."""
        if axis in trial.cells:
            return trial.cells[axis]
        preset = trial.cells.get("preset", self.preset)
        if axis == "preset" or preset is None:
            return preset or UNKNOWN
        return preset_text(preset, trial.scenario.family.dataset, axis)

    def outcomes(self) -> Mapping[ScenarioRow, ScenarioOutcome]:
        return {outcome.scenario: outcome for outcome in self.summary.outcomes}


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What a study has more than the first one, on the report half.

    Attributes:
        gap: In fractions, with its interval and test.
        trials: How many trials both have done, or how many pairs of best ones there are.
    """

    gap: MeanEstimate
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

    def points(self, side: Side) -> dict[Point, TrialRow]:
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

    def scenarios(self) -> list[ScenarioRow]:
        return distinct(o.scenario for side in self.sides for o in side.summary.outcomes)

    def families(self) -> list[Family]:
        return distinct(scenario.family for scenario in self.scenarios())


def read_sides(folders: Sequence[Path]) -> Comparison:
    """Return the studies in `folders`.

    Raises:
        SpecError: A folder is no study's, or a file in it is not what it should be: all at once.
    """
    found: list[tuple[Path, StudyFile, StudyResults, Summary]] = []
    mistakes: list[str] = []
    for folder in folders:
        if not (folder / "results.csv").exists():
            mistakes.append(f"{folder}: no study folder; it has no results.csv")
            continue
        try:
            results = read_results(folder / "results.csv")
            study = read_study(folder / "study.yaml")
        except SpecError as error:
            mistakes += error.lines
            continue
        summary = summarise(results, study.objective or "der", study.sampler)
        found.append((folder, study, results, summary))
    if mistakes:
        raise SpecError(mistakes)
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


def aligned(comparison: Comparison, first: Side, other: Side) -> list[tuple[TrialRow, TrialRow]]:
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
    by_scenario: dict[ScenarioRow, list[float]] = {}
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


MOST_LISTED = 100  # scenarios that only some studies have
_SHOWN = ("acc", "asr", "der")


@dataclass(frozen=True, kw_only=True)
class Against:
    """A study beside the first one, in words.

    Attributes:
        rows: What is compared, scenarios, trials, the difference of each metric, and what
            its interval is over.
        tests: How many differences of the table have a test.
        sentence: What the two share.
    """

    label: str
    sentence: str
    rows: Sequence[tuple[str, ...]]
    tests: int
    figure: FigureView | None


def comparison_page(comparison: Comparison) -> str:
    """Return the page as one HTML file that asks for nothing else."""
    names = _names(comparison)
    styles = attack_styles(names.attack(family) for family in comparison.families())
    first = comparison.sides[0]
    others = [_against(comparison, first, o, names, styles) for o in comparison.sides[1:]]
    missing = _missing(comparison, names)
    return fill(
        "comparison.html.jinja",
        [against.figure.width for against in others if against.figure is not None],
        labels=[side.label for side in comparison.sides],
        studies=[_study(side) for side in comparison.sides],
        repairs=_repairs(comparison, names),
        others=others,
        lonely=[
            (axis, having, [value or NOTHING for value in comparison.elsewhere(axis)])
            for axis, having in comparison.lonely.items()
        ],
        unknown=UNKNOWN,
        settings=_settings(comparison),
        missing=missing[:MOST_LISTED],
        missing_more=max(0, len(missing) - MOST_LISTED),
        metrics=[title_of(metric) for metric in METRICS],
    )


def comparison_csv(comparison: Comparison) -> str:
    """Return every trial that any study has, with what each of them reached."""
    axes = (*comparison.axes, *comparison.lonely)
    measures = ("status", *AFTER, *DER)
    found = [comparison.points(side) for side in comparison.sides]
    points = distinct(point for trials in found for point in trials)
    columns = [f"{name} [{side.label}]" for side in comparison.sides for name in measures]
    rows = []
    for point in points:
        scenario, setting = point
        row: dict[str, object] = {**scenario.cells(), **dict(zip(axes, setting, strict=True))}
        for side, trials in zip(comparison.sides, found, strict=True):
            cells = trials[point].cells if point in trials else {}
            row |= {f"{name} [{side.label}]": cells.get(name, "") for name in measures}
        rows.append(row)
    return csv_text((*SCENARIO, *axes, *columns), rows)


def _names(comparison: Comparison) -> Names:
    trials = tuple(trial for side in comparison.sides for trial in side.results.trials)
    return names_of(StudyResults(trials=trials, setting_axes=(), varied=(), telling=()))


def _study(side: Side) -> tuple[str, ...]:
    """Return label, scenarios, settings, counts by status, weak victims, and the best setting."""
    summary = side.summary
    weak = sum(outcome.took is False for outcome in summary.outcomes)
    settings = len(distinct(summary.named(t.setting) for t in side.results.trials))
    if summary.common:
        best = f"{setting_text(summary.common)} (by {summary.objective.upper()})"
    else:
        best = "none: no victim took" if summary.all_weak else NOTHING
    return (
        side.label,
        *map(str, (len(summary.outcomes), settings)),
        *(str(summary.counts[status]) for status in STATUSES),
        str(weak),
        best,
    )


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
            spreads = {m: spread_of(found, column_of(m, "report")) for m in _SHOWN}
            told = (fraction(s) if m == "der" else percent(s) for m, s in spreads.items())
            cells.append((str(len(found)), *told))
        texts = distinct(weak.values())
        alike = [text for text in texts if text] if len(texts) == 1 else None
        each = [f"{label}: {text}" for label, text in weak.items() if text]
        rows.append((names.family(family), each if alike is None else alike, cells))
    return rows


def _against(
    comparison: Comparison, first: Side, other: Side, names: Names, styles: Styles
) -> Against:
    same = aligned(comparison, first, other)
    best = bests(first, other)
    rows: list[tuple[str, Sequence[Pair]]] = [
        ("The same trials, all scenarios", same),
        ("Own best settings, all scenarios", best),
    ]
    for attack in distinct(names.attack(one.scenario.family) for one, _ in same):
        group = [pair for pair in same if names.attack(pair[0].scenario.family) == attack]
        rows.append((f"The same trials, {attack}", group))
    common = set(first.outcomes()) & set(other.outcomes())
    victims = other_victims(first, other)
    sentence = (
        f"Both have {count(len(common), 'scenario')} and have done {count(len(same), 'trial')} "
        f"that are the same in scenario and setting."
    )
    if victims:
        sentence += (
            f" But in {count(victims, 'scenario')} the victims are not the same (trained "
            f"otherwise, or on another kind of machine): differences are theirs too."
        )
    told, tests = _table([(what, fair(pairs)) for what, pairs in rows])
    return Against(
        label=other.label,
        sentence=sentence,
        rows=told,
        tests=tests,
        figure=_figure(first, other, same, names, styles),
    )


def _table(rows: Sequence[tuple[str, Sequence[Pair]]]) -> tuple[list[tuple[str, ...]], int]:
    """Return the rows in words, and how many tests they hold.

    A star marks what differs clearly after Holm's adjustment over all tests of the table.
    """
    found = [[(metric, difference(pairs, metric)) for metric in METRICS] for _, pairs in rows]
    tested = [gap.gap.p for row in found for _, gap in row if gap and gap.gap.p is not None]
    adjusted = iter(holm(tested))
    told = []
    for (what, _), row in zip(rows, found, strict=True):
        cells = []
        for metric, gap in row:
            if gap is None:
                cells.append(NOTHING)
                continue
            p = None if gap.gap.p is None else next(adjusted)
            bounds = gap.gap.mean, gap.gap.low, gap.gap.high
            cells.append(difference_text(bounds, metric, p))
        size = row[0][1]
        numbers = (str(size.gap.scenarios), str(size.trials)) if size else ("0", "0")
        over = sample_text(size.gap.attacks, size.gap.scenarios) if size else NOTHING
        told.append((what, *numbers, *cells, over))
    return told, len(tested)


def _figure(
    first: Side,
    other: Side,
    pairs: Sequence[tuple[TrialRow, TrialRow]],
    names: Names,
    styles: Styles,
) -> FigureView | None:
    if not pairs:
        return None
    sheet = SvgCanvas(rows=1, columns=len(_SHOWN) + 1, width=235, height=235)
    took = first.outcomes()
    for column, metric in enumerate(_SHOWN):
        panel = diagonal_panel(sheet, column, metric, (first.label[:36], other.label[:36]))
        for one, two in pairs:
            x, y = (
                factor(metric) * trial.numbers[column_of(metric, "report")] for trial in (one, two)
            )
            style = styles[names.attack(one.scenario.family)]
            tip = f"{names.scenario(one.scenario)}\n{setting_text(one.setting)}\n{x:.4g} → {y:.4g}"
            panel.mark(x, y, style.mark, colour_of(took[one.scenario], style), tip=tip)
    legend(sheet, len(_SHOWN), styles)
    return view(f"against-{first.label}-{other.label}".replace(" ", "-"), sheet.finish())


def _missing(comparison: Comparison, names: Names) -> list[tuple[str, list[str]]]:
    """Return the scenarios that not all studies have done alike: done of all, per study."""
    rows = []
    for scenario in comparison.scenarios():
        told = [_extent(side, scenario) for side in comparison.sides]
        if len(set(told)) > 1:
            rows.append((names.scenario(scenario), told))
    return rows


def _settings(comparison: Comparison) -> list[tuple[str, str]]:
    """Return the settings that only some studies have, with the labels of those."""
    axes = (*comparison.axes, *comparison.lonely)
    varied = [place for place, axis in enumerate(axes) if _differs(comparison, axis)]
    having: dict[str, list[str]] = {}
    for side in comparison.sides:
        for _, setting in comparison.points(side):
            text = setting_text(tuple((axes[p], setting[p] or NOTHING) for p in varied))
            labels = having.setdefault(text, [])
            if side.label not in labels:
                labels.append(side.label)
    everywhere = len(comparison.sides)
    return [(text, ", ".join(who)) for text, who in having.items() if len(who) < everywhere]


def _differs(comparison: Comparison, axis: str) -> bool:
    """Whether an axis makes settings: a defence seed that follows the seed does not."""
    if axis not in comparison.lonely:
        return any(axis in side.results.varied for side in comparison.sides)
    values = {s.value(trial, axis) for s in comparison.sides for trial in s.results.trials}
    return len(values) > 1


def _extent(side: Side, scenario: ScenarioRow) -> str:
    outcome = side.outcomes().get(scenario)
    if outcome is None:
        return "missing"
    done = sum(trial.done for trial in outcome.trials)
    return f"{done} of {len(outcome.trials)}"
