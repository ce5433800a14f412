"""Sensitivity: marginal curves, importance, interactions."""

from collections.abc import Sequence
from typing import Any

from orchestrator.files import csv_text
from orchestrator.plan.columns import SCENARIO, column_of, count
from orchestrator.plan.labels import setting_text, value_text
from orchestrator.reporting.figures import (
    MARGINS,
    factor,
    legend,
    lines_axis,
    metric_axis,
    room,
    short,
)
from orchestrator.reporting.page import FigureFiles, FigureView
from orchestrator.reporting.read_results import TrialRow, distinct, grouped
from orchestrator.reporting.statistics import (
    EXACT,
    FANOVA,
    FEWEST_FOR_PED_ANOVA,
    MARGINAL_COLUMNS,
    METRICS,
    PED_ANOVA,
    Block,
    Importance,
    MainEffect,
    Marginal,
    Part,
    as_grid,
    balanced,
    block_of,
    complete_part,
    complete_scenarios,
    decompose,
    done_trials,
    importances,
    main_effects,
    marginals,
    present,
)
from orchestrator.reporting.summary import ScenarioOutcome, sound, spread_of
from orchestrator.reporting.svg import (
    INK,
    Axis,
    Cell,
    Panel,
    SettingAxis,
    Styles,
    SvgCanvas,
    SvgFigure,
    cell_axis,
    draw_cells,
    setting_axes,
)
from orchestrator.reporting.text import difference_text, number_text, title_of
from orchestrator.search.inference import holm

_MARKS = {EXACT: "o", FANOVA: "s", PED_ANOVA: "D"}


def draw_marginals(
    found: Sequence[Marginal], axes: Sequence[SettingAxis], styles: Styles
) -> SvgFigure:
    """Draw a row of ACC, ASR and DER per axis: a line per attack, and the mean with its band."""
    sheet = SvgCanvas(columns=len(METRICS) + 1, width=215, height=190)
    for axis in axes:
        ticks = [(float(place), short(value)) for place, value in enumerate(axis.values)]
        across = Axis(-0.3, len(ticks) - 0.7, ticks, axis.name)  # equally far apart, as in the grid
        for metric in METRICS:
            panel = sheet.panel(MARGINS, across, metric_axis(metric), [title_of(metric)])
            chosen = [m for m in found if (m.axis, m.metric) == (axis.name, metric)]
            for points in reversed(grouped(chosen, lambda m: m.attack).values()):
                _curve(panel, points, styles)
        if axis == axes[0]:
            legend(sheet, styles)
        else:
            sheet.panel((0, 0, 0, 0), Axis(0, 1), Axis(0, 1), frame=())  # beside it nothing
            sheet.crop(1)
    return sheet.finish()


def _curve(panel: Panel, points: Sequence[Marginal], styles: Styles) -> None:
    attack, times = points[0].attack, factor(points[0].metric)
    line = [(float(number), times * point.level.mean) for number, point in enumerate(points)]
    mark, colour, size = "o", INK, 3.0
    if attack:
        style = styles[attack]
        mark, colour, size = style.mark, style.colour, 2.4
        panel.line(line, opacity=0.75, **style.line())
    else:
        lows, highs = ([getattr(p.level, end) for p in points] for end in ("low", "high"))
        if None not in (*lows, *highs):
            edge = [*enumerate(highs), *reversed([*enumerate(lows)])]
            panel.area([(float(x), times * y) for x, y in edge], fill=INK, opacity=0.13)
        panel.line(line, stroke_width=2)
    for (x, y), point in zip(line, points, strict=True):
        panel.mark(x, y, mark, colour, size=size, tip=_tip(point))


def _tip(point: Marginal) -> str:
    level, metric = point.level, point.metric
    text = number_text(level.mean, metric)
    if level.low is not None and level.high is not None:
        ends = f"{number_text(level.low, metric)} to {number_text(level.high, metric)}"
        text += f" (95 % confidence {ends}, {level.sample})"
    return (
        f"{point.attack or 'all scenarios'}, {point.axis}={point.value}\n{title_of(metric)}: {text}"
        f"\n{count(level.scenarios, 'scenario')}, {count(point.trials, 'trial')}"
    )


def draw_sampled(trials: Sequence[TrialRow], axes: Sequence[SettingAxis]) -> SvgFigure:
    """Draw the mean of each sampled setting over each axis."""
    sheet = SvgCanvas(columns=len(METRICS), width=260, height=190)
    settings = grouped((trial for trial in trials if trial.done), lambda trial: trial.setting)
    for axis in axes:
        for metric in METRICS:
            panel = sheet.panel(MARGINS, axis.scale(), metric_axis(metric), [title_of(metric)])
            for setting, group in settings.items():
                if mean := spread_of(group, column_of(metric, "report")):
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
    measures = grouped(found, lambda entry: entry.measure)
    left, below = room(axes), 30 + 14.0 * len(measures)
    sheet = SvgCanvas(columns=1, width=left + 430, height=24 + below + 40.0 * len(axes))
    down, title = lines_axis(axes), "Share of the axes' main effects"
    panel = sheet.panel((left, below, 152, 24), metric_axis("der"), down, [title], ["bottom"])
    for effect in effects:
        height = float(axes.index(effect.axis))
        panel.text(1.03, height, effect_text(effect), dx=8, dy=-6, anchor="start")
        if effect.is_noise:
            panel.text(1.03, height, "not distinguishable from noise", dx=8, dy=6, anchor="start")
    for number, (measure, entries) in enumerate(measures.items()):
        line = down.low + (30 + 14 * number) / 40
        panel.mark(0.02, line, _MARKS[measure], INK, size=3)
        panel.text(0.02, line, measure, dx=9, anchor="start")
        for entry in entries:
            height = axes.index(entry.axis) + 0.24 * (number - (len(measures) - 1) / 2)
            tip = f"{entry.axis}, {measure}: {_bounded(entry)}"
            if entry.low is not None and entry.high is not None:
                ends = [(entry.low, height), (entry.high, height)]
                panel.line(ends, stroke=INK, stroke_width=1.2, tip=tip)
            panel.mark(entry.share, height, _MARKS[measure], INK, size=3, tip=tip)
    return sheet.finish()


def draw_variance(parts: Sequence[Part]) -> SvgFigure:
    """Draw main effects on the diagonal and interactions of two below it, in percent."""
    names = distinct(name for part in parts for name in part.factors)
    labels = [short(name) for name in names]
    left = room(names)
    width = left + 16 + max(56.0, 5.4 * max(map(len, labels))) * len(names)
    sheet = SvgCanvas(columns=1, width=width, height=62 + 32.0 * len(names))
    across, up = cell_axis(labels), cell_axis(labels[::-1])
    panel = sheet.panel((left, 34, 8, 22), across, up, ["Share of the variance, %"], frame=())
    cells = {
        (names.index(part.factors[0]), len(names) - 1 - names.index(part.factors[-1])): Cell(
            share=part.share,
            text=f"{100 * part.share:.1f}",
            note=""
            if part.low is None or part.high is None
            else f"{100 * part.low:.0f} to {100 * part.high:.0f}",
            tip=f"{' × '.join(part.factors)}: {_bounded(part)}",
        )
        for part in parts
        if part.factors
    }
    draw_cells(panel, cells)
    return sheet.finish()


def _bounded(entry: Importance | Part) -> str:
    text = f"{100 * entry.share:.1f} %"
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
        columns = (
            *SCENARIO,
            *drafts.results.setting_axes,
            *(column_of(m, "report") for m in METRICS),
        )
        text = csv_text(columns, ({n: t.cells[n] for n in columns} for t in trials if t.done))
        return drafts.keep("marginals", draw_sampled(trials, axes), text)
    done = done_trials(outcomes, drafts.names)
    found = marginals(done, axes)
    shown = [axis for axis in axes if any(m.axis == axis.name for m in found)]
    if not shown:
        notes["marginals"] = "No scenario has any other combination done at every value of an axis."
        return None
    lost = {axis.name: len(done) - balanced(done, axis).size // len(METRICS) for axis in shown}
    lacking = ", ".join(f"{number} for {name}" for name, number in lost.items() if number)
    effects += _effects(found)
    samples = distinct(m.level.sample for m in found if not m.attack)
    notes["marginals"] = (
        f"Black: the mean, with Student's 95 % confidence band where there is one, "
        f"{' or '.join(samples)}; coloured: the attacks. Bands of two values do not test their "
        f"difference, since both are over the same scenarios. In each scenario only combinations "
        f"of the other axes count that are done at every value of the axis"
        + (f", which leaves out some done trials: {lacking}." if lacking else "; here that is all.")
    )
    text = csv_text(MARGINAL_COLUMNS, (m.cells() for m in found))
    return drafts.keep("marginals", draw_marginals(found, shown, drafts.styles), text)


def _effects(found: Sequence[Marginal]) -> list[tuple[str, ...]]:
    """Return each value's differences to its axis's first one, in words; a star by Holm."""
    pooled = [(m, m.gap) for m in found if not m.attack and m.gap]
    adjusted = iter(holm([gap.p for _, gap in pooled if gap.p is not None]))
    rows: dict[tuple[str, str], list[str]] = {}
    for m, gap in pooled:  # metric by metric
        what = f"{m.axis}: {value_text(m.value)} less {value_text(m.reference)}"
        row = rows.setdefault((m.axis, m.value), [what, gap.sample])
        p = None if gap.p is None else next(adjusted)
        row.insert(-1, difference_text((gap.mean, gap.low, gap.high), m.metric, p))
    return [tuple(row) for row in rows.values()]


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
    columns = [*Importance._fields, "main_effect", "p_value"]
    by_axis = {e.axis: {"main_effect": e.size, "p_value": e.p_value} for e in effects}
    text = csv_text(columns, (entry._asdict() | by_axis[entry.axis] for entry in found))
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
    rows = (part._asdict() | {"factors": " × ".join(part.factors) or "rest"} for part in parts)
    text = csv_text(Part._fields, rows)
    return drafts.keep("variance", draw_variance(parts), text)


def _rests_on(part: Block) -> str:
    settings, scenarios = count(len(part.settings), "setting"), len(part.scenarios)
    return f"{settings} that are all done in {count(scenarios, 'scenario')}"


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
    lost = {
        "setting": len(block.settings) - len(part.settings),
        "scenario": len(block.scenarios) - len(part.scenarios),
    }
    words = " and ".join(count(number, noun) for noun, number in lost.items() if number)
    return f" (left out, being pruned, failed or pending somewhere: {words})" if words else ""


def _censored(drafts: FigureFiles) -> str:
    """Return what pruning does to shares, if it did anything."""
    if not drafts.summary.counts["pruned"]:
        return ""
    return (
        " Pruned settings are the bad ones: where settings are left out, the shares of the axes "
        "that made them bad are too small; where scenarios are left out, the others are those "
        "before the prunings."
    )
