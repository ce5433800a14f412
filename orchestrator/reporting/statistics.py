"""Marginal means, main effects, variance and importance of the axes; flagged neurons.

Only balanced parts of a scenario count: combinations of the other axes that are done at every
value of this one. Otherwise a value whose bad partners were pruned would look good. What
intervals are over is said in `orchestrator.search.inference`. The intervals of two values do not
say how the values differ, since the same scenarios stand behind both: a difference to the axis's
first value is therefore taken within each scenario.

Shares of an analysis of variance sum to 1 even if nothing matters. So the absolute size stands
beside them, and a permutation test: if an axis does nothing, its values may be exchanged among
settings that agree in all other axes, in each scenario apart (restricted permutation, Anderson
& ter Braak 2003). A small p says that the axis did something in these scenarios, not that it
would with other attacks.

Every trial is one cell of scenario × axis × axis ..., so the decomposition is exact and
assumes no model (Hoeffding; Fisher's ANOVA with one observation per cell).

Each is taken of the settings' means over scenarios. The exact ANOVA needs a complete grid;
Optuna's two measures do not. Uncertainty is from resamples, but for fANOVA: as many forests as a
95 % range needs take minutes.
"""

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from statistics import fmean
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from orchestrator.plan.columns import column_of
from orchestrator.reporting.read_results import ScenarioRow, Setting, StudyResults, TrialRow
from orchestrator.reporting.summary import ScenarioOutcome
from orchestrator.reporting.svg import SettingAxis
from orchestrator.reporting.text import Names, distinct, in_order
from orchestrator.search.inference import LEVEL, estimate, holm, resampled

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """What trials reach.

    Attributes:
        values: ``[scenarios, settings]``; NaN where a trial is not done.
    """

    scenarios: Sequence[ScenarioRow]
    settings: Sequence[Setting]
    values: Floats

    @property
    def whole(self) -> bool:
        return bool(self.values.size) and not bool(np.isnan(self.values).any())

    def part(self, rows: Any, columns: Any) -> "Block":
        """Return the scenarios and settings at the places given."""
        return Block(
            scenarios=[self.scenarios[row] for row in rows],
            settings=[self.settings[column] for column in columns],
            values=self.values[np.ix_(rows, columns)],
        )


def block_of(outcomes: Iterable[ScenarioOutcome], column: str) -> Block:
    """Return a column of results as a matrix, in the order of the plan."""
    group = list(outcomes)
    settings = distinct(trial.setting for outcome in group for trial in outcome.trials)
    place = {setting: number for number, setting in enumerate(settings)}
    values = np.full((len(group), len(settings)), np.nan)
    for row, outcome in enumerate(group):
        for trial in outcome.trials:
            if trial.done:
                values[row, place[trial.setting]] = trial.numbers[column]
    scenarios = [outcome.scenario for outcome in group]
    return Block(scenarios=scenarios, settings=settings, values=values)


def complete_scenarios(block: Block) -> Block:
    """Return the scenarios in which every setting is done."""
    rows = np.flatnonzero(~np.isnan(block.values).any(axis=1))
    return block.part(rows, range(len(block.settings)))


def complete_part(block: Block) -> Block:
    """Return a part in which all is done, by dropping what has most holes, one at a time."""
    rows, columns = list(range(len(block.scenarios))), list(range(len(block.settings)))
    while rows and columns:
        holes = np.isnan(block.values[np.ix_(rows, columns)])
        by_row, by_column = holes.mean(axis=1), holes.mean(axis=0)
        if not holes.any():
            break
        if by_row.max() >= by_column.max():
            del rows[int(by_row.argmax())]
        else:
            del columns[int(by_column.argmax())]
    return block.part(rows, columns)


METRICS = ("acc", "asr", "der")


@dataclass(frozen=True, kw_only=True)
class Marginal:
    """One value of an axis, over all scenarios or over those of an attack.

    Attributes:
        attack: Empty where all scenarios are pooled.
        mean: Of the attacks' means where there are several attacks, else of the scenarios;
            each scenario being a mean over the other axes.
        low, high: Bounds of Student's 95 % confidence interval over attacks' means, or over the
            scenarios of a single attack, cut to [0, 1]; None for a single scenario.
        attacks: How many there are, variants of one attack being one.
        scenarios: How many there are.
        trials: How many trials they rest on.
        reference: The axis's first value.
        difference: Mean difference to the reference within scenarios, averaged as `mean` is;
            None for the reference itself.
        difference_low, difference_high: Of its interval, likewise.
        difference_p: Of its test, before any adjustment; None where there is no interval.
    """

    axis: str
    value: str
    metric: str
    attack: str
    mean: float
    low: float | None
    high: float | None
    attacks: int
    scenarios: int
    trials: int
    reference: str
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    difference_p: float | None


def marginals(
    outcomes: Sequence[ScenarioOutcome], axes: Sequence[SettingAxis], names: Names
) -> list[Marginal]:
    """Return the marginal means of every axis, pooled first, on the report half."""
    groups: dict[str, list[ScenarioOutcome]] = {"": list(outcomes)}
    for outcome in outcomes:
        groups.setdefault(names.attack(outcome.scenario.family), []).append(outcome)
    found = []
    for axis in axes:
        balanced = {outcome.scenario: _balanced(outcome, axis) for outcome in outcomes}
        for attack, members in groups.items():
            parts = [
                (member.scenario.family.attack, balanced[member.scenario])
                for member in members
                if balanced[member.scenario]
            ]
            if parts:
                found += _of_group(axis, attack, parts)
    return found


def left_out(outcomes: Iterable[ScenarioOutcome], axis: SettingAxis) -> int:
    """Return how many done trials have no balanced part to stand in."""
    return sum(
        sum(trial.done for trial in outcome.trials)
        - sum(len(trials) for trials in _balanced(outcome, axis).values())
        for outcome in outcomes
    )


def _of_group(
    axis: SettingAxis, attack: str, parts: Sequence[tuple[str, Mapping[str, Sequence[TrialRow]]]]
) -> list[Marginal]:
    """Return a group's marginals, given each scenario's attack and balanced part."""
    attacks = [name for name, _ in parts]
    found = []
    for metric in METRICS:
        column = column_of(metric, "report")
        means = {
            value: [fmean(trial.numbers[column] for trial in part[value]) for _, part in parts]
            for value in axis.values
        }
        reference = axis.values[0]
        for value in axis.values:
            level = estimate(means[value], attacks)
            gaps = [one - two for one, two in zip(means[value], means[reference], strict=True)]
            gap = None if value == reference else estimate(gaps, attacks)
            found.append(
                Marginal(
                    axis=axis.name,
                    value=value,
                    metric=metric,
                    attack=attack,
                    mean=level.mean,
                    low=None if level.low is None else max(0.0, level.low),
                    high=None if level.high is None else min(1.0, level.high),
                    attacks=level.attacks,
                    scenarios=level.scenarios,
                    trials=sum(len(part[value]) for _, part in parts),
                    reference=reference,
                    difference=None if gap is None else gap.mean,
                    difference_low=None if gap is None else gap.low,
                    difference_high=None if gap is None else gap.high,
                    difference_p=None if gap is None else gap.p,
                )
            )
    return found


def _balanced(outcome: ScenarioOutcome, axis: SettingAxis) -> dict[str, list[TrialRow]]:
    """Return a scenario's trials by the axis's value: those of its balanced part."""
    others: dict[Setting, dict[str, TrialRow]] = {}
    for trial in outcome.trials:
        if trial.done:
            rest = tuple(pair for pair in trial.setting if pair[0] != axis.name)
            others.setdefault(rest, {})[dict(trial.setting)[axis.name]] = trial
    full = [found for found in others.values() if len(found) == len(axis.values)]
    return {value: [found[value] for found in full] for value in axis.values} if full else {}


MOST_PERMUTATIONS, FEWEST_PERMUTATIONS = 999, 199
BINS = 4  # of a sampled axis
_WORK = 4e6  # values that are moved at once, for each axis


@dataclass(frozen=True, kw_only=True)
class MainEffect:
    """The main effect of an axis on the settings' means over scenarios.

    Attributes:
        size: Standard deviation, over the axis's values, of the mean that each reaches; in
            the objective's own unit.
        p_value: Of the permutation test, adjusted for the number of axes by Holm's method.
    """

    axis: str
    size: float
    p_value: float

    @property
    def is_noise(self) -> bool:
        """Whether the effect is not distinguishable from noise."""
        return self.p_value >= LEVEL


def main_effects(block: Block, axes: Sequence[SettingAxis]) -> list[MainEffect]:
    """Return the main effect of each axis; always the same.

    `block` must be whole. Settings that were sampled have no others that agree with them in all
    other axes. Then an axis's range is cut in four, and the settings' means are permuted.
    """
    found = [_effect(block, axis, axes) for axis in axes]
    adjusted = holm([p for _, p in found])
    return [
        MainEffect(axis=axis.name, size=size, p_value=p)
        for axis, (size, _), p in zip(axes, found, adjusted, strict=True)
    ]


def _effect(block: Block, axis: SettingAxis, axes: Sequence[SettingAxis]) -> tuple[float, float]:
    """Return the size of an axis's effect, and its p before any adjustment."""
    settings = [dict(setting) for setting in block.settings]
    levels = np.array([axis.values.index(setting[axis.name]) for setting in settings])
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    others = [other.name for other in axes if other.name != axis.name]
    for place, setting in enumerate(settings):
        groups[tuple(setting[name] for name in others)].append(place)
    matched = [members for members in groups.values() if len(members) > 1]
    values = block.values
    if 2 * sum(map(len, matched)) < len(settings):
        matched = [list(range(len(settings)))]
        values = values.mean(axis=0, keepdims=True)
        levels = _binned(levels) if axis.numeric else levels
    by_size = [
        np.array([group for group in matched if len(group) == size])
        for size in sorted({len(group) for group in matched})
    ]
    parts = [values[:, places] for places in by_size]
    belongs = (levels[:, None] == np.unique(levels)).astype(float)
    design = np.concatenate([_centred(belongs[places], -2) for places in by_size], axis=None)
    weights: Floats = np.linalg.pinv(design.reshape(-1, belongs.shape[1])).T
    observed = float(_sizes(parts, weights))
    times = int(np.clip(_WORK / values.size, FEWEST_PERMUTATIONS, MOST_PERMUTATIONS))
    random = np.random.default_rng(0)
    permuted = [
        random.permuted(np.broadcast_to(part, (times, *part.shape)), axis=-1) for part in parts
    ]
    as_large = int((_sizes(permuted, weights) >= observed - 1e-12).sum())
    return observed, (1 + as_large) / (1 + times)


def _sizes(parts: Sequence[Floats], weights: Floats) -> Floats:
    """Return the sd of the levels' effects by least squares, groups having levels of their own.

    In a complete grid these are the levels' means. In groups that lack a level the means would
    be compared with those of other groups.

    Args:
        parts: Values ``[..., scenarios, groups, members]``, for each size of groups.
        weights: ``[all members, levels]``: of a member's distance from its group's mean.
    """
    apart = [_centred(part.mean(axis=-3), -1) for part in parts]
    flat = [mean.reshape(*mean.shape[:-2], -1) for mean in apart]
    sizes: Floats = (np.concatenate(flat, axis=-1) @ weights).std(axis=-1)
    return sizes


def _centred(values: Floats, axis: int) -> Floats:
    centred: Floats = values - values.mean(axis=axis, keepdims=True)
    return centred


def _binned(levels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return four bins of about as many settings each; equal values share a bin."""
    edges = np.quantile(levels, np.linspace(0, 1, BINS + 1)[1:-1])
    return np.searchsorted(edges, levels, side="left")


SCENARIOS = "scenario"
VARIANCE_RESAMPLES = 500  # of attacks and their scenarios, for the intervals


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the variance.

    Attributes:
        factors: One for a main effect, two for an interaction, none for all that is left.
        share: Of the whole variance, in [0, 1].
        low, high: The middle 95 % of what resampled attacks and scenarios give (see
            `orchestrator.search.inference.resampled`); None where there are too few.
    """

    factors: tuple[str, ...]
    share: float
    low: float | None
    high: float | None


def decompose(block: Block, axes: Sequence[SettingAxis]) -> list[Part]:
    """Return the main effects, interactions of two, and the rest; nothing without variance.

    `block` must be whole, and its settings the full product of `axes`; see `as_grid`.
    """
    grid = as_grid(block, axes)
    names = (SCENARIOS, *(axis.name for axis in axes))
    if grid is None or not float(grid.var()) > 1e-18:
        return []
    sets = [*itertools.combinations(range(len(names)), 1)]
    sets += [*itertools.combinations(range(len(names)), 2)]
    shares = _shares(grid, sets)
    draws = _resampled(block, grid, sets)
    bounds = [bar([draw[place] for draw in draws], share) for place, share in enumerate(shares)]
    factors = [*(tuple(names[place] for place in chosen) for chosen in sets), ()]
    return [
        Part(factors=factor, share=share, low=low, high=high)
        for factor, share, (low, high) in zip(factors, shares, bounds, strict=True)
    ]


def bar(draws: Sequence[float], share: float) -> tuple[float, float] | tuple[None, None]:
    """Return the middle 95 % of draws, widened to hold the share itself; None without draws.

    A resample repeats scenarios, so it has more noise than the data. Where a share is near 0 or
    1 all resamples can lie on one side of it.
    """
    if not draws:
        return None, None
    low, high = np.quantile(draws, (0.025, 0.975)).tolist()
    return min(low, share), max(high, share)


def as_grid(block: Block, axes: Sequence[SettingAxis]) -> Floats | None:
    """Return values by ``[scenario, axis, axis, ...]``, None if the settings are no full grid."""
    sizes = [len(axis.values) for axis in axes]
    if not block.whole or not axes or len(block.settings) != prod(sizes):
        return None
    grid = np.full((len(block.scenarios), *sizes), np.nan)
    for place, setting in enumerate(block.settings):
        chosen = dict(setting)
        where = [axis.values.index(chosen[axis.name]) for axis in axes]
        grid.reshape(len(grid), -1)[:, np.ravel_multi_index(where, sizes)] = block.values[:, place]
    return None if np.isnan(grid).any() else grid


def _resampled(block: Block, grid: Floats, sets: Sequence[tuple[int, ...]]) -> list[list[float]]:
    attacks = [scenario.family.attack for scenario in block.scenarios]
    drawn = (grid[rows] for rows in resampled(attacks, VARIANCE_RESAMPLES))
    return [_shares(sample, sets) for sample in drawn if float(sample.var()) > 1e-18]


def _shares(grid: Floats, sets: Sequence[tuple[int, ...]]) -> list[float]:
    """Return the share of each set of factors (singles before pairs), and the rest's."""
    total = float(grid.var())
    centred = grid - grid.mean()
    effects: dict[tuple[int, ...], Floats] = {}
    for chosen in sets:
        others = tuple(place for place in range(grid.ndim) if place not in chosen)
        effect = centred.mean(axis=others, keepdims=True) if others else centred
        if len(chosen) > 1:
            effect = effect - sum(effects[(place,)] for place in chosen)
        effects[chosen] = effect
    shares = [float((effects[chosen] ** 2).mean()) / total for chosen in sets]
    return [*shares, max(0.0, 1 - sum(shares))]


EXACT, FANOVA, PED_ANOVA = "exact ANOVA", "Optuna fANOVA", "Optuna PED-ANOVA"
IMPORTANCE_RESAMPLES = {EXACT: 500, FANOVA: 0, PED_ANOVA: 200}
FEWEST_SETTINGS = 4
FEWEST_FOR_PED_ANOVA = 50  # of which the best tenth are five, as Optuna's documentation asks

Shares = Mapping[str, float]  # by the axis's name


@dataclass(frozen=True, kw_only=True)
class Importance:
    """One axis by one measure.

    Attributes:
        share: Of all axes' main effects by this measure, in [0, 1].
        low, high: The middle 95 % of what resamples give (see `orchestrator.search.inference`),
            widened to hold the share; None where there are none.
        resamples: How many there were.
    """

    axis: str
    measure: str
    share: float
    low: float | None
    high: float | None
    resamples: int


def importances(block: Block, axes: Sequence[SettingAxis], *, maximise: bool) -> list[Importance]:
    """Return the importance of each axis by each measure that the data allow.

    `block` must be whole. Axes of which it has a single value are left out. Nothing is returned
    for a single axis, or for so few settings that any answer would be noise.
    """
    axes = present(block, axes)
    if len(axes) < 2 or len(block.settings) < FEWEST_SETTINGS or not block.whole:
        return []
    found = []
    attacks = [scenario.family.attack for scenario in block.scenarios]
    for measure, shares_of in _measures(block, axes, maximise=maximise).items():
        shares = shares_of(block.values)
        if shares is None:
            continue
        draws = [
            drawn
            for rows in resampled(attacks, IMPORTANCE_RESAMPLES[measure])
            if (drawn := shares_of(block.values[rows])) is not None
        ]
        for axis in axes:
            low, high = bar([drawn[axis.name] for drawn in draws], shares[axis.name])
            found.append(
                Importance(
                    axis=axis.name,
                    measure=measure,
                    share=shares[axis.name],
                    low=low,
                    high=high,
                    resamples=len(draws),
                )
            )
    return found


def present(block: Block, axes: Sequence[SettingAxis]) -> list[SettingAxis]:
    """Return the axes with the values that the block's settings have, if there are several."""
    settings = [dict(setting) for setting in block.settings]
    there = {axis.name: {setting[axis.name] for setting in settings} for axis in axes}
    return [
        replace(axis, values=[value for value in axis.values if value in there[axis.name]])
        for axis in axes
        if len(there[axis.name]) > 1
    ]


def _measures(
    block: Block, axes: Sequence[SettingAxis], *, maximise: bool
) -> dict[str, Callable[[Floats], Shares | None]]:
    from orchestrator.search.importance import axis_importances

    points = [_point(setting, axes) for setting in block.settings]

    def by_optuna(name: Literal["fanova", "ped_anova"]) -> Callable[[Floats], Shares | None]:
        def shares_of(values: Floats) -> Shares | None:
            means = values.mean(axis=0)
            if not float(means.var()) > 1e-18:
                return None
            return axis_importances(name, points, means.tolist(), maximise=maximise)

        return shares_of

    measures: dict[str, Callable[[Floats], Shares | None]] = {}
    if as_grid(block, axes) is not None:
        measures[EXACT] = lambda values: _exact(block, axes, values)
    measures[FANOVA] = by_optuna("fanova")
    if len(block.settings) >= FEWEST_FOR_PED_ANOVA:
        measures[PED_ANOVA] = by_optuna("ped_anova")
    return measures


def _point(
    setting: Sequence[tuple[str, str]], axes: Sequence[SettingAxis]
) -> dict[str, float | str]:
    chosen = dict(setting)
    return {a.name: float(chosen[a.name]) if a.numeric else chosen[a.name] for a in axes}


def _exact(block: Block, axes: Sequence[SettingAxis], values: Floats) -> Shares | None:
    """Return each axis's main effect among the settings' means, as shares of their sum."""
    means = values.mean(axis=0, keepdims=True)
    whole = Block(scenarios=block.scenarios[:1], settings=block.settings, values=means)
    grid = as_grid(whole, axes)
    if grid is None:
        return None
    surface = grid[0]
    effects = {
        axis.name: float(
            surface.mean(axis=tuple(p for p in range(surface.ndim) if p != place)).var()
        )
        for place, axis in enumerate(axes)
    }
    total = sum(effects.values())
    return {name: effect / total for name, effect in effects.items()} if total > 1e-18 else None


MOST_THRESHOLDS = 12  # that are counted one by one
_BINS = 8  # of equal width, where there are more
_COLLAPSE = ("defence_seed", "stop_epoch", "collapse_class", "collapse_share")
_ALL_TO_ALL = "all_to_all"  # every class is a target, so no row is *the* target's


@dataclass(frozen=True, kw_only=True)
class FlagCount:
    """Done trials of an attack at a threshold.

    Attributes:
        unlearn_threshold: The threshold, or a range where there are many.
        trials: How many there are.
        target: In how many of them the target's row was flagged.
        others: In how many any other row was.
        nothing: In how many no row was.
        short: In how many the ascent ended above its threshold.
    """

    attack: str
    unlearn_threshold: str
    trials: int
    target: int
    others: int
    nothing: int
    short: int


def count_flags(results: StudyResults, names: Names) -> list[FlagCount]:
    """Return the counts by attack and threshold of trials that can flag the target's row.

    All-to-all attacks have no such row, plain fine-tuning flags none, and where all layers
    are watched the head's rows are a few among many.
    """
    bins = _bins(trial.cells["unlearn_threshold"] for trial in results.trials)
    groups: dict[tuple[str, str], list[TrialRow]] = {}
    for trial in results.trials:
        family = trial.scenario.family
        if trial.done and _can_flag(trial):
            place = (names.attack(family), bins[trial.cells["unlearn_threshold"]])
            groups.setdefault(place, []).append(trial)
    return [_count(attack, threshold, group) for (attack, threshold), group in groups.items()]


@dataclass(frozen=True, kw_only=True)
class Missed:
    """An ascent after which the target's row was not flagged.

    Attributes:
        collapse_class: The class that it ended in: the one predicted for most clean samples.
        share: The share of the clean samples that were.
        trials: How many done trials rest on it.
        defence_seed: Empty where the scenario has a single one.
    """

    scenario: ScenarioRow
    stop_epoch: str
    collapse_class: str
    share: float
    trials: int
    defence_seed: str = ""

    def text(self, names: Names) -> str:
        """Return a sentence on it."""
        target = self.scenario.family.target_label
        seed = f" · defence seed {self.defence_seed}" if self.defence_seed else ""
        return (
            f"{names.scenario(self.scenario)}{seed}: phase 1 ended, after epoch "
            f"{self.stop_epoch}, in class {self.collapse_class} ({100 * self.share:.0f}\u00a0% of "
            f"predictions); the target is {target}"
        )


def missed(results: StudyResults) -> list[Missed]:
    """Return the ascents that did not flag the target's row, in plan order.

    Older results do not say what an ascent ended in; there are none of those.
    """
    seeds: dict[ScenarioRow, set[str]] = defaultdict(set)
    for trial in results.trials:
        seeds[trial.scenario].add(trial.cells["defence_seed"])
    groups = Counter(
        (trial.scenario, tuple(trial.cells[name] for name in _COLLAPSE))
        for trial in results.trials
        if trial.done
        and _can_flag(trial)
        and trial.cells.get("collapse_class")
        and _target(trial) not in (trial.flagged or ())
    )
    return [
        Missed(
            scenario=scenario,
            stop_epoch=epoch,
            collapse_class=label,
            share=float(share),
            trials=count,
            defence_seed=seed if len(seeds[scenario]) > 1 else "",
        )
        for (scenario, (seed, epoch, label, share)), count in groups.items()
    ]


def _target(trial: TrialRow) -> int:
    return int(float(trial.scenario.family.target_label))


def _bins(thresholds: Iterable[str]) -> dict[str, str]:
    """Return where each threshold is counted: by itself, or if there are many among others.

    The last bin takes its upper end too.
    """
    values = in_order(thresholds)
    if len(values) <= MOST_THRESHOLDS:
        return {value: value for value in values}
    low, high = float(values[0]), float(values[-1])
    width = (high - low) / _BINS
    ends = [f"{low + width * number:.3g}" for number in range(_BINS + 1)]
    places = {value: min(_BINS - 1, int((float(value) - low) / width)) for value in values}
    return {value: f"{ends[place]}–{ends[place + 1]}" for value, place in places.items()}


def _can_flag(trial: TrialRow) -> bool:
    options = json.loads(trial.scenario.family.attack_options)
    cells = trial.cells
    return (
        trial.flagged is not None
        and options.get("labels") != _ALL_TO_ALL
        and cells.get("preset") != "fine_tuning"
        and cells.get("max_suspects") != "0"
        and cells.get("layers") != "all"
    )


def _count(attack: str, threshold: str, trials: Sequence[TrialRow]) -> FlagCount:
    flags = [(trial.flagged or frozenset(), _target(trial)) for trial in trials]
    return FlagCount(
        attack=attack,
        unlearn_threshold=threshold,
        trials=len(trials),
        target=sum(target in rows for rows, target in flags),
        others=sum(bool(rows - {target}) for rows, target in flags),
        nothing=sum(not rows for rows, _ in flags),
        short=sum(trial.cells["threshold_reached"] == "False" for trial in trials),
    )
