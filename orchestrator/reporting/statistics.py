"""Marginal means, main effects, variance and importance of the axes.

Only balanced parts of a scenario count: combinations of the other axes that are done at every
value of this one. Otherwise a value whose bad partners were pruned would look good. What
intervals are over is said in `orchestrator.search.inference`. The intervals of two values do not
say how the values differ, since both are over the same scenarios: a difference to the axis's
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

# ruff: noqa: PD011 - blocks and axes have values too
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan, prod
from statistics import fmean
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orchestrator.plan.columns import column_of
from orchestrator.reporting.read_folder import (
    ScenarioRow,
    Setting,
    distinct,
    grouped,
)
from orchestrator.reporting.summary import ScenarioOutcome
from orchestrator.reporting.svg import SettingAxis
from orchestrator.reporting.text import Names
from orchestrator.search.inference import LEVEL, MeanEstimate, estimate, holm, resampled

Floats: TypeAlias = NDArray[np.float64]
METRICS = ("acc", "asr", "der")
_TINY = 1e-18  # a variance that is none


@dataclass(frozen=True, eq=False)
class Block:
    """Trials' results as a matrix."""

    scenarios: Sequence[ScenarioRow]
    settings: Sequence[Setting]
    values: Floats  # [scenarios, settings]; NaN where a trial is not done

    @property
    def whole(self) -> bool:
        return bool(self.values.size) and not bool(np.isnan(self.values).any())

    def part(self, rows: Any, columns: Any) -> "Block":
        """Return the scenarios and settings at the places given."""
        scenarios, settings = self.scenarios, self.settings
        values = self.values[np.ix_(rows, columns)]
        return Block([scenarios[row] for row in rows], [settings[n] for n in columns], values)


def block_of(outcomes: Iterable[ScenarioOutcome], column: str) -> Block:
    """Return a column of results as a matrix, in the order of the plan."""
    rows = {o.scenario: {t.setting: t for t in o.trials} for o in outcomes}
    settings = distinct(setting for trials in rows.values() for setting in trials)
    values = [
        [t.numbers.get(column, nan) if (t := trials.get(s)) and t.done else nan for s in settings]
        for trials in rows.values()
    ]
    return Block([*rows], settings, np.array(values).reshape(len(rows), len(settings)))


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


class Marginal(NamedTuple):
    """One value of an axis by one metric, over all scenarios or over those of an attack."""

    axis: str
    value: str
    metric: str
    attack: str  # empty where all scenarios are pooled
    level: MeanEstimate  # of the scenarios' means over the other axes, its interval in [0, 1]
    gap: MeanEstimate | None  # of the differences to the reference; None for that itself
    trials: int
    reference: str  # the axis's first value

    def cells(self) -> dict[str, object]:
        """Return the row of the figure's CSV file."""
        level, gap = self.level, self.gap
        row: list[object] = [
            self.axis,
            self.value,
            self.metric,
            self.attack,
            level.mean,
            level.low,
            level.high,
        ]
        row += [level.attacks, level.scenarios, self.trials, self.reference]
        row += [gap.mean, gap.low, gap.high, gap.p] if gap else [None] * 4
        return dict(zip(MARGINAL_COLUMNS, row, strict=True))


MARGINAL_COLUMNS = (
    *("axis", "value", "metric", "attack", "mean", "low", "high", "attacks", "scenarios"),
    *("trials", "reference", "difference", "difference_low", "difference_high", "difference_p"),
)


def done_trials(outcomes: Iterable[ScenarioOutcome], names: Names) -> pd.DataFrame:
    """Return the done trials: scenario (its place), label, attack, setting axes, metrics."""
    return pd.DataFrame(
        {
            "scenario": place,
            "label": names.attack(outcome.scenario.family),
            "attack": outcome.scenario.family.attack,
            **dict(trial.setting),
            **{metric: trial.numbers[column_of(metric, "report")] for metric in METRICS},
        }
        for place, outcome in enumerate(outcomes)
        for trial in outcome.trials
        if trial.done
    )


def balanced(trials: pd.DataFrame, axis: SettingAxis) -> pd.DataFrame:
    """Return what is done at every value of an axis, by all else: columns (metric, value)."""
    rest = [name for name in trials.columns if name not in (*METRICS, axis.name)]
    wide = trials.pivot_table(index=rest, columns=axis.name, values=list(METRICS))
    return wide.reindex(columns=pd.MultiIndex.from_product([METRICS, axis.values])).dropna()


def marginals(trials: pd.DataFrame, axes: Sequence[SettingAxis]) -> list[Marginal]:
    """Return the marginal means of every axis, pooled first, on the report half.

    `trials` are those of `done_trials`.
    """
    found = []
    for axis in axes:
        wide = balanced(trials, axis)
        if wide.empty:
            continue
        reference = axis.values[0]
        scenarios = wide.groupby(level=["scenario", "label", "attack"])
        means, sizes = scenarios.agg(fmean), scenarios.size()  # exactly rounded, as everywhere
        for label, part in [("", means), *means.groupby(level="label", sort=False)]:
            attacks = part.index.get_level_values("attack").tolist()
            size = int(sizes[part.index].sum())
            for metric, value in itertools.product(METRICS, axis.values):
                level = estimate(part[metric, value].tolist(), attacks)
                if level.low is not None and level.high is not None:
                    level = replace(level, low=max(0.0, level.low), high=min(1.0, level.high))
                gap = None
                if value != reference:
                    gaps = part[metric, value] - part[metric, reference]
                    gap = estimate(gaps.tolist(), attacks)
                row = Marginal(axis.name, value, metric, str(label), level, gap, size, reference)
                found.append(row)
    return found


MOST_PERMUTATIONS, FEWEST_PERMUTATIONS = 999, 199
BINS = 4  # of a sampled axis
_WORK = 4e6  # values that are moved at once, for each axis


@dataclass(frozen=True)
class MainEffect:
    """The main effect of an axis on the settings' means over scenarios."""

    axis: str
    size: float  # sd over the axis's values of the mean that each reaches; the objective's unit
    p_value: float  # of the permutation test, adjusted for the number of axes by Holm's method

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
        MainEffect(axis.name, size, p)
        for axis, (size, _), p in zip(axes, found, adjusted, strict=True)
    ]


def _effect(block: Block, axis: SettingAxis, axes: Sequence[SettingAxis]) -> tuple[float, float]:
    """Return the size of an axis's effect, and its p before any adjustment."""
    settings = [dict(setting) for setting in block.settings]
    levels = np.array([axis.values.index(setting[axis.name]) for setting in settings])
    others = [other.name for other in axes if other.name != axis.name]
    alike = grouped(range(len(settings)), lambda n: tuple(settings[n][name] for name in others))
    matched = [members for members in alike.values() if len(members) > 1]
    values = block.values
    if 2 * sum(map(len, matched)) < len(settings):
        matched = [list(range(len(settings)))]
        values = values.mean(axis=0, keepdims=True)
        levels = _binned(levels) if axis.numeric else levels
    by_size = [np.array(groups) for _, groups in sorted(grouped(matched, len).items())]
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


class Part(NamedTuple):
    """A part of the variance, with the middle 95 % over resamples; None where there are too few."""

    factors: tuple[str, ...]  # one: a main effect; two: an interaction; none: all that is left
    share: float  # of the whole variance, in [0, 1]
    low: float | None
    high: float | None


def decompose(block: Block, axes: Sequence[SettingAxis]) -> list[Part]:
    """Return the main effects, interactions of two, and the rest; nothing without variance.

    `block` must be whole, and its settings the full product of `axes`; see `as_grid`.
    """
    grid = as_grid(block, axes)
    if grid is None or not float(grid.var()) > _TINY:
        return []
    names = (SCENARIOS, *(axis.name for axis in axes))
    places = range(len(names))
    sets = [*itertools.combinations(places, 1), *itertools.combinations(places, 2)]
    drawn = (grid[rows] for rows in resampled(_attacks(block), VARIANCE_RESAMPLES))
    draws = [_shares(sample, sets) for sample in drawn if float(sample.var()) > _TINY]
    return [
        Part(tuple(names[p] for p in chosen), share, *bar([draw[n] for draw in draws], share))
        for n, (chosen, share) in enumerate(zip([*sets, ()], _shares(grid, sets), strict=True))
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
    settings = map(dict, block.settings)
    places = {tuple(s[axis.name] for axis in axes): place for place, s in enumerate(settings)}
    points = [*itertools.product(*(axis.values for axis in axes))]
    if places.keys() != set(points):
        return None
    return block.values[:, [places[point] for point in points]].reshape(-1, *sizes)


def _attacks(block: Block) -> list[str]:
    return [scenario.family.attack for scenario in block.scenarios]


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


class Importance(NamedTuple):
    """One axis by one measure, with the middle 95 % over resamples; None where there are none."""

    axis: str
    measure: str
    share: float  # of all axes' main effects by this measure, in [0, 1]
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
    for measure, shares_of in _measures(block, axes, maximise=maximise).items():
        shares = shares_of(block.values)
        if shares is None:
            continue
        samples = resampled(_attacks(block), IMPORTANCE_RESAMPLES[measure])
        draws = [drawn for rows in samples if (drawn := shares_of(block.values[rows])) is not None]
        for name, share in shares.items():
            low, high = bar([drawn[name] for drawn in draws], share)
            found.append(Importance(name, measure, share, low, high, len(draws)))
    return found


def present(block: Block, axes: Sequence[SettingAxis]) -> list[SettingAxis]:
    """Return the axes with the values that the block's settings have, if there are several."""
    there = {pair for setting in block.settings for pair in setting}
    found = [replace(a, values=[v for v in a.values if (a.name, v) in there]) for a in axes]
    return [axis for axis in found if len(axis.values) > 1]


def _measures(
    block: Block, axes: Sequence[SettingAxis], *, maximise: bool
) -> dict[str, Callable[[Floats], Shares | None]]:
    """Return functions from values ``[scenarios, settings]`` to the axes' shares.

    They return None where the settings' means over scenarios do not differ.
    """
    from orchestrator.search.importance import axis_importances

    names = [axis.name for axis in axes]
    numeric = {axis.name for axis in axes if axis.numeric}
    points = [
        {name: float(s[name]) if name in numeric else s[name] for name in names}
        for s in map(dict, block.settings)
    ]

    def by_optuna(name: Literal["fanova", "ped_anova"]) -> Callable[[Floats], Shares | None]:
        def shares_of(values: Floats) -> Shares | None:
            means = values.mean(axis=0)
            if not float(means.var()) > _TINY:
                return None
            found = axis_importances(name, points, means.tolist(), maximise=maximise)
            return {name: found[name] for name in names}

        return shares_of

    def exact(values: Floats) -> Shares | None:
        means = Block(block.scenarios[:1], block.settings, values.mean(axis=0, keepdims=True))
        grid = as_grid(means, axes)
        if grid is None or not float(grid.var()) > _TINY:
            return None
        shares = _shares(grid, [(place + 1,) for place in range(len(axes))])[:-1]
        if not sum(shares) * float(grid.var()) > _TINY:
            return None  # only interactions
        return {n: share / sum(shares) for n, share in zip(names, shares, strict=True)}

    measures: dict[str, Callable[[Floats], Shares | None]] = {}
    if as_grid(block, axes) is not None:
        measures[EXACT] = exact
    measures[FANOVA] = by_optuna("fanova")
    if len(block.settings) >= FEWEST_FOR_PED_ANOVA:
        measures[PED_ANOVA] = by_optuna("ped_anova")
    return measures
