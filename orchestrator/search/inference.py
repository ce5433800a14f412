"""Intervals, tests and resamples whose sample is the attacks, where there are several.

Trained victims of one attack resemble each other, so their number says little about attacks
that were not tried: with several attacks, the sample is the attacks' means. With a single
attack it is the victims, and every text says that it is about them only.
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist, fmean, stdev

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
_TINY = 1e-12  # a standard error of nothing but rounding
LEVEL = 1 - CONFIDENCE  # of a test
FEWEST = 3  # attacks, or victims of a single attack, that are worth resampling


@dataclass(frozen=True, kw_only=True)
class MeanEstimate:
    """A mean, with Student's confidence interval and test.

    Attributes:
        mean: Of the attacks' means where there are several attacks, else of the scenarios.
        low, high: Of the 95 % confidence interval; None for a sample of one, and where all values
            are equal and not 0.
        p: Two-sided, for a mean of 0; None for a sample of one, 1 where all values are equal.
        attacks: How many there are.
        scenarios: How many there are.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    attacks: int
    scenarios: int

    @property
    def sample(self) -> str:
        """What the interval and the test are over, in words."""
        return sample_text(self.attacks, self.scenarios)


def sample_text(attacks: int, scenarios: int) -> str:
    """Return what an interval over so many attacks and scenarios is over."""
    if attacks > 1:
        return f"over {attacks} attacks' means"
    if scenarios > 1:
        return f"over {scenarios} trained victims of one attack, not over attacks"
    return "of a single scenario"


def estimate(values: Sequence[float], attacks: Sequence[Hashable]) -> MeanEstimate:
    """Return the mean of one value per scenario, given each scenario's attack.

    Raises:
        ValueError: There is no value.
    """
    groups: dict[Hashable, list[float]] = {}
    for value, attack in zip(values, attacks, strict=True):
        groups.setdefault(attack, []).append(value)
    sample = [fmean(group) for group in groups.values()] if len(groups) > 1 else list(values)
    if not sample:
        raise ValueError("an estimate needs at least one value")
    mean = fmean(sample)
    low = high = p = None
    if len(sample) > 1:
        from scipy.special import stdtr, stdtrit

        freedom, error = len(sample) - 1, stdev(sample) / sqrt(len(sample))
        p = 1.0
        if error > _TINY:
            reach = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * error
            low, high = mean - reach, mean + reach
            p = 2 * float(stdtr(freedom, -abs(mean) / error))
        elif abs(mean) <= _TINY:
            low = high = 0.0
        # else equal values by chance, which say nothing of the spread that others would have
    return MeanEstimate(
        mean=mean, low=low, high=high, p=p, attacks=len(groups), scenarios=len(values)
    )


def holm(values: Sequence[float]) -> list[float]:
    """Return p-values adjusted by Holm's step-down method, in the order given.

    Source: S. Holm, A simple sequentially rejective multiple test procedure, 1979.
    """
    adjusted = [1.0] * len(values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        largest = max(largest, min(1.0, (len(values) - rank) * values[place]))
        adjusted[place] = largest
    return adjusted


def resampled(attacks: Sequence[Hashable], times: int) -> list[list[int]]:
    """Return bootstrap samples of scenarios, as places in `attacks`; always the same ones.

    With several attacks, attacks are drawn with replacement and then, within each of them,
    its scenarios. Nothing is returned for two attacks, or for fewer than three scenarios of a
    single one: their resamples say nothing.
    """
    groups: dict[Hashable, list[int]] = {}
    for place, attack in enumerate(attacks):
        groups.setdefault(attack, []).append(place)
    members = list(groups.values())
    if (len(members) if len(members) > 1 else len(attacks)) < FEWEST:
        return []
    random = np.random.default_rng(0)
    samples = []
    for _ in range(times):
        drawn = [members[group] for group in random.integers(len(members), size=len(members))]
        samples.append(
            [rows[n] for rows in drawn for n in random.integers(len(rows), size=len(rows))]
        )
    return samples


EXACT_UNTIL = 50  # pairs; beyond, SciPy takes the normal approximation


def signed_rank_p(differences: NDArray[np.float64]) -> float:
    """Return the p-value of Wilcoxon's signed-rank test that differences are below 0.

    It is SciPy's ``wilcoxon(..., alternative="less", zero_method="zsplit")``, exact for up to
    `EXACT_UNTIL` pairs, in a twentieth of the time: the distribution of the rank sum is built
    up rank by rank instead of by all assignments of signs.

    Args:
        differences: Finite, not empty.
    """
    _, places, counts = np.unique(np.abs(differences), return_inverse=True, return_counts=True)
    ranks = (counts.cumsum() - (counts - 1) / 2)[places]  # ties share the mean of their ranks
    above, pairs = ranks[differences > 0].sum(), len(ranks)
    if pairs > EXACT_UNTIL:
        above += ranks[differences == 0].sum() / 2
        mean, tied = pairs * (pairs + 1) / 4, (counts**3 - counts).sum() / 48
        deviation = (mean * (2 * pairs + 1) / 6 - tied) ** 0.5
        return NormalDist(mean, deviation).cdf(above)
    doubled = (2 * ranks[differences != 0]).astype(int)  # whole numbers
    ways = np.zeros(doubled.sum() + 1)
    ways[0] = 1.0
    for rank in doubled:
        ways[rank:] += ways[: len(ways) - rank].copy()
    return float(ways[: int(2 * above) + 1].sum() / ways.sum())


@dataclass(frozen=True, kw_only=True)
class AurocEstimate:
    """An area under the ROC curve.

    Attributes:
        value: Share of pairs of a positive and a negative in which the positive is higher, in
            [0, 1]; an equal pair counts half.
        low, high: Of its 95 % interval.
        positives, negatives: How many there are.
    """

    value: float
    low: float
    high: float
    positives: int
    negatives: int


def auroc(cells: Iterable[tuple[Sequence[float], Sequence[float]]]) -> AurocEstimate | None:
    """Return how well numbers tell positives from negatives; None where there is no pair.

    Pairs are of one cell alone: numbers of different networks or datasets do not compare. The
    interval is Newcombe's (Statistics in Medicine 25, 2006, method 5): the values that a score
    test with the variance of Hanley and McNeil does not reject. It has a width where all pairs
    agree. It takes each as independent of the others, as a sample of the models of these cells.

    Args:
        cells: Of each, its positives and its negatives.
    """
    from scipy.optimize import brentq  # half a second of import, needed here only

    pairs = [(np.asarray(p, float), np.asarray(n, float)) for p, n in cells if len(p) and len(n)]
    if not pairs:
        return None
    signs = [np.sign(p[:, None] - n[None, :]) for p, n in pairs]
    value = float((sum(sign.sum() for sign in signs) / sum(s.size for s in signs) + 1) / 2)
    positives, negatives = (sum(len(cell[side]) for cell in pairs) for side in (0, 1))
    mean, z = (positives + negatives) / 2 - 1, NormalDist().inv_cdf(1 - LEVEL / 2)

    def excess(area: float) -> float:
        spread = 1 + mean * (1 - area) / (2 - area) + mean * area / (1 + area)
        variance = area * (1 - area) * spread / (positives * negatives)
        return abs(value - area) - z * sqrt(variance)

    edge = 1e-12
    low = brentq(excess, 0.0, min(value, 1 - edge)) if value > 0 else 0.0
    high = brentq(excess, max(value, edge), 1.0) if value < 1 else 1.0
    return AurocEstimate(
        value=value,
        low=float(low),
        high=float(high),
        positives=positives,
        negatives=negatives,
    )
