"""Sensitivity: marginal curves, importance, interactions."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from orchestrator.files import csv_text
from orchestrator.plan.columns import column_of, count, spoken
from orchestrator.reporting import figures, svg
from orchestrator.reporting import statistics as stats
from orchestrator.reporting.page import FigureFiles, FigureView
from orchestrator.reporting.read_folder import DEFAULT, TrialRow, distinct, grouped
from orchestrator.reporting.statistics import METRICS
from orchestrator.reporting.summary import ScenarioOutcome, sound, spread_of
from orchestrator.reporting.text import (
    difference_texts,
    label_of,
    listed,
    number_text,
    setting_text,
    title_of,
    value_text,
)

_MARKS = {stats.EXACT: "o", stats.FANOVA: "s", stats.PED_ANOVA: "D"}


def draw_marginals(
    found: Sequence[stats.Marginal], axes: Sequence[svg.SettingAxis], styles: svg.Styles
) -> svg.SvgFigure:
    """Draw a row of ACC, ASR and DER per axis: a line per attack, and the mean with its band."""
    sheet = svg.SvgCanvas(columns=len(METRICS) + 1, width=215, height=190)
    for axis in axes:
        ticks = [
            (float(place), figures.short(label_of(value)))
            for place, value in enumerate(axis.values)
        ]
        across = svg.Axis(-0.3, len(ticks) - 0.7, ticks, label_of(axis.name))  # equally far apart
        for metric in METRICS:
            panel = figures.metric_panel(sheet, metric, across)
            chosen = [m for m in found if (m.axis, m.metric) == (axis.name, metric)]
            for points in reversed(grouped(chosen, lambda m: m.attack).values()):
                _curve(panel, points, styles)
        if axis == axes[0]:
            figures.legend(sheet, styles)
        else:
            sheet.panel((0, 0, 0, 0), svg.Axis(0, 1), svg.Axis(0, 1), frame=())  # beside it nothing
            sheet.crop(1)
    return sheet.finish()


def _curve(panel: svg.Panel, points: Sequence[stats.Marginal], styles: svg.Styles) -> None:
    attack, times = points[0].attack, figures.factor(points[0].metric)
    line = [(float(number), times * point.level.mean) for number, point in enumerate(points)]
    mark, colour, size = "o", svg.INK, 3.0
    if attack:
        style = styles[attack]
        mark, colour, size = style.mark, style.colour, 2.4
        panel.line(line, opacity=0.75, **style.line())
    else:
        lows, highs = ([getattr(p.level, end) for p in points] for end in ("low", "high"))
        if None not in (*lows, *highs):
            edge = [*enumerate(highs), *reversed([*enumerate(lows)])]
            panel.area([(float(x), times * y) for x, y in edge], fill=svg.INK, opacity=0.13)
        panel.line(line, stroke_width=2)
    for (x, y), point in zip(line, points, strict=True):
        panel.mark(x, y, mark, colour, size=size, tip=_tip(point))


def _tip(point: stats.Marginal) -> str:
    level, metric = point.level, point.metric
    text = number_text(level.mean, metric)
    if level.low is not None and level.high is not None:
        ends = f"{number_text(level.low, metric)} to {number_text(level.high, metric)}"
        text += f" (95 % confidence {ends}, {level.sample})"
    where = label_of(point.attack) or "all scenarios"
    return (
        f"{where}, {setting_text([(point.axis, point.value)])}\n{title_of(metric)}: {text}"
        f"\n{count(level.scenarios, 'scenario')}, {count(point.trials, 'trial')}"
    )


def draw_sampled(trials: Sequence[TrialRow], axes: Sequence[svg.SettingAxis]) -> svg.SvgFigure:
    """Draw the mean of each sampled setting's done trials over each axis."""
    sheet = svg.SvgCanvas(columns=len(METRICS), width=260, height=190)
    settings = grouped(trials, lambda trial: trial.setting)
    for axis in axes:
        for metric in METRICS:
            panel = figures.metric_panel(sheet, metric, axis.scale())
            for setting, group in settings.items():
                if mean := spread_of(group, column_of(metric, "report")):
                    text = f"{number_text(mean.mean, metric)} (n = {mean.n})"
                    tip = f"{setting_text(setting)}\n{title_of(metric)}: {text}"
                    x = axis.place(dict(setting)[axis.name])
                    panel.mark(x, figures.factor(metric) * mean.mean, "o", svg.INK, tip=tip)
    return sheet.finish()


def effect_text(effect: stats.MainEffect) -> str:
    """Return a main effect in points, with its p."""
    return f"{100 * effect.size:.1f} points, p = {effect.p_value:.2g}"


def draw_importance(
    found: Sequence[stats.Importance], effects: Sequence[stats.MainEffect]
) -> svg.SvgFigure:
    """Draw each axis's share by each measure with its bar, and its main effect beside it."""
    axes = distinct(entry.axis for entry in found)
    measures = grouped(found, lambda entry: entry.measure)
    left, below = figures.room(axes), 30 + 14.0 * len(measures)
    sheet = svg.SvgCanvas(columns=1, width=left + 430, height=24 + below + 40.0 * len(axes))
    title = ["Share of the axes' main effects"]
    across, down = figures.metric_axis("der"), figures.lines_axis(axes)
    panel = sheet.panel((left, below, 152, 24), across, down, title, ["bottom"])
    for effect in effects:
        height = float(axes.index(effect.axis))
        panel.text(1.03, height, effect_text(effect), dx=8, dy=-6, anchor="start")
        if effect.is_noise:
            panel.text(1.03, height, "not distinguishable from noise", dx=8, dy=6, anchor="start")
    for number, (measure, entries) in enumerate(measures.items()):
        line = down.low + (30 + 14 * number) / 40
        panel.mark(0.02, line, _MARKS[measure], svg.INK, size=3)
        panel.text(0.02, line, measure, dx=9, anchor="start")
        for entry in entries:
            height = axes.index(entry.axis) + 0.24 * (number - (len(measures) - 1) / 2)
            tip = f"{label_of(entry.axis)}, {measure}: {_bounded(entry)}"
            if entry.low is not None and entry.high is not None:
                ends = [(entry.low, height), (entry.high, height)]
                panel.line(ends, stroke=svg.INK, stroke_width=1.2, tip=tip)
            panel.mark(entry.share, height, _MARKS[measure], svg.INK, size=3, tip=tip)
    return sheet.finish()


def draw_variance(parts: Sequence[stats.Part]) -> svg.SvgFigure:
    """Draw main effects on the diagonal and interactions of two below it, in percent."""
    names = distinct(name for part in parts for name in part.factors)
    labels = [figures.short(label_of(name)) for name in names]
    left = figures.room(names)
    width = left + 16 + max(56.0, 5.4 * max(map(len, labels))) * len(names)
    sheet = svg.SvgCanvas(columns=1, width=width, height=62 + 32.0 * len(names))
    across, up = svg.cell_axis(labels), svg.cell_axis(labels[::-1])
    panel = sheet.panel((left, 34, 8, 22), across, up, ["Share of the variance, %"], frame=())
    cells = {
        (names.index(part.factors[0]), len(names) - 1 - names.index(part.factors[-1])): svg.Cell(
            share=part.share,
            text=f"{100 * part.share:.1f}",
            note=""
            if part.low is None or part.high is None
            else f"{100 * part.low:.0f} to {100 * part.high:.0f}",
            tip=f"{' × '.join(map(label_of, part.factors))}: {_bounded(part)}",
        )
        for part in parts
        if part.factors
    }
    svg.draw_cells(panel, cells)
    return sheet.finish()


def _bounded(entry: stats.Importance | stats.Part) -> str:
    text = f"{100 * entry.share:.1f} %"
    if entry.low is None or entry.high is None:
        return text
    return f"{text} ({100 * entry.low:.1f} to {100 * entry.high:.1f} over resamples)"


RESAMPLED = "of attacks and then of their scenarios, or of the scenarios of a single attack"


def sensitivity(drafts: FigureFiles, *, surfaces: bool = True) -> dict[str, Any]:
    """Return the figures, each with its caption, or a sentence where the data do not bear one out.

    Args:
        drafts: Of the results.
        surfaces: Whether the two axes of surfaces mean something.

    Returns:
        ``nothing``: why no part has a figure, in a sentence, or "". ``grid``: whether the
        settings make one, else each is a point of its own. ``left_out``:
        which scenarios do not count, in a sentence, or "". ``everything``,
        ``marginals``, ``importance``, ``variance``: figures. ``effects``: per value of an axis,
        the differences to the axis's first value (what, ACC, ASR, DER, and the sample of their
        intervals).
    """
    summary = drafts.summary
    axes = svg.setting_axes(drafts.results, drafts.log_axes)
    outcomes = [outcome for outcome in sound(summary.outcomes) if outcome.best]
    block = stats.block_of(outcomes, column_of(summary.objective, "report"))
    done = stats.done_trials(outcomes, drafts.names)
    found = stats.marginals(done, axes) if drafts.grid and outcomes else []
    if drafts.grid or not axes or not outcomes:
        curves = _marginals(drafts, done, axes, found)
    else:
        curves = _sampled(drafts, outcomes, axes)
    parts = {
        "marginals": curves,
        "importance": _importance(drafts, block, axes),
        "variance": _variance(drafts, block, axes),
    }
    without = len(sound(summary.outcomes)) - len(outcomes)
    empty = all(isinstance(part, str) for part in parts.values())
    return {
        "nothing": _nothing(axes, done) if empty else "",
        "grid": drafts.grid,
        "left_out": f"{count(without, 'scenario')} without a repair that counts "
        f"{'is' if without == 1 else 'are'} left out of this section."
        if without and outcomes
        else "",
        "everything": drafts.everything() if surfaces else None,
        "effects": _effects(found),
        **parts,
    }


def _nothing(axes: Sequence[svg.SettingAxis], done: pd.DataFrame) -> str:
    """Return why there is nothing to see in any part, in a sentence; "" if each says it better."""
    if not axes:
        return "There is one setting, so there is no other to compare it with."
    if done.empty:
        return "No trial is done."
    mixed = [axis for axis in axes if DEFAULT in axis.values]  # noqa: PD011 - no frame
    if not mixed:
        return ""
    options = listed([label_of(axis.name) for axis in mixed])
    return (
        f"Only some of the settings give {options}, so no option varies while the others stay as "
        f"they are; results.csv has the settings."
    )


def _sampled(
    drafts: FigureFiles, outcomes: Sequence[ScenarioOutcome], axes: Sequence[svg.SettingAxis]
) -> FigureView:
    note = (
        "Settings were sampled, so none shares its values with another: each point is a "
        "setting's mean over the scenarios in which it is done."
    )
    trials = [trial for outcome in outcomes for trial in outcome.trials if trial.done]
    text = drafts.trials_csv(trials, [column_of(metric, "report") for metric in METRICS])
    return drafts.keep("marginals", draw_sampled(trials, axes), text, note)


def _marginals(
    drafts: FigureFiles,
    done: pd.DataFrame,
    axes: Sequence[svg.SettingAxis],
    found: Sequence[stats.Marginal],
) -> FigureView | str:
    if not axes or done.empty:
        return "There is no axis with several values, or no trial is done."
    shown = [axis for axis in axes if any(m.axis == axis.name for m in found)]
    if not shown:
        return "No scenario has any other combination done at every value of an axis."
    counted = {axis.name: stats.balanced(done, axis).size // len(METRICS) for axis in shown}
    lost = [f"{len(done) - n} for {label_of(name)}" for name, n in counted.items() if n < len(done)]
    lacking = f", which leaves out some done trials: {', '.join(lost)}." if lost else ""
    samples = distinct(m.level.sample for m in found if not m.attack)
    note = (
        f"Black: the mean, with Student's 95 % confidence band where there is one, "
        f"{' or '.join(samples)}; coloured: the attacks. Bands of two values do not test their "
        f"difference, since both are over the same scenarios. In each scenario only combinations "
        f"of the other axes count that are done at every value of the axis"
        f"{lacking or '; here that is all.'}"
    )
    text = csv_text(stats.MARGINAL_COLUMNS, (m.cells() for m in found))
    return drafts.keep("marginals", draw_marginals(found, shown, drafts.styles), text, note)


def _effects(found: Sequence[stats.Marginal]) -> list[tuple[str, ...]]:
    """Return each value's differences to its axis's first one, in words."""
    pooled = [m for m in found if not m.attack and m.gap]
    texts = difference_texts([(m.gap, m.metric) for m in pooled if m.gap])
    rows: dict[tuple[str, str], list[str]] = {}
    for m, text in zip(pooled, texts, strict=True):  # metric by metric
        title = f"{label_of(m.axis)}: {value_text(m.value)} less {value_text(m.reference)}"
        rows.setdefault((m.axis, m.value), [title, m.level.sample]).insert(-1, text)
    return [tuple(row) for row in rows.values()]


def _importance(
    drafts: FigureFiles, block: stats.Block, axes: Sequence[svg.SettingAxis]
) -> FigureView | str:
    part, objective = stats.complete_part(block), drafts.summary.objective
    found = stats.importances(part, axes, maximise=not drafts.summary.lowest)
    several = len(stats.present(part, axes)) > 1 and len(part.settings) >= stats.FEWEST_SETTINGS
    if not found and several and part.whole:
        return "All settings have the same results, so no axis has a share in a difference."
    if not found:
        return "Importance needs two axes and four settings that are done in the same scenarios."
    measures = {entry.measure: entry.resamples for entry in found}
    exact = (
        "Exact ANOVA: an axis's own share of the variance among settings."
        if stats.EXACT in measures
        else "No exact ANOVA: the settings done everywhere are no complete grid."
    )
    ped_anova = (
        "how much an axis decides whether a setting is among the best tenth"
        if stats.PED_ANOVA in measures
        else f"left out, for the best tenth of {len(part.settings)} settings is too few; it needs "
        f"{stats.FEWEST_FOR_PED_ANOVA} settings"
    )
    resamples = "; ".join(f"{number} for {name}" for name, number in measures.items() if number)
    bars = (
        f"Bars: the middle 95 % over resamples, {RESAMPLED} ({resamples}). They hold for a share "
        f"among axes, not for whether an axis matters at all."
        if resamples
        else "No bars: there are too few attacks, or scenarios of one attack, to resample."
    )
    effects = stats.main_effects(part, stats.present(part, axes))
    lost = _lost(block, part)
    censored = _censored(drafts) if lost else ""
    settings, scenarios = len(part.settings), len(part.scenarios)
    note = (
        f"Of mean {spoken(objective)} on the report half, over {count(settings, 'setting')} that "
        f"are all done in {count(scenarios, 'scenario')}{lost}.{censored} {exact} "
        f"{stats.FANOVA}: the same from a random forest, without bars. {stats.PED_ANOVA}: "
        f"{ped_anova}. The measures answer different questions and need not agree. "
        f"{_sizes(effects)} {bars}"
    )
    columns = [*stats.Importance._fields, "main_effect", "p_value"]
    by_axis = {e.axis: {"main_effect": e.size, "p_value": e.p_value} for e in effects}
    text = csv_text(columns, (entry._asdict() | by_axis[entry.axis] for entry in found))
    return drafts.keep("importance", draw_importance(found, effects), text, note)


def _variance(
    drafts: FigureFiles, block: stats.Block, axes: Sequence[svg.SettingAxis]
) -> FigureView | str:
    whole = stats.complete_scenarios(block)
    parts = stats.decompose(whole, axes)
    if not parts:
        grid = stats.as_grid(whole, axes) is not None
        no_grid = "The settings are no complete grid in any scenario"
        reason = "There is no variance to explain" if grid else no_grid
        return f"{reason}, so there is no exact analysis of variance."
    rest = next(part for part in parts if not part.factors)
    effects = stats.main_effects(whole, axes)
    censored = _censored(drafts) if len(whole.scenarios) < len(block.scenarios) else ""
    note = (
        f"Exact analysis of variance of {spoken(drafts.summary.objective)} on the report half, "
        f"over the {count(len(whole.scenarios), 'scenario')} in which all "
        f"{len(whole.settings)} settings are done (of {len(block.scenarios)}). On the diagonal "
        f"what each factor explains by itself, below it what two explain only together; "
        f"interactions of three or more have the other {100 * rest.share:.1f} %. Small: the middle "
        f"95 % over resamples, {RESAMPLED}; none for fewer than three. A scenario's "
        f"interaction with an axis says how much the best value depends on the scenario. Shares "
        f"are exact for these trials; noise has its share too. {_sizes(effects)}{censored}"
    )
    rows = (part._asdict() | {"factors": " × ".join(part.factors) or "rest"} for part in parts)
    text = csv_text(stats.Part._fields, rows)
    return drafts.keep("variance", draw_variance(parts), text, note)


def _sizes(effects: Sequence[stats.MainEffect]) -> str:
    """Return how large main effects are and which of them are noise."""
    sizes = "; ".join(f"{label_of(e.axis)} {effect_text(e)}" for e in effects)
    noise = [label_of(e.axis) for e in effects if e.is_noise]
    which = ""
    if len(noise) == len(effects):
        which = " No axis is distinguishable from noise, so no share of theirs says anything."
    elif noise:
        which = f" Not distinguishable from noise: {', '.join(noise)}."
    return (
        f"Main effects (standard deviation over the axis's values, and p of a permutation test of "
        f"whether the axis does anything in these scenarios, adjusted by Holm for "
        f"{count(len(effects), 'test')}): {sizes}.{which}"
    )


def _lost(block: stats.Block, part: stats.Block) -> str:
    lost = {
        "setting": len(block.settings) - len(part.settings),
        "scenario": len(block.scenarios) - len(part.scenarios),
    }
    words = " and ".join(count(number, noun) for noun, number in lost.items() if number)
    return (
        f" (left out, being pruned, skipped, failed or pending somewhere: {words})" if words else ""
    )


def _censored(drafts: FigureFiles) -> str:
    """Return what pruning does to shares, if it did anything."""
    if not drafts.summary.counts["pruned"]:
        return ""
    return (
        " Pruned settings are the bad ones: where settings are left out, the shares of the axes "
        "that made them bad are too small; where scenarios are left out, the others are those "
        "before the prunings."
    )
