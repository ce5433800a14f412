"""The table of ULRL's two axes: its spreads and shares, against models whose answer is known."""

import itertools

import numpy as np
import pandas as pd
import pytest

from benchmarks.axes_table import (
    RATIO,
    THRESHOLD,
    VICTIM,
    ascents,
    outcomes,
    removals,
    shares,
    spreads,
)
from orchestrator.plan.columns import DRAW


def trials(values: dict[tuple[float, float, int, int], float]) -> pd.DataFrame:
    rows = [(*place, value) for place, value in values.items()]
    return pd.DataFrame(rows, columns=[THRESHOLD, RATIO, VICTIM, DRAW, "x"])


def test_a_hundred_victims_give_back_the_spreads_they_were_made_with() -> None:
    source = np.random.default_rng(0)
    victims, draws = source.normal(0, 0.2, 400), source.normal(0, 0.1, (400, 3))
    made = {(0.1, 1.0, v, d): victims[v] + draws[v, d] for v in range(400) for d in range(3)}
    assert spreads(trials(made), "x") == pytest.approx((0.2, 0.1), rel=0.1)


def test_what_draws_put_into_victims_means_is_not_the_victims() -> None:
    """By hand: means 0 and 1, variance of draws 2 each; 0.5 - 2 / 2 is below 0."""
    made = {(0.1, 1.0, 0, 0): -1.0, (0.1, 1.0, 0, 1): 1.0}
    made |= {(0.1, 1.0, 1, 0): 0.0, (0.1, 1.0, 1, 1): 2.0}
    assert spreads(trials(made), "x") == pytest.approx((0.0, 2**0.5))


def test_shares_of_a_design_by_hand() -> None:
    """Effects ±3 of the threshold, ±1 of the ratio, ±2 of their product, ±1 of the draw."""
    signs = (-1, 1)
    made: dict[tuple[float, float, int, int], float] = {
        (t, r, 0, d): 3.0 * t + r + 2 * t * r + d
        for t, r, d in itertools.product(signs, signs, signs)
    }
    assert shares(trials(made), "x") == pytest.approx((9 / 15, 1 / 15, 4 / 15))
    assert shares(trials(dict.fromkeys(made, 1.0)), "x") == (0.0, 0.0, 0.0)


def test_removals_and_ascents_are_counted() -> None:
    """An ascent counts once, whatever ratios its repairs have; no removal: ASR 10 %, or a wreck."""
    columns = [THRESHOLD, RATIO, VICTIM, DRAW, "asr_after_report", "flagged", "collapse_class"]
    rows = [
        (0.1, 0.0, 0, 0, 0.9, "[3, 5]", 5),
        (0.1, 1.0, 0, 0, 0.0, "[3, 5]", 5),
        (0.1, 0.0, 1, 0, 0.9, "[]", 3),
        (0.1, 1.0, 1, 0, 0.1, "[]", 3),
        (0.2, 0.0, 0, 0, 0.9, "[4]", 5),
        (0.2, 1.0, 0, 0, 0.05, "[4]", 5),
    ]
    made = pd.DataFrame(rows, columns=columns).assign(attack="sig", target_label=3)
    assert removals(made) == ["0/2", "1/2", "0/1", "1/1"]
    assert removals(made.assign(wrecked=[False, True] * 3)) == ["0/2", "0/2", "0/1", "0/1"]
    assert ascents(made) == ["3", "2", "1", "1", "1"]
    assert removals(made, (THRESHOLD, DRAW)) == ["1/4", "1/2"]
    made = made.assign(acc_before_report=0.7, ra_after_report=made["asr_after_report"] + 0.2)
    made = made.assign(acc_after_report=0.65 - made[THRESHOLD] / 10)
    accuracies = [0.5, 0.11, 0.5, 0.5, 0.5, 0.1]  # of the target's class
    made = made.assign(target_class_acc=accuracies)
    assert outcomes(made) == ["1/1", "1/2", "6.5 (6.0 to 7.0)", "22.5 (20.0 to 25.0)", "1/2"]
    assert outcomes(made.assign(target_class_acc=float("nan")))[-1] == "–"
