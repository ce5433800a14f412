"""Marginal means: what a value of one axis reaches on average over the other axes.

Only balanced parts of a scenario count: combinations of the other axes that are done at every
value of this one. Otherwise a value whose bad partners were pruned would look good. What
intervals are over is said in `orchestrator.inference`. The intervals of two values do not say
how the values differ, since the same scenarios stand behind both: a difference to the axis's
first value is therefore taken within each scenario.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from orchestrator.inference import estimate
from orchestrator.reporting.axes import Axis
from orchestrator.reporting.naming import Names
from orchestrator.reporting.results import Setting, Trial
from orchestrator.reporting.schema import column_of
from orchestrator.reporting.summary import Outcome

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


def marginals(outcomes: Sequence[Outcome], axes: Sequence[Axis], names: Names) -> list[Marginal]:
    """Return the marginal means of every axis, pooled first, on the report half."""
    groups: dict[str, list[Outcome]] = {"": list(outcomes)}
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


def left_out(outcomes: Iterable[Outcome], axis: Axis) -> int:
    """Return how many done trials have no balanced part to stand in."""
    return sum(
        sum(trial.done for trial in outcome.trials)
        - sum(len(trials) for trials in _balanced(outcome, axis).values())
        for outcome in outcomes
    )


def _of_group(
    axis: Axis, attack: str, parts: Sequence[tuple[str, Mapping[str, Sequence[Trial]]]]
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


def _balanced(outcome: Outcome, axis: Axis) -> dict[str, list[Trial]]:
    """Return a scenario's trials by the axis's value: those of its balanced part."""
    others: dict[Setting, dict[str, Trial]] = {}
    for trial in outcome.trials:
        if trial.done:
            rest = tuple(pair for pair in trial.setting if pair[0] != axis.name)
            others.setdefault(rest, {})[dict(trial.setting)[axis.name]] = trial
    full = [found for found in others.values() if len(found) == len(axis.values)]
    return {value: [found[value] for found in full] for value in axis.values} if full else {}
