"""Figures of the report: before and after, ACC against ASR, curves, surfaces."""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from math import floor
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from orchestrator.errors import SpecError
from orchestrator.files import csv_text, read_table
from orchestrator.plan.columns import (
    RELEARN,
    SCENARIO,
    SERIES,
    STATUSES,
    SURFACE_AXES,
    ULRL,
    UNLEARN,
    column_of,
)
from orchestrator.reporting import svg
from orchestrator.reporting.read_folder import (
    ScenarioRow,
    Setting,
    StudyResults,
    TrialRow,
    grouped,
    in_order,
    scenario_of,
    setting_of,
)
from orchestrator.reporting.statistics import METRICS
from orchestrator.reporting.summary import (
    HIGHEST_ASR,
    ScenarioOutcome,
    Spread,
    Summary,
    sound,
    spread_of,
)
from orchestrator.reporting.text import (
    Names,
    label_of,
    number_text,
    printable,
    repair_tip,
    setting_text,
    spread_text,
    title_of,
)

WEAK = "#8c8c8c"  # of a victim that did not take
MARGINS = (40, 36, 12, 24)
_ROW = 20.0  # points that an attack takes in a figure, at least
_LONGEST_LABEL = 22


def factor(metric: str) -> float:
    """Return what a metric is multiplied by to be shown."""
    return 1.0 if metric == "der" else 100.0


def metric_axis(metric: str, label: str = "") -> svg.Axis:
    """Return an axis from 0 to 1 or 100, with room for marks at its ends."""
    end = factor(metric)
    values = [end * place / 5 for place in range(6)]
    ticks = [(value, f"{value:g}" if end > 1 else f"{value:.1f}") for value in values]
    return svg.Axis(-0.03 * end, 1.03 * end, ticks, label)


def metric_panel(sheet: svg.SvgCanvas, metric: str, across: svg.Axis) -> svg.Panel:
    """Return a panel of a metric over something."""
    return sheet.panel(MARGINS, across, metric_axis(metric), [title_of(metric)])


def lines_axis(names: Iterable[str]) -> svg.Axis:
    """Return an axis with a labelled line for each entry, the first on top."""
    ticks = [(float(place), short(label_of(name))) for place, name in enumerate(names)]
    return svg.Axis(len(ticks) - 0.5, -0.5, ticks)


def colour_of(took: bool | None, style: svg.Style) -> str:  # noqa: FBT001 - of the victim
    """Return the attack's colour, or grey where the victim did not take."""
    return style.colour if took else WEAK


def room(names: Iterable[str]) -> float:
    """Return the points that the longest label takes beside its axis."""
    return 10 + 5.2 * max(len(short(label_of(name))) for name in names)


def short(text: str, most: int = _LONGEST_LABEL) -> str:
    text = printable(text)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def legend(sheet: svg.SvgCanvas, styles: svg.Styles) -> None:
    """Name the attacks' styles in a panel of their own."""
    lines = max(1.0, (sheet.height - 32) / 15)
    down = svg.Axis(max(lines, len(styles)) - 0.5, -0.5)
    panel = sheet.panel((10, 10, 10, 22), svg.Axis(0, 10), down, frame=())
    for place, (attack, style) in enumerate(styles.items()):
        panel.mark(0.4, place, style.mark, style.colour)
        panel.text(0.4, place, label_of(attack), dx=9, anchor="start")
    sheet.crop(32 + 15.0 * len(styles))


def draw_before_after(
    outcomes: Sequence[ScenarioOutcome], names: Names, styles: svg.Styles
) -> svg.SvgFigure:
    """Draw each scenario's ASR and ACC, from the victim's to the repaired model's."""
    by_attack = grouped(outcomes, lambda outcome: names.attack(outcome.scenario.family))
    row = max(_ROW, min(90.0, 4.5 * max(map(len, by_attack.values()))))
    sheet = svg.SvgCanvas(columns=2, width=330, height=56 + row * len(by_attack))
    down = lines_axis(by_attack)
    for metric in ("asr", "acc"):
        margins = room(by_attack), 34, 10, 22
        panel = sheet.panel(margins, metric_axis(metric), down, [title_of(metric)], ["bottom"])
        if metric == "asr":
            limit = [(100 * HIGHEST_ASR, down.low), (100 * HIGHEST_ASR, down.high)]
            panel.line(limit, stroke_width=0.6, stroke_dasharray="4 3", opacity=0.6)
        for place, (attack, group) in enumerate(by_attack.items()):
            step = 0.7 / len(group)
            for index, outcome in enumerate(group):
                height = place + step * (index - (len(group) - 1) / 2)
                if outcome.best is None:
                    continue
                before = 100 * outcome.victim[f"{metric}_before_report"]
                after = 100 * outcome.best.numbers[f"{metric}_after_report"]
                colour = colour_of(outcome.took, styles[attack])
                tip = repair_tip(outcome.best, names)
                ends = [(before, height), (after, height)]
                panel.line(ends, stroke=colour, stroke_width=0.9, stroke_opacity=0.6, tip=tip)
                panel.mark(before, height, "open o", colour, size=2.1, tip=tip)
                panel.mark(after, height, styles[attack].mark, colour, tip=tip)
    return sheet.finish()


class Pair(NamedTuple):
    """A mark of `draw_pairs`: an attack, whether its victim took, and two numbers per metric."""

    attack: str
    took: bool | None
    tip: str
    numbers: Mapping[str, tuple[float, float]]


def draw_pairs(
    pairs: Sequence[Pair], labels: tuple[str, str], styles: svg.Styles, size: tuple[float, float]
) -> svg.SvgFigure:
    """Draw ACC, ASR and DER against themselves, with the line where both are equal."""
    sheet = svg.SvgCanvas(columns=len(METRICS) + 1, width=size[0], height=size[1])
    for metric in METRICS:
        end = factor(metric)
        across, up = (metric_axis(metric, label) for label in labels)
        panel = sheet.panel((40, 34, 10, 22), across, up, [title_of(metric)])
        panel.line([(0, 0), (end, end)], stroke_width=0.6, opacity=0.5)
        for attack, took, tip, numbers in pairs:
            x, y = (end * number for number in numbers[metric])
            style = styles[attack]
            text = f"{tip}\n{x:.4g} → {y:.4g}"
            panel.mark(x, y, style.mark, colour_of(took, style), tip=text)
    legend(sheet, styles)
    return sheet.finish()


def draw_halves(
    outcomes: Sequence[ScenarioOutcome], names: Names, styles: svg.Styles
) -> svg.SvgFigure:
    """Draw what each scenario's best setting reaches on one half against the other."""
    halves = [(m, column_of(m, "selection"), column_of(m, "report")) for m in METRICS]
    pairs = [
        Pair(
            names.attack(outcome.scenario.family),
            outcome.took,
            names.scenario(outcome.scenario),
            {
                metric: (best.numbers[selection], best.numbers[report])
                for metric, selection, report in halves
            },
        )
        for outcome in outcomes
        if (best := outcome.best)
    ]
    size = (215, max(215.0, 40 + 13.0 * len(styles)))
    return draw_pairs(pairs, ("selection half", "report half"), styles, size)


ASR, ACC = "asr_after_report", "acc_after_report"


def unbeaten(points: Iterable[svg.Point]) -> list[svg.Point]:
    """Return the points (ASR, ACC) that no other beats in both, by ASR."""
    found: list[svg.Point] = []
    for asr, acc in sorted(points, key=lambda point: (point[0], -point[1])):
        if not found or acc > found[-1][1]:
            found.append((asr, acc))
    return found


def setting_means(summary: Summary) -> list[tuple[Setting, int, svg.Point]]:
    """Return the settings done in all scenarios whose victim took: their number, and the means."""
    counted = [outcome for outcome in sound(summary.outcomes) if outcome.best]
    trials = (trial for outcome in counted for trial in outcome.trials)
    return [
        (setting, len(counted), (_mean(group, ASR), _mean(group, ACC)))
        for setting, group in grouped(trials, lambda t: summary.named(t.setting)).items()
        if all(trial.done for trial in group)
        and len({trial.scenario for trial in group}) == len(counted)
    ]


def _mean(trials: Iterable[TrialRow], column: str) -> float:
    return 100 * fmean(trial.numbers[column] for trial in trials)


def draw_front(summary: Summary, names: Names, styles: svg.Styles) -> svg.SvgFigure:
    """Draw every done trial, and beside it every setting's mean; lines join what is unbeaten."""
    sheet = svg.SvgCanvas(columns=3, width=330, height=300)
    done = [trial for outcome in summary.outcomes for trial in outcome.trials if trial.done]
    lowest = 10 * floor(10 * min(trial.numbers[ACC] for trial in done) - 0.1)
    low = max(-3.0, float(lowest))
    up = svg.Axis(low, 103.0, [(value, f"{value:g}") for value in svg.steps(low, 100)], "ACC, %")
    every, means = (
        sheet.panel((42, 36, 12, 24), metric_axis("asr", "ASR, %"), up, [title])
        for title in ("Every trial", "Every setting, mean over scenarios")
    )
    counted = {outcome.scenario for outcome in sound(summary.outcomes)}
    places = {id(t): (100 * t.numbers[ASR], 100 * t.numbers[ACC]) for t in done}
    for trial in sorted(done, key=lambda trial: trial.scenario in counted):
        style = styles[names.attack(trial.scenario.family)]
        colour = colour_of(trial.victim_ok, style)
        every.mark(*places[id(trial)], style.mark, colour, tip=repair_tip(trial, names))
    _join(every, [places[id(t)] for t in done if t.scenario in counted and not t.is_oracle])
    points = setting_means(summary)
    oracles = {summary.named(trial.setting) for trial in done if trial.is_oracle}
    _join(means, [place for setting, _, place in points if setting not in oracles])
    for setting, scenarios, (asr, acc) in points:
        tip = f"{setting_text(setting)}\nACC {acc:.1f} %, ASR {asr:.1f} % (n = {scenarios})"
        means.mark(asr, acc, "o", svg.INK, size=3.2, tip=tip)
    legend(sheet, styles)
    return sheet.finish()


def _join(panel: svg.Panel, points: Iterable[svg.Point]) -> None:
    line = unbeaten(points)
    panel.line(line, stroke_width=1, stroke_dasharray="3 2", pointer_events="none")


TITLES = {
    UNLEARN: {"accuracy": "Accuracy that the stop rule reads, %", "acc": "ACC, %", "asr": "ASR, %"},
    RELEARN: {"acc": "ACC, %", "asr": "ASR, %", "ra": "RA, %"},
}


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One ascent, or one relearning."""

    phase: str
    scenario: ScenarioRow
    setting: Setting  # of a relearning; an ascent serves several
    series: dict[str, list[float]]  # fractions from epoch 1; empty where the phase has none


def read_curves(path: Path, results: StudyResults) -> list[Curve]:
    """Return ULRL's curves of the scenarios in its results; none if no file is there.

    Raises:
        SpecError: It is there, but is no list of curves.
    """
    if not path.exists():
        return []
    table = read_table(path, ("phase", *SCENARIO, *results.setting_axes, *SERIES))
    known = {trial.scenario for trial in results.trials}
    found = []
    for number, row in enumerate(table.rows, start=2):
        if row["phase"] not in TITLES:
            rule = f"must be {UNLEARN} or {RELEARN}; got {row['phase']!r}"
            raise SpecError([f"{path}: row {number}, phase: {rule}"])
        series = {name: _fractions(row[name]) for name in SERIES}
        for name, values in series.items():
            if values is None:
                rule = f"must be a JSON list of fractions in [0, 1]; got {row[name][:60]!r}"
                raise SpecError([f"{path}: row {number}, {name}: {rule}"])
        curve = Curve(
            phase=row["phase"],
            scenario=scenario_of(row),
            setting=setting_of(row, results.varied),
            series={name: values or [] for name, values in series.items()},
        )
        if curve.scenario in known and row.get("repair", ULRL) == ULRL:
            found.append(curve)
    return found


def draw_curves(
    phase: str, curves: Sequence[Curve], results: StudyResults, names: Names, styles: svg.Styles
) -> svg.SvgFigure:
    """Draw each curve of a phase, and each attack's mean while all of its curves last."""
    last = max(2, *(len(values) for curve in curves for values in curve.series.values()))
    ticks = [(epoch, f"{epoch:g}") for epoch in svg.steps(1, last, 5) if epoch == int(epoch)]
    across = svg.Axis(0.5, last + 0.5, ticks, "epoch")
    given = (trial.cells["unlearn_threshold"] for trial in results.trials)
    thresholds = in_order(value for value in given if value)  # other methods have none
    by_attack = grouped(curves, lambda curve: names.attack(curve.scenario.family))
    sheet = svg.SvgCanvas(columns=len(TITLES[phase]) + 1, width=250, height=225)
    for name, title in TITLES[phase].items():
        panel = sheet.panel(MARGINS, across, metric_axis("acc"), [title])
        if name == "accuracy" and len(thresholds) <= 8:  # else too many to tell apart
            for value in thresholds:
                ends = [(across.low, 100 * float(value)), (across.high, 100 * float(value))]
                tip, dash = setting_text([("unlearn_threshold", value)]), "4 3"
                panel.line(ends, stroke_width=0.7, stroke_dasharray=dash, opacity=0.6, tip=tip)
        for attack, group in by_attack.items():
            style = styles[attack]
            for curve in group:
                points = [(e, 100 * v) for e, v in enumerate(curve.series[name], start=1)]
                tip = names.scenario(curve.scenario)
                panel.line(points, stroke=style.colour, stroke_width=0.8, opacity=0.45, tip=tip)
            shared = zip(*(curve.series[name] for curve in group), strict=False)
            mean = [(e, 100 * fmean(values)) for e, values in enumerate(shared, start=1)]
            panel.line(
                mean,
                stroke_width=2,
                tip=f"{label_of(attack)}, mean of {len(group)}",
                **style.line(),
            )
            if mean:
                panel.mark(*mean[-1], style.mark, style.colour, size=3)
    legend(sheet, styles)
    return sheet.finish()


def curves_csv(phase: str, curves: Sequence[Curve]) -> str:
    """Return what the figure of a phase draws, a row per curve and epoch."""
    names = tuple(TITLES[phase])
    rows = [
        {**curve.scenario.cells(), "epoch": epoch, **dict(zip(names, values, strict=True))}
        for curve in curves
        for epoch, values in enumerate(
            zip_longest(*(curve.series[name] for name in names), fillvalue=""), start=1
        )
    ]
    return csv_text((*SCENARIO, "epoch", *names), rows)


def _fractions(text: str) -> list[float] | None:
    try:
        values = json.loads(text)
    except ValueError:
        return None
    if not isinstance(values, list):
        return None
    numbers = [float(v) for v in values if isinstance(v, int | float) and 0 <= v <= 1]
    return numbers if len(numbers) == len(values) else None


MOST_ROWS = 12  # of surfaces in one figure
_MEASURED = ("acc_before_report", "asr_before_report", ACC, ASR, "der_report")
_LONGEST_HEAD = 32  # characters above a panel
_CELL_WIDTH, _CELL_HEIGHT = 42.0, 30.0  # points
_LEFT, _BOTTOM, _RIGHT, _LINE = 44.0, 34.0, 8.0, 12.0


def surface_axes(
    trials: Sequence[TrialRow], log_axes: Collection[str] = frozenset()
) -> list[svg.SettingAxis]:
    """Return the two axes of surfaces with the values that these trials have."""
    return [
        svg.SettingAxis(
            name=name, values=in_order(t.cells[name] for t in trials), log=name in log_axes
        )
        for name in SURFACE_AXES
    ]


def rest(setting: Setting) -> Setting:
    """Return a setting without the axes of the surface."""
    return tuple((axis, value) for axis, value in setting if axis not in SURFACE_AXES)


def draw_surfaces(
    trials: Sequence[TrialRow], axes: Sequence[svg.SettingAxis], marked: Collection[Setting]
) -> svg.SvgFigure:
    """Draw a row of three surfaces per combination of the other axes, up to `MOST_ROWS`.

    Trials of the same setting (from several scenarios) share a cell; a cell shows their
    mean, with colour only if all of them are done.
    """
    rows = [*grouped(trials, lambda trial: rest(trial.setting)).items()][:MOST_ROWS]
    top = _LINE * (1.5 + max(len(row) for row, _ in rows))
    across, up = (max(3, len(axis.values)) for axis in axes)
    sheet = svg.SvgCanvas(
        columns=len(METRICS),
        width=_LEFT + across * _CELL_WIDTH + _RIGHT,
        height=_BOTTOM + up * _CELL_HEIGHT + top,
    )
    for row, shown in rows:
        head = [short(setting_text([pair]), _LONGEST_HEAD) for pair in row]
        places = grouped(shown, lambda t: tuple(a.values.index(t.cells[a.name]) for a in axes))
        for metric in METRICS:
            x, y = (svg.cell_axis(axis.values, axis.name) for axis in axes)
            margins = (_LEFT, _BOTTOM, _RIGHT, top)
            panel = sheet.panel(margins, x, y, [title_of(metric), *head], frame=())
            cells = {
                (column, line): _cell(group, metric, marked=group[0].setting in marked)
                for (column, line), group in places.items()
            }
            svg.draw_cells(panel, cells)
    return sheet.finish()


def scenario_csv(trials: Sequence[TrialRow], results: StudyResults) -> str:
    """Return the trials of a scenario's surfaces, every cell as in results.csv."""
    columns = (*SCENARIO, *results.setting_axes, "status", "victim_ok", *_MEASURED)
    after = {column_of(metric, "report") for metric in METRICS}
    return csv_text(
        columns, ({n: t.cells[n] for n in columns if t.done or n not in after} for t in trials)
    )


def pooled_csv(trials: Sequence[TrialRow], shared: Mapping[str, str], results: StudyResults) -> str:
    """Return mean, spread and counts of each setting; `shared` is what all trials share."""
    measures = tuple(column_of(metric, "report") for metric in METRICS)
    spreads = tuple(f"{name}_{part}" for name in measures for part in ("mean", "sd"))
    rows = []
    for setting, group in grouped(trials, lambda trial: trial.setting).items():
        statuses = Counter(trial.status for trial in group)
        row: dict[str, object] = {**shared, **dict(setting)}
        row |= {status: statuses[status] for status in STATUSES}
        for name in measures:
            if found := spread_of((trial for trial in group if trial.done), name):
                row |= {f"{name}_mean": found.mean, f"{name}_sd": found.sd}
        rows.append(row)
    return csv_text((*shared, *results.varied, *STATUSES, *spreads), rows)


_WORST = ("failed", "pending", "pruned", "skipped")


def _cell(group: Sequence[TrialRow], metric: str, *, marked: bool) -> svg.Cell:
    found = spread_of((trial for trial in group if trial.done), column_of(metric, "report"))
    statuses = Counter(trial.status for trial in group)
    tip = cell_tip(group, metric, found) if len(group) > 1 else ""
    if found is None:
        worst = next(status for status in _WORST if statuses[status])
        text = "-" if worst == "pending" else worst
        return svg.Cell(text=text, hatched=worst == "pruned", tip=tip)
    text = number_text(found.mean, metric)
    if found.n == len(group):
        return svg.Cell(share=bright(found.mean, metric), text=text, marked=marked, tip=tip)
    note, hatched = f"{found.n} of {len(group)}", statuses["pruned"] > 0
    return svg.Cell(text=text, note=note, hatched=hatched, marked=marked, tip=tip)


def bright(value: float, metric: str) -> float:
    """Return a place on the colour scale at which brighter is better."""
    return 1 - value if metric == "asr" else value


def cell_tip(group: Sequence[TrialRow], metric: str, found: Spread | None) -> str:
    """Return what the trials of one setting reach, and how many of them there are."""
    statuses = Counter(trial.status for trial in group)
    lines = [setting_text(group[0].setting)]
    if found is not None:
        lines.append(f"{title_of(metric)}: {spread_text(found, metric)} (n = {found.n})")
    lines.append(", ".join(f"{statuses[name]} {name}" for name in STATUSES if statuses[name]))
    return "\n".join(lines)


def draw_scattered(
    trials: Sequence[TrialRow], axes: Sequence[svg.SettingAxis], marked: Collection[Setting]
) -> svg.SvgFigure:
    """Draw ACC, ASR and DER of every setting over its threshold and ratio.

    A point is the mean over the setting's done trials, small where some of them are not; a
    grey ring has none (pruned, skipped, failed or pending).
    """
    across, up = axes
    sheet = svg.SvgCanvas(columns=len(METRICS), width=260, height=220)
    settings = grouped(trials, lambda trial: trial.setting)
    for metric in METRICS:
        ends = [f"{factor(metric) * bright(end, metric):g}" for end in (0, 1)]
        title = f"{title_of(metric)}: dark {ends[0]}, bright {ends[1]}"
        panel = sheet.panel((46, 36, 12, 24), across.scale(), up.scale(), [title])
        for setting, group in settings.items():
            found = spread_of((t for t in group if t.done), column_of(metric, "report"))
            x, y = (axis.place(group[0].cells[axis.name]) for axis in axes)
            tip = cell_tip(group, metric, found)
            if found is None:
                panel.mark(x, y, "open o", WEAK, size=3, tip=tip)
                continue
            if setting in marked:
                panel.mark(x, y, "open o", svg.INK, size=6)
            size = 3.6 if found.n == len(group) else 2.2
            panel.mark(
                x, y, "o", svg.INK, size=size + 0.4
            )  # an edge, for what is as bright as paper
            panel.mark(x, y, "o", svg.colour_at(bright(found.mean, metric)), size=size, tip=tip)
    return sheet.finish()
