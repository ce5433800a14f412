"""Unlearning and relearning epoch by epoch, from the curves that the run wrote down."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from orchestrator.errors import Mistakes
from orchestrator.files import csv_text
from orchestrator.reporting.canvas import Drawing, Panel, Scale, Sheet, steps
from orchestrator.reporting.figures import PERCENT, legend, metric_ticks
from orchestrator.reporting.naming import Names, distinct, in_order
from orchestrator.reporting.results import Results, Scenario, Setting, scenario_of
from orchestrator.reporting.schema import RELEARN, SCENARIO, SERIES, UNLEARN
from orchestrator.reporting.styles import Styles
from orchestrator.reporting.tables import read_table

FILE = "curves.csv"  # in the study's folder
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
    scenario: Scenario
    setting: Setting
    series: dict[str, list[float]]


def read_curves(path: Path, results: Results) -> list[Curve]:
    """Return the curves of the scenarios in the results; none if no file is there.

    Raises:
        Mistakes: It is there, but is no list of curves.
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
            raise Mistakes([f"{path}: row {number}, phase: {rule}"])
        series = {}
        for name in SERIES:
            values = _fractions(row[name])
            if values is None:
                rule = f"must be a JSON list of fractions in [0, 1]; got {row[name][:60]!r}"
                raise Mistakes([f"{path}: row {number}, {name}: {rule}"])
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
    phase: str, curves: Sequence[Curve], results: Results, names: Names, styles: Styles
) -> Drawing:
    """Draw each curve of a phase, and each attack's mean while all of its curves last."""
    chosen = [curve for curve in curves if curve.phase == phase]
    titles = TITLES[phase]
    last = max(len(values) for curve in chosen for values in curve.series.values())
    across = Scale(low=0.5, high=max(2, last) + 0.5)
    sheet = Sheet(rows=1, columns=len(titles) + 1, width=250, height=225)
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


def _thresholds(panel: Panel, results: Results, across: Scale) -> None:
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
