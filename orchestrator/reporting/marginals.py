"""Marginal means: what a value of one axis reaches on average over the other axes.

Only balanced parts of a scenario count: combinations of the other axes that are done at every
value of this one. Otherwise a value whose bad partners were pruned would look good. Scenarios
are what varies independently, so they are the sample of each confidence interval.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

from orchestrator.reporting.axes import Axis
from orchestrator.reporting.naming import Names
from orchestrator.reporting.results import Setting, Trial
from orchestrator.reporting.summary import Outcome, column_of

METRICS = ("acc", "asr", "der")
CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Marginal:
    """One value of an axis, over all scenarios or over those of an attack.

    Attributes:
        attack: Empty where all scenarios are pooled.
        mean: Over scenarios, each being a mean over the other axes.
        low, high: Bounds of Student's 95 % confidence interval over scenarios, cut to [0, 1];
            None for a single scenario.
        scenarios: How many there are.
        trials: How many trials they rest on.
    """

    axis: str
    value: str
    metric: str
    attack: str
    mean: float
    low: float | None
    high: float | None
    scenarios: int
    trials: int


def marginals(outcomes: Sequence[Outcome], axes: Sequence[Axis], names: Names) -> list[Marginal]:
    """Return the marginal means of every axis, pooled first, on the report half."""
    groups: dict[str, list[Outcome]] = {"": list(outcomes)}
    for outcome in outcomes:
        groups.setdefault(names.attack(outcome.scenario.family), []).append(outcome)
    found = []
    for axis in axes:
        balanced = {outcome.scenario: _balanced(outcome, axis) for outcome in outcomes}
        for attack, members in groups.items():
            parts = [balanced[m.scenario] for m in members if balanced[m.scenario]]
            if parts:
                found += _of_group(axis, attack, parts)
    return found


def left_out(outcomes: Iterable[Outcome], axis: Axis) -> int:
    """Return how many done trials have no balanced part to stand in."""
    return sum(
        sum(trial.done for trial in outcome.trials)
        - sum(len(trials) for trials in _balanced(outcome, axis).values())
        for outcome in outcomes
    )


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return Student's confidence interval of a mean, None for a single value."""
    if len(values) < 2:
        return None
    from scipy.special import stdtrit

    quantile = float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2))
    reach = quantile * stdev(values) / sqrt(len(values))
    return fmean(values) - reach, fmean(values) + reach


def _of_group(
    axis: Axis, attack: str, parts: Sequence[Mapping[str, Sequence[Trial]]]
) -> list[Marginal]:
    found = []
    for metric in METRICS:
        column = column_of(metric, "report")
        for value in axis.values:
            means = [fmean(trial.numbers[column] for trial in part[value]) for part in parts]
            bounds = interval(means)
            found.append(
                Marginal(
                    axis=axis.name,
                    value=value,
                    metric=metric,
                    attack=attack,
                    mean=fmean(means),
                    low=None if bounds is None else max(0.0, bounds[0]),
                    high=None if bounds is None else min(1.0, bounds[1]),
                    scenarios=len(parts),
                    trials=sum(len(part[value]) for part in parts),
                )
            )
    return found


def _balanced(outcome: Outcome, axis: Axis) -> dict[str, list[Trial]]:
    """Return a scenario's trials by the axis's value: those of its balanced part."""
    others: dict[Setting, dict[str, Trial]] = {}
    for trial in outcome.trials:
        if trial.done:
            rest = tuple(pair for pair in trial.setting if pair[0] != axis.name)
            others.setdefault(rest, {})[dict(trial.setting)[axis.name]] = trial
    full = [found for found in others.values() if len(found) == len(axis.values)]
    return {value: [found[value] for found in full] for value in axis.values} if full else {}
