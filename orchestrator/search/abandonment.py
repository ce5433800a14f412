"""How often Wilcoxon's pruner abandons a setting that is as good as the best of its grid.

``p_threshold`` is the error rate of one test of one fixed pair. A study looks after each
scenario, and compares with the best setting so far, which is the luckiest of several. So
the rate of a whole grid is simulated: studies in which all settings are equally good are made
up, and the pruner's rule is applied to all of them at once.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from math import floor, inf, log2
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

EXACT_UNTIL = 50  # pairs; beyond, SciPy takes the normal distribution
COMMON = 0.5  # of a difference's variance that the seeds of an attack share, where they agree
MOST_SETTINGS, MOST_SCENARIOS = 100, 500  # simulated; a larger grid's rates are higher
MOST_STUDIES, FEWEST_STUDIES = 1000, 20
_WORK = 4e8  # pairs compared: less than a second


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What a pruner does where all settings are equally good.

    Attributes:
        abandoned: Share of the settings that it abandons, the first left out: it has no rival.
        lost: Share of the studies in which it abandons the setting with the best mean over
            all scenarios.
        studies: How many were simulated.
    """

    abandoned: float
    lost: float
    studies: int


def forecast(settings: int, families: Iterable[Hashable], arguments: Mapping[str, Any]) -> str:
    """Return, in one sentence, what the pruner does in a grid of equally good settings.

    Args:
        settings: How many there are.
        families: Of each scenario, everything but the seed.
        arguments: ``p_threshold`` and ``n_startup_steps`` of the pruner.
    """
    sizes = tuple(Counter(families).values())
    fewest = fewest_scenarios(**arguments)
    if sum(sizes) < fewest:
        return (
            f"the pruner of settings has no effect: it needs {fewest:.0f} scenarios to abandon "
            f"one, and there are {sum(sizes)}"
        )
    if settings < 2:
        return "the pruner of settings has no effect: there is nothing to compare"
    shared = (0.0, COMMON) if len(sizes) < sum(sizes) else (0.0,)
    cases = [simulate(settings, sizes, arguments, common) for common in shared]
    rates = sorted(case.abandoned for case in cases)
    rate = " to ".join(dict.fromkeys(f"{100 * rate:.0f}" for rate in rates))
    capped = settings > MOST_SETTINGS or sum(sizes) > MOST_SCENARIOS
    lost = 100 * max(case.lost for case in cases)
    return (
        f"if all {settings} settings were equally good, the pruner would abandon "
        f"{'at least ' if capped else ''}{rate} % of them, and the one with the best mean in "
        f"{lost:.0f} % of studies ({cases[0].studies} simulated)"
    )


def fewest_scenarios(p_threshold: float, n_startup_steps: int) -> float:
    """Return how many scenarios it takes to abandon a setting that is the worse one in all.

    The least p of n pairs is 2 to the power of -n: 0.031 of five, 0.0078 of seven.
    """
    pairs = floor(-log2(p_threshold)) + 1 if p_threshold > 0 else inf
    return max(2, n_startup_steps, pairs)


def simulate(
    settings: int, families: tuple[int, ...], arguments: Mapping[str, Any], common: float = 0.0
) -> Rates:
    """Return the rates of a grid whose settings are all equally good; always the same.

    Args:
        settings: How many.
        families: Number of seeds of each; they take turns, as in a plan.
        arguments: Of the pruner.
        common: Share of a value's variance, scenarios' levels apart, that a family's seeds share.
    """
    turns = [(seed, family) for family, size in enumerate(families) for seed in range(size)]
    turns = sorted(turns)[:MOST_SCENARIOS]
    settings = min(settings, MOST_SETTINGS)
    work = settings * len(turns) ** 2
    studies = int(np.clip(_WORK / work, FEWEST_STUDIES, MOST_STUDIES))
    random = np.random.default_rng(0)
    shared = random.normal(size=(studies, settings, len(families)))
    own = random.normal(size=(studies, settings, len(turns)))
    of_family = shared[:, :, [family for _, family in turns]]
    values = common**0.5 * of_family + (1 - common) ** 0.5 * own
    gone = decided_after(values, **arguments) > 0
    best = values.mean(axis=2).argmax(axis=1)
    return Rates(
        abandoned=float(gone[:, 1:].mean()),
        lost=float(gone[np.arange(studies), best].mean()),
        studies=studies,
    )


def decided_after(values: Floats, p_threshold: float, n_startup_steps: int) -> Ints:
    """Return when Optuna's ``WilcoxonPruner`` abandons settings, many studies at once.

    The rule is Optuna's: after each scenario, the one-sided signed-rank test of the pairs with
    the best complete setting so far, from `n_startup_steps` pairs on; never where the mean so
    far is not below that setting's.

    Args:
        values: ``[studies, settings, scenarios]``, both in the order of decisions, more is
            better; no two values of a scenario are equal.
        p_threshold: Above which a setting stays.
        n_startup_steps: Pairs before the first look.

    Returns:
        ``[studies, settings]``: after how many scenarios; 0 of a setting that stays.
    """
    studies, settings, scenarios = values.shape
    limits = _limits(scenarios, p_threshold)
    first = max(2, n_startup_steps)
    everyone = np.arange(studies)
    after = np.zeros((studies, settings), dtype=np.int64)
    means = values.mean(axis=2)
    best = np.zeros(studies, dtype=int)
    for setting in range(1, settings):
        own, rival = values[:, setting], means[everyone, best]
        pairs = own - values[everyone, best]
        so_far = own.cumsum(axis=1) / np.arange(1, scenarios + 1)
        ranks = np.zeros(studies)  # sum of those of positive differences
        for seen in range(1, scenarios + 1):
            ranks += (pairs[:, :seen] > -pairs[:, seen - 1 : seen]).sum(axis=1)
            if seen >= first:
                decided = (ranks <= limits[seen]) & (so_far[:, seen - 1] < rival)
                after[decided & (after[:, setting] == 0), setting] = seen
        better = (after[:, setting] == 0) & (means[:, setting] > rival)
        best[better] = setting
    return after


def _limits(most: int, p_threshold: float) -> Floats:
    """Return, by number of pairs, the largest rank sum whose p is below the threshold, or -1.

    Exact for few pairs, as in SciPy: half of the subsets of ranks have the latest rank in them.
    """
    limits = np.full(most + 1, -1.0)
    shares = np.ones(1)  # of the subsets of ranks, by their sum
    for pairs in range(1, most + 1):
        if pairs <= EXACT_UNTIL:
            without = np.pad(shares, (0, pairs))
            shares = (without + np.roll(without, pairs)) / 2
            limits[pairs] = np.searchsorted(shares.cumsum(), p_threshold) - 1
        else:
            from scipy.special import ndtri  # half a second of import

            mean = pairs * (pairs + 1) / 4
            deviation = (mean * (2 * pairs + 1) / 6) ** 0.5
            limits[pairs] = np.ceil(mean + deviation * ndtri(p_threshold)) - 1
    return limits
