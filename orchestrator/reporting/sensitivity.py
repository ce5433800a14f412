"""Sensitivity: marginal curves, importance, interactions."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from orchestrator.files import csv_text
from orchestrator.plan.columns import SCENARIO, column_of, count
from orchestrator.plan.labels import setting_text, value_text
from orchestrator.reporting.figures import (
    PERCENT,
    factor,
    legend,
    metric_ticks,
    number_text,
    room,
    scale_of,
    short,
    title_of,
)
from orchestrator.reporting.page import FigureFiles, FigureView
from orchestrator.reporting.read_results import Setting, TrialRow
from orchestrator.reporting.statistics import (
    EXACT,
    FANOVA,
    FEWEST_FOR_PED_ANOVA,
    METRICS,
    PED_ANOVA,
    Block,
    Importance,
    MainEffect,
    Marginal,
    Part,
    as_grid,
    block_of,
    complete_part,
    complete_scenarios,
    decompose,
    importances,
    left_out,
    main_effects,
    marginals,
    present,
)
from orchestrator.reporting.summary import ScenarioOutcome, sound, spread_of
from orchestrator.reporting.svg import (
    INK,
    Cell,
    Panel,
    Scale,
    SettingAxis,
    Styles,
    SvgCanvas,
    SvgFigure,
    cell_scales,
    draw_cells,
    setting_axes,
)
from orchestrator.reporting.text import NOTHING, difference_text, distinct
from orchestrator.search.inference import holm, sample_text

_MEASURES = {EXACT: ("o", INK), FANOVA: ("s", INK), PED_ANOVA: ("D", INK)}


def draw_marginals(
    found: Sequence[Marginal], axes: Sequence[SettingAxis], styles: Styles
) -> SvgFigure:
    """Draw a row of ACC, ASR and DER per axis: a line per attack, and the mean with its band."""
    sheet = SvgCanvas(rows=len(axes), columns=len(METRICS) + 1, width=215, height=190)
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


def draw_sampled(trials: Sequence[TrialRow], axes: Sequence[SettingAxis]) -> SvgFigure:
    """Draw the mean of each sampled setting over each axis."""
    sheet = SvgCanvas(rows=len(axes), columns=len(METRICS), width=260, height=190)
    groups: dict[Setting, list[TrialRow]] = {}
    for trial in trials:
        if trial.done:
            groups.setdefault(trial.setting, []).append(trial)
    for row, axis in enumerate(axes):
        for column, metric in enumerate(METRICS):
            scale = axis.scale()
            panel = sheet.panel(row, column, (40, 36, 12, 24), scale, scale_of(metric))
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


def draw_importance(found: Sequence[Importance], effects: Sequence[MainEffect]) -> SvgFigure:
    """Draw each axis's share by each measure with its bar, and its main effect beside it."""
    axes = distinct(entry.axis for entry in found)
    measures = distinct(entry.measure for entry in found)
    left, below = room(axes), 30 + 14.0 * len(measures)
    sheet = SvgCanvas(rows=1, columns=1, width=left + 430, height=24 + below + 40.0 * len(axes))
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


def draw_variance(parts: Sequence[Part]) -> SvgFigure:
    """Draw main effects on the diagonal and interactions of two below it, in percent."""
    names = distinct(name for part in parts for name in part.factors)
    left = room(names)
    width = left + 16 + max(56.0, 5.4 * max(len(short(name)) for name in names)) * len(names)
    sheet = SvgCanvas(rows=1, columns=1, width=width, height=62 + 32.0 * len(names))
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


def _panel(sheet: SvgCanvas, at: tuple[int, int], metric: str, axis: SettingAxis) -> Panel:
    """Return axes whose values stand equally far apart, as the grid's do."""
    across = Scale(low=-0.3, high=len(axis.values) - 0.7)
    panel = sheet.panel(*at, (40, 36, 12, 24), across, scale_of(metric))
    panel.title(title_of(metric))
    panel.labels(axis.name)
    panel.ticks("x", [(float(place), short(value)) for place, value in enumerate(axis.values)])
    metric_ticks(panel, "y", metric)
    panel.frame()
    return panel


def _curve(panel: Panel, points: Sequence[Marginal], metric: str, styles: Styles) -> None:
    times, attack = factor(metric), points[0].attack
    line = [(float(number), times * point.mean) for number, point in enumerate(points)]
    if attack:
        style = styles[attack]
        panel.line(line, opacity=0.75, **style.line())
        mark, colour, size = style.mark, style.colour, 2.4
    else:
        mark, colour, size = "o", INK, 3.0
        if all(point.low is not None and point.high is not None for point in points):
            upper = [(float(x), times * (point.high or 0)) for x, point in enumerate(points)]
            lower = [(float(x), times * (point.low or 0)) for x, point in enumerate(points)]
            panel.area([*upper, *reversed(lower)], fill=INK, opacity=0.13)
        panel.line(line, stroke_width=2)
    for (x, y), point in zip(line, points, strict=True):
        panel.mark(x, y, mark, colour, size=size, tip=_tip(point, metric))


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


def _range(part: Part) -> str:
    if part.low is None or part.high is None:
        return ""
    return f"{100 * part.low:.0f} to {100 * part.high:.0f}"


def _bounded(share: float, entry: Importance | Part) -> str:
    text = f"{100 * share:.1f} %"
    if entry.low is None or entry.high is None:
        return text
    return f"{text} ({100 * entry.low:.1f} to {100 * entry.high:.1f} over resamples)"


RESAMPLED = "of attacks and then of their scenarios, or of the scenarios of a single attack"


def sensitivity(drafts: FigureFiles) -> dict[str, Any]:
    """Return the figures; what the data do not bear out is None, and a note says why.

    Returns:
        ``grid``: whether the settings make one, else each is a point of its own. ``everything``,
        ``marginals``, ``importance``, ``variance``: figures. ``effects``: per value of an axis,
        the differences to the axis's first value (what, ACC, ASR, DER, and what their intervals
        are over). ``notes``: what each figure rests on and leaves out, by its name.
    """
    summary = drafts.summary
    axes = setting_axes(drafts.results, drafts.log_axes)
    outcomes = [outcome for outcome in sound(summary.outcomes) if outcome.best]
    notes: dict[str, str] = {}
    effects: list[tuple[str, ...]] = []
    block = block_of(outcomes, column_of(summary.objective, "report"))
    return {
        "grid": drafts.grid,
        "everything": drafts.everything(),
        "marginals": _marginals(drafts, outcomes, axes, notes, effects),
        "effects": effects,
        "importance": _importance(drafts, block, axes, notes),
        "variance": _variance(drafts, block, axes, notes),
        "notes": notes,
    }


def _marginals(
    drafts: FigureFiles,
    outcomes: Sequence[ScenarioOutcome],
    axes: Sequence[SettingAxis],
    notes: dict[str, str],
    effects: list[tuple[str, ...]],
) -> FigureView | None:
    if not axes or not outcomes:
        notes["marginals"] = "There is no axis with several values, or no trial is done."
        return None
    if not drafts.grid:
        notes["marginals"] = (
            "Settings were sampled, so none shares its values with another: each point is a "
            "setting's mean over the scenarios in which it is done."
        )
        trials = [trial for outcome in outcomes for trial in outcome.trials]
        return drafts.keep("marginals", draw_sampled(trials, axes), _done_csv(drafts, trials))
    found = marginals(outcomes, axes, drafts.names)
    shown = [axis for axis in axes if any(m.axis == axis.name for m in found)]
    if not shown:
        notes["marginals"] = "No scenario has any other combination done at every value of an axis."
        return None
    lost = {axis.name: left_out(outcomes, axis) for axis in shown}
    told = ", ".join(f"{number} for {name}" for name, number in lost.items() if number)
    effects += _effects(found)
    samples = distinct(sample_text(m.attacks, m.scenarios) for m in found if not m.attack)
    notes["marginals"] = (
        f"Black: the mean, with Student's 95 % confidence band where there is one, "
        f"{' or '.join(samples)}; coloured: the attacks. Bands of two values do not test their "
        f"difference, since the same scenarios stand behind both. In each scenario only "
        f"combinations of the other axes count that are done at every value of the axis"
        + (f", which leaves out some done trials: {told}." if told else "; here that is all.")
    )
    columns = list(Marginal.__dataclass_fields__)
    text = csv_text(columns, map(asdict, found))
    return drafts.keep("marginals", draw_marginals(found, shown, drafts.styles), text)


def _effects(found: Sequence[Marginal]) -> list[tuple[str, ...]]:
    """Return each value's differences to its axis's first one, in words; a star by Holm."""
    pooled = [m for m in found if not m.attack and m.difference is not None]
    adjusted = iter(holm([m.difference_p for m in pooled if m.difference_p is not None]))
    texts: dict[tuple[str, str], dict[str, str]] = {}
    for m in pooled:
        p = None if m.difference_p is None else next(adjusted)
        bounds = (m.difference or 0.0, m.difference_low, m.difference_high)
        cells = texts.setdefault((m.axis, m.value), {})
        cells["what"] = f"{m.axis}: {value_text(m.value)} less {value_text(m.reference)}"
        cells["over"] = sample_text(m.attacks, m.scenarios)
        cells[m.metric] = difference_text(bounds, m.metric, p)
    columns = ("what", *METRICS, "over")
    return [tuple(cells.get(name, NOTHING) for name in columns) for cells in texts.values()]


def _importance(
    drafts: FigureFiles, block: Block, axes: Sequence[SettingAxis], notes: dict[str, str]
) -> FigureView | None:
    part = complete_part(block)
    found = importances(part, axes, maximise=drafts.summary.objective != "asr")
    if not found:
        notes["importance"] = (
            "Importance needs two axes and four settings that are done in the same scenarios."
        )
        return None
    measures = {entry.measure: entry.resamples for entry in found}
    exact = (
        "Exact ANOVA: an axis's own share of the variance among settings. "
        if EXACT in measures
        else "No exact ANOVA: the settings done everywhere are no complete grid. "
    )
    ped_anova = (
        "how much an axis decides whether a setting is among the best tenth"
        if PED_ANOVA in measures
        else f"left out, for the best tenth of {len(part.settings)} settings is too few; it needs "
        f"{FEWEST_FOR_PED_ANOVA} settings"
    )
    resamples = "; ".join(f"{number} for {name}" for name, number in measures.items() if number)
    bars = (
        f"Bars: the middle 95 % over resamples, {RESAMPLED} ({resamples}). They hold for a share "
        f"among axes, not for whether an axis matters at all."
        if resamples
        else "No bars: there are too few attacks, or scenarios of one attack, to resample."
    )
    effects = main_effects(part, present(part, axes))
    censored = _censored(drafts) if part.values.size < block.values.size else ""
    notes["importance"] = (
        f"Of mean {drafts.summary.objective.upper()} on the report half, over {_rests_on(part)}"
        f"{_lost(block, part)}.{censored} {exact}{FANOVA}: the same from a random forest, without "
        f"bars. {PED_ANOVA}: {ped_anova}. The measures answer different questions and need not "
        f"agree. {_sizes(effects)} {bars}"
    )
    columns = [*Importance.__dataclass_fields__, "main_effect", "p_value"]
    by_axis = {e.axis: {"main_effect": e.size, "p_value": e.p_value} for e in effects}
    text = csv_text(columns, (asdict(entry) | by_axis[entry.axis] for entry in found))
    return drafts.keep("importance", draw_importance(found, effects), text)


def _variance(
    drafts: FigureFiles, block: Block, axes: Sequence[SettingAxis], notes: dict[str, str]
) -> FigureView | None:
    whole = complete_scenarios(block)
    parts = decompose(whole, axes)
    if not parts:
        reason = (
            "The settings are no complete grid in any scenario"
            if as_grid(whole, axes) is None
            else "There is no variance to explain"
        )
        notes["variance"] = f"{reason}, so there is no exact analysis of variance."
        return None
    rest = next(part for part in parts if not part.factors)
    notes["variance"] = (
        f"Exact analysis of variance of {drafts.summary.objective.upper()} on the report half, "
        f"over the {count(len(whole.scenarios), 'scenario')} in which all "
        f"{len(whole.settings)} settings are done (of {len(block.scenarios)}). On the diagonal "
        f"what each factor explains by itself, below it what two explain only together; "
        f"interactions of three or more have the other {100 * rest.share:.1f} %. Small: the middle "
        f"95 % over resamples, {RESAMPLED}; none for fewer than three. A scenario's "
        f"interaction with an axis says how much the best value depends on the scenario. Shares "
        f"are exact for these trials; noise has its share too. {_sizes(main_effects(whole, axes))}"
    )
    if len(whole.scenarios) < len(block.scenarios):
        notes["variance"] += _censored(drafts)
    rows = (asdict(part) | {"factors": " × ".join(part.factors) or "rest"} for part in parts)
    text = csv_text(list(Part.__dataclass_fields__), rows)
    return drafts.keep("variance", draw_variance(parts), text)


def _rests_on(part: Block) -> str:
    settings = count(len(part.settings), "setting")
    return f"{settings} that are all done in {count(len(part.scenarios), 'scenario')}"


def _sizes(effects: Sequence[MainEffect]) -> str:
    """Return how large main effects are and which of them are noise."""
    sizes = "; ".join(f"{e.axis} {effect_text(e)}" for e in effects)
    noise = [e.axis for e in effects if e.is_noise]
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


def _lost(block: Block, part: Block) -> str:
    settings = len(block.settings) - len(part.settings)
    scenarios = len(block.scenarios) - len(part.scenarios)
    told = [count(settings, "setting")] if settings else []
    told += [count(scenarios, "scenario")] if scenarios else []
    if not told:
        return ""
    return f" (left out, being pruned, failed or pending somewhere: {' and '.join(told)})"


def _censored(drafts: FigureFiles) -> str:
    """Return what pruning does to shares, if it did anything."""
    if not drafts.summary.counts["pruned"]:
        return ""
    return (
        " Pruned settings are the bad ones: where settings are left out, the shares of the axes "
        "that made them bad are too small; where scenarios are left out, the others are those "
        "before the prunings."
    )


def _done_csv(drafts: FigureFiles, trials: Sequence[TrialRow]) -> str:
    columns = (*SCENARIO, *drafts.results.setting_axes)
    columns += ("acc_after_report", "asr_after_report", "der_report")
    return csv_text(columns, ({n: t.cells[n] for n in columns} for t in trials if t.done))
