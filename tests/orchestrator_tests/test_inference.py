"""Intervals, tests and resamples against SciPy, pandas and statsmodels-free formulas."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from orchestrator.search.inference import auroc, estimate, holm, resampled, signed_rank_p

ATTACKS = ["badnets"] * 3 + ["blended"] * 3 + ["sig"] * 3


def spread_around(mean: float, sd: float) -> list[float]:
    """Return three values of that mean and sample standard deviation."""
    return [mean - sd, mean, mean + sd]


# The quickstart's best setting: DER on the report half, three seeds of each attack.
QUICKSTART = [*spread_around(0.935, 0.021), *spread_around(0.703, 0.024)]
QUICKSTART += spread_around(0.760, 0.257)


def test_with_several_attacks_the_sample_is_their_means() -> None:
    """0.500 to 1.099, where nine victims taken as independent give 0.671 to 0.927."""
    found = estimate(QUICKSTART, ATTACKS)
    assert found.mean == pytest.approx(0.799, abs=0.0005)
    assert (found.low, found.high) == pytest.approx((0.500, 1.099), abs=0.0015)
    means = pd.Series(QUICKSTART).groupby(ATTACKS).mean()
    bounds = stats.t.interval(0.95, 2, means.mean(), stats.sem(means))
    assert (found.low, found.high) == pytest.approx(bounds, rel=1e-9)
    assert found.p == pytest.approx(stats.ttest_1samp(means, 0).pvalue, rel=1e-9)
    assert (found.attacks, found.scenarios) == (3, 9)
    assert found.sample == "over 3 attacks' means"


def test_with_one_attack_the_sample_is_its_victims_and_it_says_so() -> None:
    found = estimate(QUICKSTART, ["one"] * 9)
    assert (found.low, found.high) == pytest.approx((0.671, 0.927), abs=0.0005)
    assert found.p == pytest.approx(stats.ttest_1samp(QUICKSTART, 0).pvalue, rel=1e-9)
    assert found.sample == "over 9 trained victims of one attack, not over attacks"


def test_a_single_scenario_has_no_interval() -> None:
    found = estimate([0.5], ["a"])
    assert (found.mean, found.low, found.high, found.p) == (0.5, None, None, None)
    assert found.sample == "of a single scenario"
    with pytest.raises(ValueError, match="at least one value"):
        estimate([], [])


@pytest.mark.parametrize(("value", "ends"), [(0.0, 0.0), (0.25, None), (0.1, None)])
def test_values_without_any_spread_are_no_evidence(value: float, ends: float | None) -> None:
    found = estimate([value] * 3, ["a", "b", "c"])
    assert (found.low, found.high, found.p) == (ends, ends, 1.0)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_against_its_definition(values: list[float]) -> None:
    """A hypothesis falls at a level if all smaller p-values pass their own bounds too."""
    adjusted = holm(values)
    ranked = sorted(values)
    for p, found in zip(values, adjusted, strict=True):
        bounds = [
            (len(values) - place) * smaller for place, smaller in enumerate(ranked) if smaller <= p
        ]
        # Of equal values the first has the largest factor, which the others inherit.
        assert found == pytest.approx(min(1.0, max(bounds)))


def test_resamples_draw_attacks_and_then_their_scenarios() -> None:
    attacks = ["a"] * 2 + ["b"] * 3 + ["c"]
    samples = resampled(attacks, 4000)
    assert samples == resampled(attacks, 4000), "the same each time"
    share: Counter[str] = Counter()
    within: Counter[str] = Counter()
    for rows in samples:
        drawn = Counter(attacks[row] for row in rows)
        # So many whole draws of an attack: its scenarios come in multiples of their number.
        assert all(drawn[name] % attacks.count(name) == 0 for name in drawn)
        assert sum(drawn[name] // attacks.count(name) for name in drawn) == 3
        share.update({name: drawn[name] // attacks.count(name) for name in drawn})
        within["same" if len(set(rows)) < len(rows) else "other"] += 1
    assert all(share[name] / 12000 == pytest.approx(1 / 3, abs=0.02) for name in "abc")
    # All six scenarios at once: each attack drawn (6/27), a's two (1/2), b's three (6/27).
    assert within["other"] / 4000 > 0.01


@pytest.mark.parametrize(
    ("attacks", "enough"),
    [
        (["a", "a"], False),
        (["a"] * 3, True),
        (["a", "a", "b", "b"], False),
        (["a", "b", "c"], True),
    ],
)
def test_too_few_are_not_resampled(attacks: list[str], *, enough: bool) -> None:
    assert bool(resampled(attacks, 5)) is enough


@pytest.mark.parametrize(
    ("pairs", "values"),
    [
        (1, 9),  # of so many distinct values the differences are drawn: many ties and zeros
        (6, 3),
        (13, 5),
        (13, 1000),
        (30, 100_000),  # SciPy takes the exact distribution where there are no ties
        (50, 100_000),
        (51, 7),
        (200, 100_000),
    ],
)
def test_the_signed_rank_test_is_scipys(pairs: int, values: int) -> None:
    random = np.random.default_rng(pairs)
    for shift in (-0.3, -0.05, 0.0, 0.2):
        drawn = (random.integers(1, values + 1, pairs) / values - 0.5 + shift).round(6)
        if pairs in (30, 50):
            drawn = random.permutation(np.arange(1, pairs + 1)) * random.choice([-1, 1, 1], pairs)
        drawn = drawn.astype(float)
        theirs = stats.wilcoxon(drawn, alternative="less", zero_method="zsplit").pvalue
        assert signed_rank_p(drawn) == pytest.approx(float(theirs), rel=1e-9, abs=1e-15)


def test_auroc_by_hand_and_within_cells_only() -> None:
    found = auroc([([3.0, 1.0], [2.0, 0.0])])
    assert found is not None
    assert (found.value, found.positives, found.negatives) == (0.75, 2, 2)
    assert found.low < 0.75 < found.high
    apart = auroc([([3.0], [1.0]), ([103.0], [110.0]), ([5.0], [])])
    assert apart is not None
    assert (apart.value, apart.positives, apart.negatives) == (0.5, 2, 2)
    assert auroc([([1.0, 1.0], [1.0])]).value == 0.5  # type: ignore[union-attr]
    assert auroc([([1.0], [])]) is None


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=12),
    st.lists(st.integers(0, 5), min_size=1, max_size=12),
)
def test_auroc_is_scikit_learns_and_its_interval_holds_it(up: list[int], down: list[int]) -> None:
    found = auroc([(up, down)])
    assert found is not None
    labels = [1] * len(up) + [0] * len(down)
    assert found.value == pytest.approx(roc_auc_score(labels, up + down))
    assert 0 <= found.low <= found.value <= found.high <= 1
    mirrored = auroc([(down, up)])
    assert mirrored is not None
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - found.high, 1 - found.low), abs=1e-6)


def test_the_interval_of_an_auroc_covers_it_about_as_often_as_it_says() -> None:
    source = np.random.default_rng(0)
    truth = stats.norm.cdf(1.2 / np.sqrt(2))
    draws = [
        (source.normal(1.2, 1, 15).tolist(), source.normal(0, 1, 6).tolist()) for _ in range(400)
    ]
    found = [auroc([draw]) for draw in draws]
    covered = np.mean([one.low <= truth <= one.high for one in found if one is not None])
    assert 0.92 <= covered <= 0.985
    perfect = auroc([([1.0] * 15, [0.0] * 3)])
    assert perfect is not None
    assert (perfect.value, perfect.high) == (1.0, 1.0)
    assert 0.5 < perfect.low < 0.9
