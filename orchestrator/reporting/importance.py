"""How much each axis matters, by three measures that answer different questions.

Each is taken of the settings' means over scenarios. The exact ANOVA needs a complete grid;
Optuna's two measures do not. Uncertainty is from resamples, but for fANOVA: as many forests as a
95 % range needs take minutes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from orchestrator.inference import resampled
from orchestrator.reporting.axes import Axis
from orchestrator.reporting.blocks import Block, Floats
from orchestrator.reporting.variance import as_grid, bar

EXACT, FANOVA, PED_ANOVA = "exact ANOVA", "Optuna fANOVA", "Optuna PED-ANOVA"
RESAMPLES = {EXACT: 500, FANOVA: 0, PED_ANOVA: 200}
FEWEST_SETTINGS = 4
FEWEST_FOR_PED_ANOVA = 50  # of which the best tenth are five, as Optuna's documentation asks

Shares = Mapping[str, float]  # by the axis's name


@dataclass(frozen=True, kw_only=True)
class Importance:
    """One axis by one measure.

    Attributes:
        share: Of all axes' main effects by this measure, in [0, 1].
        low, high: The middle 95 % of what resamples give (see `orchestrator.inference`), widened
            to hold the share; None where there are none.
        resamples: How many there were.
    """

    axis: str
    measure: str
    share: float
    low: float | None
    high: float | None
    resamples: int


def importances(block: Block, axes: Sequence[Axis], *, maximise: bool) -> list[Importance]:
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
            for rows in resampled(attacks, RESAMPLES[measure])
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


def present(block: Block, axes: Sequence[Axis]) -> list[Axis]:
    """Return the axes with the values that the block's settings have, if there are several."""
    settings = [dict(setting) for setting in block.settings]
    there = {axis.name: {setting[axis.name] for setting in settings} for axis in axes}
    return [
        replace(axis, values=[value for value in axis.values if value in there[axis.name]])
        for axis in axes
        if len(there[axis.name]) > 1
    ]


def _measures(
    block: Block, axes: Sequence[Axis], *, maximise: bool
) -> dict[str, Callable[[Floats], Shares | None]]:
    from orchestrator.search import axis_importances

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


def _point(setting: Sequence[tuple[str, str]], axes: Sequence[Axis]) -> dict[str, float | str]:
    chosen = dict(setting)
    return {a.name: float(chosen[a.name]) if a.numeric else chosen[a.name] for a in axes}


def _exact(block: Block, axes: Sequence[Axis], values: Floats) -> Shares | None:
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
