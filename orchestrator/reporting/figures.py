"""Figures of the report: before and after, ACC against ASR, curves, surfaces."""

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import floor
from pathlib import Path
from statistics import fmean

from orchestrator.errors import SpecError
from orchestrator.files import csv_text, read_table
from orchestrator.plan.columns import (
    RELEARN,
    SCENARIO,
    SERIES,
    STATUSES,
    SURFACE_AXES,
    UNLEARN,
    column_of,
)
from orchestrator.plan.labels import setting_text, value_text
from orchestrator.reporting.read_results import (
    ScenarioRow,
    Setting,
    StudyResults,
    TrialRow,
    scenario_of,
)
from orchestrator.reporting.statistics import FlagCount
from orchestrator.reporting.summary import (
    HIGHEST_ASR,
    ScenarioOutcome,
    Spread,
    Summary,
    sound,
    spread_of,
)
from orchestrator.reporting.svg import (
    INK,
    Cell,
    Panel,
    Point,
    Scale,
    SettingAxis,
    Style,
    Styles,
    SvgCanvas,
    SvgFigure,
    cell_scales,
    colour_at,
    draw_cells,
    steps,
)
from orchestrator.reporting.text import Names, distinct, in_order, printable, repair_tip

WEAK = "#8c8c8c"  # of a victim that did not take
PERCENT = Scale(low=-3, high=103)  # with room for marks at its ends
FRACTION = Scale(low=-0.03, high=1.03)
_ROW = 20.0  # points that an attack takes in a figure, at least
_LONGEST_LABEL = 22


def draw_before_after(
    outcomes: Sequence[ScenarioOutcome], names: Names, styles: Styles
) -> SvgFigure:
    """Draw each scenario's ASR and ACC, from the victim's to the repaired model's."""
    by_attack: dict[str, list[ScenarioOutcome]] = {}
    for outcome in outcomes:
        by_attack.setdefault(names.attack(outcome.scenario.family), []).append(outcome)
    row = max(_ROW, min(90.0, 4.5 * max(map(len, by_attack.values()))))
    sheet = SvgCanvas(rows=1, columns=2, width=330, height=56 + row * len(by_attack))
    labels = [(float(place), short(attack)) for place, attack in enumerate(by_attack)]
    for column, metric in enumerate(("asr", "acc")):
        down = Scale(low=len(by_attack) - 0.5, high=-0.5)
        panel = sheet.panel(0, column, (room(by_attack), 34, 10, 22), PERCENT, down)
        panel.title(title_of(metric))
        panel.ticks("y", labels)
        metric_ticks(panel, "x", metric)
        panel.frame(left=False)
        if metric == "asr":
            limit = [(100 * HIGHEST_ASR, down.low), (100 * HIGHEST_ASR, down.high)]
            panel.line(limit, stroke_width=0.6, stroke_dasharray="4 3", opacity=0.6)
        for place, (attack, group) in enumerate(by_attack.items()):
            step = 0.7 / len(group)
            for index, outcome in enumerate(group):
                height = place + step * (index - (len(group) - 1) / 2)
                _dumbbell(panel, height, outcome, metric, (styles[attack], names))
    return sheet.finish()


def draw_halves(outcomes: Sequence[ScenarioOutcome], names: Names, styles: Styles) -> SvgFigure:
    """Draw what each scenario's best setting reaches on one half against the other."""
    sheet = SvgCanvas(rows=1, columns=4, width=215, height=max(215.0, 40 + 13.0 * len(styles)))
    for column, metric in enumerate(("acc", "asr", "der")):
        panel = diagonal_panel(sheet, column, metric, ("selection half", "report half"))
        for outcome in outcomes:
            if outcome.best is None:
                continue
            x, y = (
                factor(metric) * outcome.best.numbers[column_of(metric, half)]
                for half in ("selection", "report")
            )
            style = styles[names.attack(outcome.scenario.family)]
            tip = f"{names.scenario(outcome.scenario)}\n{x:.4g} → {y:.4g}"
            panel.mark(x, y, style.mark, colour_of(outcome, style), tip=tip)
    legend(sheet, 3, styles)
    return sheet.finish()


def diagonal_panel(sheet: SvgCanvas, column: int, metric: str, names: tuple[str, str]) -> Panel:
    """Return axes on which a metric stands against itself, with the line where both are equal."""
    scale, end = scale_of(metric), factor(metric)
    panel = sheet.panel(0, column, (40, 34, 10, 22), scale, scale)
    panel.title(title_of(metric))
    panel.labels(*names)
    metric_ticks(panel, "x", metric)
    metric_ticks(panel, "y", metric)
    panel.frame()
    panel.line([(0, 0), (end, end)], stroke_width=0.6, opacity=0.5)
    return panel


def draw_flagged(counts: Sequence[FlagCount]) -> SvgFigure:
    """Draw the share of trials in which the target's row was flagged."""
    attacks = distinct(count.attack for count in counts)
    thresholds = in_order(count.unlearn_threshold for count in counts)
    attacks.reverse()  # the first attack on top
    sheet = SvgCanvas(
        rows=1,
        columns=1,
        width=room(attacks) + 8 + 52.0 * max(4, len(thresholds)),
        height=60 + 26.0 * len(attacks),
    )
    scales = cell_scales(max(4, len(thresholds)), len(attacks))
    panel = sheet.panel(0, 0, (room(attacks), 34, 8, 22), *scales)
    panel.title("Target's row flagged, % of done trials")
    panel.labels("unlearn_threshold")
    cells = {
        (thresholds.index(count.unlearn_threshold), attacks.index(count.attack)): Cell(
            share=count.target / count.trials,
            text=f"{100 * count.target / count.trials:.1f}",
            tip=f"{count.attack}, unlearn_threshold={count.unlearn_threshold}\n"
            f"{count.trials} done trials: the target's row flagged in {count.target}, another "
            f"in {count.others}, none in {count.nothing}",
        )
        for count in counts
    }
    draw_cells(panel, cells, thresholds, [short(attack) for attack in attacks])
    return sheet.finish()


def legend(sheet: SvgCanvas, column: int, styles: Styles) -> None:
    """Name the attacks' styles in a panel of their own, the last of the first row."""
    room_for = max(1.0, (sheet.height - 32) / 15)  # lines
    down = Scale(low=max(room_for, len(styles)) - 0.5, high=-0.5)
    panel = sheet.panel(0, column, (10, 10, 10, 22), Scale(low=0, high=10), down)
    for place, (attack, style) in enumerate(styles.items()):
        panel.mark(0.4, place, style.mark, style.colour)
        panel.text(0.4, place, attack, dx=9, anchor="start")
    sheet.crop(32 + 15.0 * len(styles))


def metric_ticks(panel: Panel, axis: str, metric: str) -> None:
    """Label a metric's axis from 0 to 1 or 100."""
    end = factor(metric)
    values = [end * place / 5 for place in range(6)]
    panel.ticks(axis, [(value, f"{value:g}" if end > 1 else f"{value:.1f}") for value in values])


def factor(metric: str) -> float:
    """Return what a metric is multiplied by to be shown."""
    return 1.0 if metric == "der" else 100.0


def scale_of(metric: str) -> Scale:
    return FRACTION if metric == "der" else PERCENT


def title_of(metric: str) -> str:
    return "DER" if metric == "der" else f"{metric.upper()}, %"


def colour_of(outcome: ScenarioOutcome, style: Style) -> str:
    """Return the attack's colour, or grey where the victim did not take."""
    return style.colour if outcome.took else WEAK


def room(labels: Iterable[str]) -> float:
    """Return the points that the longest label takes beside its axis."""
    return 10 + 5.2 * max(len(short(label)) for label in labels)


def short(label: str) -> str:
    text = printable(label)
    return text if len(text) <= _LONGEST_LABEL else text[: _LONGEST_LABEL - 1] + "…"


def _dumbbell(
    panel: Panel, height: float, outcome: ScenarioOutcome, metric: str, look: tuple[Style, Names]
) -> None:
    if outcome.best is None:
        return
    style, names = look
    before = 100 * outcome.victim[f"{metric}_before_report"]
    after = 100 * outcome.best.numbers[f"{metric}_after_report"]
    colour = colour_of(outcome, style)
    tip = repair_tip(outcome.best, names)
    ends = [(before, height), (after, height)]
    panel.line(ends, stroke=colour, stroke_width=0.9, stroke_opacity=0.6, tip=tip)
    panel.mark(before, height, "hollow", colour, size=2.1, tip=tip)
    panel.mark(after, height, style.mark, colour, tip=tip)


ASR, ACC = "asr_after_report", "acc_after_report"


@dataclass(frozen=True, kw_only=True)
class SettingPoint:
    """A setting's means over the scenarios whose victim took, if it is done in all of them.

    Attributes:
        best: Whether no other setting has both a lower ASR and a higher ACC.
    """

    setting: Setting
    asr: float
    acc: float
    scenarios: int
    best: bool


def front(trials: Iterable[TrialRow]) -> list[TrialRow]:
    """Return the trials that no other beats in ASR and ACC at once, by ASR."""
    found: list[TrialRow] = []
    for trial in sorted(trials, key=lambda t: (t.numbers[ASR], -t.numbers[ACC])):
        if not found or trial.numbers[ACC] > found[-1].numbers[ACC]:
            found.append(trial)
    return found


def setting_points(summary: Summary) -> list[SettingPoint]:
    """Return the settings' points, by ASR."""
    counted = [outcome for outcome in sound(summary.outcomes) if outcome.best]
    groups: dict[Setting, list[TrialRow]] = {}
    for outcome in counted:
        for trial in outcome.trials:
            groups.setdefault(summary.named(trial.setting), []).append(trial)
    means = sorted(
        (
            (fmean(t.numbers[ASR] for t in group), -fmean(t.numbers[ACC] for t in group), setting)
            for setting, group in groups.items()
            if all(trial.done for trial in group)
            and len({trial.scenario for trial in group}) == len(counted)
        ),
        key=lambda mean: mean[:2],
    )
    found: list[SettingPoint] = []
    highest = -1.0
    for asr, negative, setting in means:
        best = -negative > highest
        highest = max(highest, -negative)
        found.append(
            SettingPoint(setting=setting, asr=asr, acc=-negative, scenarios=len(counted), best=best)
        )
    return found


def draw_front(summary: Summary, names: Names, styles: Styles) -> SvgFigure:
    """Draw every done trial, and beside it every setting's mean; lines join what is unbeaten."""
    sheet = SvgCanvas(rows=1, columns=3, width=330, height=300)
    panels, outcomes = [], summary.outcomes
    done = [trial for outcome in outcomes for trial in outcome.trials if trial.done]
    lowest = 10 * floor(10 * min(trial.numbers[ACC] for trial in done) - 0.1)
    up = Scale(low=max(PERCENT.low, float(lowest)), high=PERCENT.high)
    for column, title in enumerate(("Every trial", "Every setting, mean over scenarios")):
        panel = sheet.panel(0, column, (42, 36, 12, 24), PERCENT, up)
        panel.title(title)
        panel.labels("ASR, %", "ACC, %")
        metric_ticks(panel, "x", "asr")
        panel.ticks("y", [(value, f"{value:g}") for value in steps(up.low, 100)])
        panel.frame()
        panels.append(panel)
    every, means = panels
    took = {id(trial) for outcome in sound(outcomes) for trial in outcome.trials if trial.done}
    for trial in sorted(done, key=lambda trial: id(trial) in took):
        style = styles[names.attack(trial.scenario.family)]
        colour = style.colour if trial.victim_ok else WEAK
        every.mark(*_place(trial), style.mark, colour, tip=repair_tip(trial, names))
    _join(every, [_place(t) for t in front(t for t in done if id(t) in took)])
    points = setting_points(summary)
    _join(means, [(100 * p.asr, 100 * p.acc) for p in points if p.best])
    for point in points:
        tip = (
            f"{setting_text(point.setting)}\nACC {100 * point.acc:.1f} %, "
            f"ASR {100 * point.asr:.1f} % (n = {point.scenarios})"
        )
        means.mark(100 * point.asr, 100 * point.acc, "o", INK, size=3.2, tip=tip)
    legend(sheet, 2, styles)
    return sheet.finish()


def _join(panel: Panel, points: Sequence[Point]) -> None:
    panel.line(points, stroke_width=1, stroke_dasharray="3 2", pointer_events="none")


def _place(trial: TrialRow) -> tuple[float, float]:
    return 100 * trial.numbers[ASR], 100 * trial.numbers[ACC]


TITLES = {
    UNLEARN: {"accuracy": "Accuracy that the stop rule reads, %", "acc": "ACC, %", "asr": "ASR, %"},
    RELEARN: {"acc": "ACC, %", "asr": "ASR, %", "ra": "RA, %"},
}


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One ascent, or one relearning.

    Attributes:
        setting: Of a relearning; an ascent serves several.
        series: Fractions from epoch 1, by name; empty where the phase has none.
    """

    phase: str
    scenario: ScenarioRow
    setting: Setting
    series: dict[str, list[float]]


def read_curves(path: Path, results: StudyResults) -> list[Curve]:
    """Return the curves of the scenarios in the results; none if no file is there.

    Raises:
        SpecError: It is there, but is no list of curves.
    """
    if not path.exists():
        return []
    axes = results.setting_axes
    table = read_table(path, ("phase", *SCENARIO, *axes, *SERIES))
    known = {trial.scenario for trial in results.trials}
    found = []
    for number, row in enumerate(table.rows, start=2):
        if row["phase"] not in TITLES:
            rule = f"must be {UNLEARN} or {RELEARN}; got {row['phase']!r}"
            raise SpecError([f"{path}: row {number}, phase: {rule}"])
        series = {}
        for name in SERIES:
            values = _fractions(row[name])
            if values is None:
                rule = f"must be a JSON list of fractions in [0, 1]; got {row[name][:60]!r}"
                raise SpecError([f"{path}: row {number}, {name}: {rule}"])
            series[name] = values
        setting = tuple((axis, row[axis] or "none") for axis in results.varied)
        scenario = scenario_of(row)
        if scenario in known:
            found.append(
                Curve(phase=row["phase"], scenario=scenario, setting=setting, series=series)
            )
    return found


def shown_curves(curves: Sequence[Curve], is_common: Callable[[Setting], bool]) -> list[Curve]:
    """Return every ascent, and the relearnings of the one setting for all."""
    return [curve for curve in curves if curve.phase == UNLEARN or is_common(curve.setting)]


def draw_curves(
    phase: str, curves: Sequence[Curve], results: StudyResults, names: Names, styles: Styles
) -> SvgFigure:
    """Draw each curve of a phase, and each attack's mean while all of its curves last."""
    chosen = [curve for curve in curves if curve.phase == phase]
    titles = TITLES[phase]
    last = max(len(values) for curve in chosen for values in curve.series.values())
    across = Scale(low=0.5, high=max(2, last) + 0.5)
    sheet = SvgCanvas(rows=1, columns=len(titles) + 1, width=250, height=225)
    for column, (name, title) in enumerate(titles.items()):
        panel = sheet.panel(0, column, (40, 36, 12, 24), across, PERCENT)
        panel.title(title)
        panel.labels("epoch")
        panel.ticks("x", [(e, f"{e:g}") for e in steps(1, max(2, last), 5) if e == int(e)])
        metric_ticks(panel, "y", "acc")
        panel.frame()
        if name == "accuracy":
            _thresholds(panel, results, across)
        for attack in distinct(names.attack(curve.scenario.family) for curve in chosen):
            group = [c for c in chosen if names.attack(c.scenario.family) == attack]
            style = styles[attack]
            for curve in group:
                points = [(e, 100 * v) for e, v in enumerate(curve.series[name], start=1)]
                tip = names.scenario(curve.scenario)
                panel.line(points, stroke=style.colour, stroke_width=0.8, opacity=0.45, tip=tip)
            shared = zip(*(curve.series[name] for curve in group), strict=False)
            mean = [(e, 100 * fmean(values)) for e, values in enumerate(shared, start=1)]
            tip = f"{attack}, mean of {len(group)}"
            panel.line(mean, stroke_width=2, tip=tip, **style.line())
            if mean:
                panel.mark(*mean[-1], style.mark, style.colour, size=3)
    legend(sheet, len(titles), styles)
    return sheet.finish()


def curves_csv(phase: str, curves: Sequence[Curve]) -> str:
    """Return what the figure of a phase draws, a row per curve and epoch."""
    names = tuple(TITLES[phase])
    rows = []
    for curve in curves:
        if curve.phase == phase:
            epochs = max(len(values) for values in curve.series.values())
            for epoch in range(epochs):
                row: dict[str, object] = {**curve.scenario.cells(), "epoch": epoch + 1}
                for name in names:
                    row[name] = curve.series[name][epoch] if curve.series[name] else ""
                rows.append(row)
    return csv_text((*SCENARIO, "epoch", *names), rows)


def _thresholds(panel: Panel, results: StudyResults, across: Scale) -> None:
    """Draw the values at which the ascent may stop, unless there are too many to tell apart."""
    values = in_order(trial.cells["unlearn_threshold"] for trial in results.trials)
    if len(values) > 8:
        return
    for value in values:
        level = 100 * float(value)
        panel.line(
            [(across.low, level), (across.high, level)],
            stroke_width=0.7,
            stroke_dasharray="4 3",
            opacity=0.6,
            tip=f"unlearn_threshold={value}",
        )


def _fractions(text: str) -> list[float] | None:
    try:
        values = json.loads(text)
    except ValueError:
        return None
    if not isinstance(values, list):
        return None
    numbers = [v for v in values if isinstance(v, int | float) and 0 <= v <= 1]
    return [float(number) for number in numbers] if len(numbers) == len(values) else None


MOST_ROWS = 12  # of surfaces in one figure
METRICS = ("acc", "asr", "der")
_MEASURED = (
    *("acc_before_report", "asr_before_report"),
    *("acc_after_report", "asr_after_report", "der_report"),
)
_LONGEST_HEAD = 32  # characters above a panel
_CELL_WIDTH, _CELL_HEIGHT = 42.0, 30.0  # points
_LEFT, _BOTTOM, _RIGHT, _LINE = 44.0, 34.0, 8.0, 12.0


@dataclass(frozen=True, kw_only=True)
class SurfaceAxes:
    """The values of the two axes in the whole study, so that all surfaces look alike."""

    thresholds: Sequence[str]
    ratios: Sequence[str]


def axes_of(results: StudyResults) -> SurfaceAxes:
    """Return the axes that every surface of a study has."""
    thresholds, ratios = (
        in_order(trial.cells[axis] for trial in results.trials) for axis in SURFACE_AXES
    )
    return SurfaceAxes(thresholds=thresholds, ratios=ratios)


def rest(setting: Setting) -> Setting:
    """Return a setting without the axes of the surface."""
    return tuple((axis, value) for axis, value in setting if axis not in SURFACE_AXES)


def draw_surfaces(
    trials: Sequence[TrialRow], axes: SurfaceAxes, marked: Collection[Setting]
) -> SvgFigure:
    """Draw a row of three surfaces per combination of the other axes, up to `MOST_ROWS`.

    Trials of the same setting (from several scenarios) share a cell; a cell shows their
    mean, with colour only if all of them are done.
    """
    rows = distinct(rest(trial.setting) for trial in trials)[:MOST_ROWS]
    heads = [[_head(*pair) for pair in row] for row in rows]
    top = _LINE * (1.5 + max(map(len, heads)))
    across, up = max(3, len(axes.thresholds)), max(3, len(axes.ratios))
    sheet = SvgCanvas(
        rows=len(rows),
        columns=len(METRICS),
        width=_LEFT + across * _CELL_WIDTH + _RIGHT,
        height=_BOTTOM + up * _CELL_HEIGHT + top,
    )
    for number, (row, head) in enumerate(zip(rows, heads, strict=True)):
        shown = [trial for trial in trials if rest(trial.setting) == row]
        for column, metric in enumerate(METRICS):
            scales = cell_scales(len(axes.thresholds), len(axes.ratios))
            panel = sheet.panel(number, column, (_LEFT, _BOTTOM, _RIGHT, top), *scales)
            panel.title(title_of(metric), *head)
            panel.labels(*SURFACE_AXES)
            cells = _cells(shown, axes, metric, marked)
            draw_cells(panel, cells, axes.thresholds, axes.ratios)
    return sheet.finish()


def scenario_csv(trials: Sequence[TrialRow], results: StudyResults) -> str:
    """Return the trials behind a scenario's surfaces, every cell as in results.csv."""
    columns = (*SCENARIO, *results.setting_axes, "status", "victim_ok", *_MEASURED)
    return csv_text(
        columns,
        (
            {name: trial.cells[name] for name in columns}
            if trial.done
            else {name: trial.cells[name] for name in columns if name not in _AFTER}
            for trial in trials
        ),
    )


def pooled_csv(trials: Sequence[TrialRow], shared: Mapping[str, str], results: StudyResults) -> str:
    """Return mean, spread and counts of each setting; `shared` is what all trials share."""
    measures = tuple(column_of(metric, "report") for metric in METRICS)
    spreads = tuple(f"{name}_{part}" for name in measures for part in ("mean", "sd"))
    columns = (*shared, *results.varied, *STATUSES, *spreads)
    rows = []
    for setting in distinct(trial.setting for trial in trials):
        group = [trial for trial in trials if trial.setting == setting]
        statuses = Counter(trial.status for trial in group)
        row: dict[str, object] = {**shared, **dict(setting)}
        row |= {status: statuses[status] for status in STATUSES}
        for name in measures:
            found = spread_of((trial for trial in group if trial.done), name)
            row |= {f"{name}_mean": found.mean, f"{name}_sd": found.sd} if found else {}
        rows.append(row)
    return csv_text(columns, rows)


_AFTER = {column_of(metric, "report") for metric in METRICS}


def _head(axis: str, value: str) -> str:
    text = printable(f"{axis}={value_text(value)}")
    return text if len(text) <= _LONGEST_HEAD else f"{text[: _LONGEST_HEAD - 1]}…"


def _cells(
    trials: Sequence[TrialRow], axes: SurfaceAxes, metric: str, marked: Collection[Setting]
) -> dict[tuple[int, int], Cell]:
    places: dict[tuple[int, int], list[TrialRow]] = {}
    for trial in trials:
        threshold, ratio = (trial.cells[axis] for axis in SURFACE_AXES)
        place = axes.thresholds.index(threshold), axes.ratios.index(ratio)
        places.setdefault(place, []).append(trial)
    return {
        place: _cell(group, metric, marked=group[0].setting in marked)
        for place, group in places.items()
    }


def _cell(group: Sequence[TrialRow], metric: str, *, marked: bool) -> Cell:
    found = spread_of((trial for trial in group if trial.done), column_of(metric, "report"))
    statuses = Counter(trial.status for trial in group)
    tip = cell_tip(group, metric, found) if len(group) > 1 else ""
    if found is None:
        worst = next(status for status in ("failed", "pending", "pruned") if statuses[status])
        text = "-" if worst == "pending" else worst
        return Cell(text=text, hatched=worst == "pruned", tip=tip)
    text = number_text(found.mean, metric)
    if found.n == len(group):
        return Cell(share=bright(found.mean, metric), text=text, marked=marked, tip=tip)
    return Cell(
        text=text,
        note=f"{found.n} of {len(group)}",
        hatched=statuses["pruned"] > 0,
        marked=marked,
        tip=tip,
    )


def bright(value: float, metric: str) -> float:
    """Return a place on the colour scale at which brighter is better."""
    return 1 - value if metric == "asr" else value


def number_text(value: float, metric: str) -> str:
    """Return a metric as a figure shows it: percent, or DER with three digits."""
    return f"{value:.3f}" if metric == "der" else f"{100 * value:.1f}"


def cell_tip(group: Sequence[TrialRow], metric: str, found: Spread | None) -> str:
    """Return what the trials of one setting reach, and how many of them there are."""
    told = [setting_text(group[0].setting)]
    if found is not None:
        spoken = "" if found.sd is None else f" ± {number_text(found.sd, metric)}"
        told.append(
            f"{title_of(metric)}: {number_text(found.mean, metric)}{spoken} (n = {found.n})"
        )
    statuses = Counter(trial.status for trial in group)
    told.append(", ".join(f"{statuses[name]} {name}" for name in STATUSES if statuses[name]))
    return "\n".join(told)


def draw_scattered(
    trials: Sequence[TrialRow], marked: Collection[Setting], log_axes: Collection[str]
) -> SvgFigure:
    """Draw ACC, ASR and DER of every setting over its threshold and ratio.

    A point is the mean over the setting's done trials, small where some of them are not; a
    grey ring has none (pruned, failed or pending).
    """
    across, up = (
        SettingAxis(
            name=name,
            values=in_order(trial.cells[name] for trial in trials),
            numeric=True,
            log=name in log_axes,
        )
        for name in SURFACE_AXES
    )
    sheet = SvgCanvas(rows=1, columns=len(METRICS), width=260, height=220)
    groups: dict[Setting, list[TrialRow]] = {}
    for trial in trials:
        groups.setdefault(trial.setting, []).append(trial)
    for column, metric in enumerate(METRICS):
        panel = sheet.panel(0, column, (46, 36, 12, 24), across.scale(), up.scale())
        panel.title(title_of(metric))
        panel.labels(*SURFACE_AXES)
        across.ticks(panel, "x")
        up.ticks(panel, "y")
        panel.frame()
        for setting, group in groups.items():
            found = spread_of((t for t in group if t.done), column_of(metric, "report"))
            values: Mapping[str, str] = group[0].cells
            x, y = across.place(values[across.name]), up.place(values[up.name])
            tip = cell_tip(group, metric, found)
            if found is None:
                panel.mark(x, y, "hollow", "#8c8c8c", size=3, tip=tip)
                continue
            if setting in marked:
                panel.mark(x, y, "hollow", INK, size=6)
            size = 3.6 if found.n == len(group) else 2.2
            panel.mark(x, y, "o", INK, size=size + 0.4)  # an edge, for what is as bright as paper
            panel.mark(x, y, "o", colour_at(bright(found.mean, metric)), size=size, tip=tip)
    return sheet.finish()
