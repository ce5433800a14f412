"""What the settings matter: figures over all scenarios, and what each of them rests on."""

from collections.abc import Sequence
from dataclasses import asdict

from orchestrator.files import csv_text
from orchestrator.inference import holm, sample_text
from orchestrator.plural import count
from orchestrator.reporting.axes import Axis, setting_axes
from orchestrator.reporting.blocks import Block, block_of, complete_part, complete_scenarios
from orchestrator.reporting.drafts import Drafts
from orchestrator.reporting.effects import (
    draw_importance,
    draw_marginals,
    draw_sampled,
    draw_variance,
    effect_text,
)
from orchestrator.reporting.importance import (
    EXACT,
    FANOVA,
    FEWEST_FOR_PED_ANOVA,
    PED_ANOVA,
    Importance,
    importances,
    present,
)
from orchestrator.reporting.main_effects import MainEffect, main_effects
from orchestrator.reporting.marginals import METRICS, Marginal, left_out, marginals
from orchestrator.reporting.naming import distinct, value_text
from orchestrator.reporting.page import FigureView, Sensitivity
from orchestrator.reporting.results import Trial
from orchestrator.reporting.schema import SCENARIO, column_of
from orchestrator.reporting.summary import Outcome, sound
from orchestrator.reporting.variance import Part, as_grid, decompose
from orchestrator.reporting.wording import NOTHING, difference_text

RESAMPLED = "of attacks and then of their scenarios, or of the scenarios of a single attack"


def sensitivity(drafts: Drafts) -> Sensitivity:
    """Return the figures; what the data do not bear out is None, and a note says why."""
    summary = drafts.summary
    axes = setting_axes(drafts.results)
    outcomes = [outcome for outcome in sound(summary.outcomes) if outcome.best]
    notes: dict[str, str] = {}
    effects: list[tuple[str, ...]] = []
    block = block_of(outcomes, column_of(summary.objective, "report"))
    return Sensitivity(
        grid=drafts.grid,
        everything=drafts.everything(),
        marginals=_marginals(drafts, outcomes, axes, notes, effects),
        effects=effects,
        importance=_importance(drafts, block, axes, notes),
        variance=_variance(drafts, block, axes, notes),
        notes=notes,
    )


def _marginals(
    drafts: Drafts,
    outcomes: Sequence[Outcome],
    axes: Sequence[Axis],
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
    drafts: Drafts, block: Block, axes: Sequence[Axis], notes: dict[str, str]
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
    drafts: Drafts, block: Block, axes: Sequence[Axis], notes: dict[str, str]
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


def _censored(drafts: Drafts) -> str:
    """Return what pruning does to shares, if it did anything."""
    if not drafts.summary.counts["pruned"]:
        return ""
    return (
        " Pruned settings are the bad ones: where settings are left out, the shares of the axes "
        "that made them bad are too small; where scenarios are left out, the others are those "
        "before the prunings."
    )


def _done_csv(drafts: Drafts, trials: Sequence[Trial]) -> str:
    columns = (*SCENARIO, *drafts.results.setting_axes)
    columns += ("acc_after_report", "asr_after_report", "der_report")
    return csv_text(columns, ({n: t.cells[n] for n in columns} for t in trials if t.done))
