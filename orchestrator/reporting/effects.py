"""The figures of sensitivity: marginal curves, importance of the axes, where variance lies."""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.inference import sample_text
from orchestrator.plural import count
from orchestrator.reporting.axes import Axis
from orchestrator.reporting.canvas import INK, Drawing, Panel, Scale, Sheet
from orchestrator.reporting.figures import (
    FRACTION,
    PERCENT,
    factor,
    legend,
    metric_ticks,
    room,
    short,
    title_of,
)
from orchestrator.reporting.heatmap import Cell, cell_scales, draw_cells
from orchestrator.reporting.importance import EXACT, FANOVA, PED_ANOVA, Importance
from orchestrator.reporting.main_effects import MainEffect
from orchestrator.reporting.marginals import METRICS, Marginal
from orchestrator.reporting.naming import distinct, setting_text
from orchestrator.reporting.results import Setting, Trial
from orchestrator.reporting.schema import column_of
from orchestrator.reporting.styles import Styles
from orchestrator.reporting.summary import spread_of
from orchestrator.reporting.surfaces import number_text
from orchestrator.reporting.variance import Part

_MEASURES = {EXACT: ("o", INK), FANOVA: ("s", INK), PED_ANOVA: ("D", INK)}


def draw_marginals(found: Sequence[Marginal], axes: Sequence[Axis], styles: Styles) -> Drawing:
    """Draw a row of ACC, ASR and DER per axis: a line per attack, and the mean with its band."""
    sheet = Sheet(rows=len(axes), columns=len(METRICS) + 1, width=215, height=190)
    for row, axis in enumerate(axes):
        for column, metric in enumerate(METRICS):
            panel = _panel(sheet, (row, column), metric, axis)
            chosen = [m for m in found if (m.axis, m.metric) == (axis.name, metric)]
            for attack in distinct(m.attack for m in reversed(chosen)):
                points = [m for m in chosen if m.attack == attack]
                _curve(panel, points, metric, styles)
        if row == 0:
            legend(sheet, len(METRICS), styles)
        else:
            sheet.panel(row, len(METRICS), (0, 0, 0, 0), PERCENT, PERCENT)  # beside it nothing
            sheet.crop(1)
    return sheet.finish()


def draw_sampled(trials: Sequence[Trial], axes: Sequence[Axis]) -> Drawing:
    """Draw the mean of each sampled setting over each axis."""
    sheet = Sheet(rows=len(axes), columns=len(METRICS), width=260, height=190)
    groups: dict[Setting, list[Trial]] = {}
    for trial in trials:
        if trial.done:
            groups.setdefault(trial.setting, []).append(trial)
    for row, axis in enumerate(axes):
        for column, metric in enumerate(METRICS):
            scale = axis.scale()
            panel = sheet.panel(row, column, (40, 36, 12, 24), scale, _scale(metric))
            panel.title(title_of(metric))
            panel.labels(axis.name)
            axis.ticks(panel, "x")
            metric_ticks(panel, "y", metric)
            panel.frame()
            for setting, group in groups.items():
                mean = spread_of(group, column_of(metric, "report"))
                if mean is None:
                    continue
                text = f"{number_text(mean.mean, metric)} (n = {mean.n})"
                tip = f"{setting_text(setting)}\n{title_of(metric)}: {text}"
                x = axis.place(dict(setting)[axis.name])
                panel.mark(x, factor(metric) * mean.mean, "o", INK, tip=tip)
    return sheet.finish()


def effect_text(effect: MainEffect) -> str:
    """Return a main effect in points, with its p."""
    return f"{100 * effect.size:.1f} points, p = {effect.p_value:.2g}"


def draw_importance(found: Sequence[Importance], effects: Sequence[MainEffect]) -> Drawing:
    """Draw each axis's share by each measure with its bar, and its main effect beside it."""
    axes = distinct(entry.axis for entry in found)
    measures = distinct(entry.measure for entry in found)
    left, below = room(axes), 30 + 14.0 * len(measures)
    sheet = Sheet(rows=1, columns=1, width=left + 430, height=24 + below + 40.0 * len(axes))
    down = Scale(low=len(axes) - 0.5, high=-0.5)
    panel = sheet.panel(0, 0, (left, below, 152, 24), Scale(low=-0.03, high=1.03), down)
    panel.title("Share of the axes' main effects")
    panel.ticks("y", [(float(place), short(axis)) for place, axis in enumerate(axes)])
    panel.ticks("x", [(place / 5, f"{place / 5:.1f}") for place in range(6)])
    panel.frame(left=False)
    for effect in effects:
        height = float(axes.index(effect.axis))
        panel.text(1.03, height, effect_text(effect), dx=8, dy=-6, anchor="start")
        if effect.is_noise:
            panel.text(1.03, height, "not distinguishable from noise", dx=8, dy=6, anchor="start")
    for number, measure in enumerate(measures):
        mark, colour = _MEASURES[measure]
        offset = 0.24 * (number - (len(measures) - 1) / 2)
        line = down.low + (30 + 14 * number) / 40
        panel.mark(0.02, line, mark, colour, size=3)
        panel.text(0.02, line, measure, dx=9, anchor="start")
        for entry in (entry for entry in found if entry.measure == measure):
            height = axes.index(entry.axis) + offset
            tip = f"{entry.axis}, {measure}: {_bounded(entry.share, entry)}"
            if entry.low is not None and entry.high is not None:
                ends = [(entry.low, height), (entry.high, height)]
                panel.line(ends, stroke=colour, stroke_width=1.2, tip=tip)
            panel.mark(entry.share, height, mark, colour, size=3, tip=tip)
    return sheet.finish()


def draw_variance(parts: Sequence[Part]) -> Drawing:
    """Draw main effects on the diagonal and interactions of two below it, in percent."""
    names = distinct(name for part in parts for name in part.factors)
    left = room(names)
    width = left + 16 + max(56.0, 5.4 * max(len(short(name)) for name in names)) * len(names)
    sheet = Sheet(rows=1, columns=1, width=width, height=62 + 32.0 * len(names))
    panel = sheet.panel(0, 0, (left, 34, 8, 22), *cell_scales(len(names), len(names)))
    panel.title("Share of the variance, %")
    cells = {}
    for part in parts:
        if part.factors:
            column, row = names.index(part.factors[0]), names.index(part.factors[-1])
            cells[column, len(names) - 1 - row] = Cell(
                share=part.share,
                text=f"{100 * part.share:.1f}",
                note=_range(part),
                tip=f"{' × '.join(part.factors)}: {_bounded(part.share, part)}",
            )
    labels = [short(name) for name in names]
    draw_cells(panel, cells, labels, labels[::-1])
    return sheet.finish()


@dataclass(frozen=True)
class _Place:
    """Where a point of a curve stands."""

    x: float
    y: float
    tip: str


def _panel(sheet: Sheet, at: tuple[int, int], metric: str, axis: Axis) -> Panel:
    """Return axes whose values stand equally far apart, as the grid's do."""
    across = Scale(low=-0.3, high=len(axis.values) - 0.7)
    panel = sheet.panel(*at, (40, 36, 12, 24), across, _scale(metric))
    panel.title(title_of(metric))
    panel.labels(axis.name)
    panel.ticks("x", [(float(place), short(value)) for place, value in enumerate(axis.values)])
    metric_ticks(panel, "y", metric)
    panel.frame()
    return panel


def _curve(panel: Panel, points: Sequence[Marginal], metric: str, styles: Styles) -> None:
    times = factor(metric)
    attack = points[0].attack
    places = [
        _Place(x=float(number), y=times * point.mean, tip=_tip(point, metric))
        for number, point in enumerate(points)
    ]
    if attack:
        style = styles[attack]
        panel.line([(p.x, p.y) for p in places], opacity=0.75, **style.line())
        for place in places:
            panel.mark(place.x, place.y, style.mark, style.colour, tip=place.tip)
        return
    bounds = [(point.low, point.high) for point in points]
    if all(low is not None and high is not None for low, high in bounds):
        upper = [(p.x, times * (high or 0)) for p, (_, high) in zip(places, bounds, strict=True)]
        lower = [(p.x, times * (low or 0)) for p, (low, _) in zip(places, bounds, strict=True)]
        panel.area([*upper, *reversed(lower)], fill=INK, opacity=0.13)
    panel.line([(p.x, p.y) for p in places], stroke_width=2)
    for place in places:
        panel.mark(place.x, place.y, "o", INK, size=3, tip=place.tip)


def _tip(point: Marginal, metric: str) -> str:
    who = point.attack or "all scenarios"
    text = number_text(point.mean, metric)
    if point.low is not None and point.high is not None:
        ends = f"{number_text(point.low, metric)} to {number_text(point.high, metric)}"
        text += f" (95 % confidence {ends}, {sample_text(point.attacks, point.scenarios)})"
    return (
        f"{who}, {point.axis}={point.value}\n{title_of(metric)}: {text}\n"
        f"{count(point.scenarios, 'scenario')}, {count(point.trials, 'trial')}"
    )


def _scale(metric: str) -> Scale:
    return FRACTION if metric == "der" else PERCENT


def _range(part: Part) -> str:
    if part.low is None or part.high is None:
        return ""
    return f"{100 * part.low:.0f} to {100 * part.high:.0f}"


def _bounded(share: float, entry: Importance | Part) -> str:
    text = f"{100 * share:.1f} %"
    if entry.low is None or entry.high is None:
        return text
    return f"{text} ({100 * entry.low:.1f} to {100 * entry.high:.1f} over resamples)"
