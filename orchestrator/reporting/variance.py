"""Exact analysis of variance on a complete grid: where differences between trials come from.

Every trial is one cell of scenario × axis × axis ..., so the decomposition is exact and
assumes no model (Hoeffding; Fisher's ANOVA with one observation per cell).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from orchestrator.inference import resampled
from orchestrator.reporting.axes import Axis
from orchestrator.reporting.blocks import Block, Floats

SCENARIOS = "scenario"
RESAMPLES = 500  # of attacks and their scenarios, for the intervals


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the variance.

    Attributes:
        factors: One for a main effect, two for an interaction, none for all that is left.
        share: Of the whole variance, in [0, 1].
        low, high: The middle 95 % of what resampled attacks and scenarios give (see
            `orchestrator.inference.resampled`); None where there are too few.
    """

    factors: tuple[str, ...]
    share: float
    low: float | None
    high: float | None


def decompose(block: Block, axes: Sequence[Axis]) -> list[Part]:
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


def as_grid(block: Block, axes: Sequence[Axis]) -> Floats | None:
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
    drawn = (grid[rows] for rows in resampled(attacks, RESAMPLES))
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
