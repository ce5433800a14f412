"""The flag of phase 1 on examples worked by hand."""

from math import inf, nan

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.ulrl_tests.ascents import ascent_of, scored
from ulrl.scoring import (
    ScoreConfig,
    SuspectOrder,
    ZeroMAD,
    modified_z,
    pick_suspects,
    score_neurons,
)

OFFICIAL = ScoreConfig(suspect_order=SuspectOrder.INDEX, zero_mad=ZeroMAD.INFINITE)
DEFAULT = ScoreConfig()
MANY = ScoreConfig(max_suspects=100)


def flag(config: ScoreConfig, shift: list[float]) -> tuple[int, ...]:
    scores = torch.tensor(shift, dtype=torch.float32)
    return pick_suspects(config, scores, modified_z(scores, config.zero_mad))


def z_of(shift: list[float], zero_mad: ZeroMAD = ZeroMAD.MEAN_DEVIATION) -> list[float]:
    values: list[float] = modified_z(torch.tensor(shift, dtype=torch.float32), zero_mad).tolist()
    return values


def test_z_of_an_odd_number_of_rows() -> None:
    # median 3; |c - 3| = 2 1 0 1 7, sorted 0 1 1 2 7, so MAD 1 and z = (c - 3) / 1.4826
    expected = [-2 / 1.4826, -1 / 1.4826, 0, 1 / 1.4826, 7 / 1.4826]
    assert z_of([1, 2, 3, 4, 10]) == pytest.approx(expected, rel=1e-6)


def test_medians_of_an_even_number_of_rows_are_the_lower_middle() -> None:
    # median of 1 2 3 10 is 2, not 2.5; |c - 2| = 1 0 1 8, sorted 0 1 1 8, MAD 1
    assert z_of([1, 2, 3, 10]) == pytest.approx([-1 / 1.4826, 0, 1 / 1.4826, 8 / 1.4826], rel=1e-6)
    # |c - 2| = 1 0 2 8: the middle pair is 1 and 2, MAD the lower of them
    assert z_of([1, 2, 4, 10])[3] == pytest.approx(8 / 1.4826, rel=1e-6)


def test_cap_by_score_and_by_index() -> None:
    # Sorted: 1 1.05 1.1 1.15 1.2 | 1.25 1.3 5 9 30: median 1.2. Deviations sorted:
    # 0 .05 .05 .1 .1 | .15 .2 3.8 7.8 28.8: MAD 0.1. z of 1.3 is 0.67, of rows 0, 6 and 9
    # it is 25.6, 52.6 and 194.3.
    shift = [5, 1.1, 1.2, 1.3, 1, 1.15, 9, 1.25, 1.05, 30]
    assert flag(MANY, shift) == (0, 6, 9)
    assert flag(OFFICIAL, shift) == (0, 6)  # row 9, the largest, is dropped
    assert flag(DEFAULT, shift) == (6, 9)
    assert flag(ScoreConfig(max_suspects=1), shift) == (9,)
    assert flag(ScoreConfig(max_suspects=1, suspect_order=SuspectOrder.INDEX), shift) == (0,)
    assert flag(ScoreConfig(max_suspects=0), shift) == ()


def test_z_must_be_above_the_limit() -> None:
    shift = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    limit = torch.tensor(3.5)
    above = torch.nextafter(limit, torch.tensor(inf))
    assert pick_suspects(MANY, shift, torch.stack([limit * 0] * 3 + [limit, above])) == (4,)


def test_shift_must_be_above_the_median() -> None:
    assert flag(MANY, [10, 10.1, 9.9, 10.05, 0.1]) == ()  # |z| of the last is 66
    large = torch.full((5,), 9.0)
    assert pick_suspects(MANY, torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]), large) == (3, 4)


@pytest.mark.parametrize("order", list(SuspectOrder))
def test_equal_scores_keep_the_order_of_the_rows(order: SuspectOrder) -> None:
    # median 1, |c - 1| = .1 0 8 .1 .2 8 .1 8 0 .2, sorted 0 0 .1 .1 .1 | ..., MAD 0.1
    shift = [1.1, 1, 9, 0.9, 1.2, 9, 0.9, 9, 1, 0.8]
    assert flag(ScoreConfig(max_suspects=3, suspect_order=order), shift) == (2, 5, 7)
    assert flag(ScoreConfig(max_suspects=2, suspect_order=order), shift) == (2, 5)
    assert flag(ScoreConfig(max_suspects=1, suspect_order=order), shift) == (2,)


def test_zero_mad_by_the_mean_deviation() -> None:
    # median 1, MAD 0, mean deviation 4 / 5: z = 4 / (1.253314 * 0.8) = 3.9894
    assert z_of([1, 1, 1, 1, 5]) == pytest.approx([0, 0, 0, 0, 4 / (1.253314 * 0.8)])
    assert flag(DEFAULT, [1, 1, 1, 1, 5]) == (4,)
    # deviations 0 0 0 1 4, mean 1: z = 1 / 1.253314 and 4 / 1.253314 = 3.19, below 3.5
    assert z_of([1, 1, 1, 2, 5])[3:] == pytest.approx([1 / 1.253314, 4 / 1.253314])
    assert flag(DEFAULT, [1, 1, 1, 2, 5]) == ()


def test_zero_mad_in_the_official_code() -> None:
    z = z_of([1, 1, 1, 2, 5, 0, 1], ZeroMAD.INFINITE)
    assert torch.tensor(z[:3]).isnan().all()
    assert z[3:6] == [inf, inf, -inf]
    assert flag(OFFICIAL, [1, 1, 1, 2, 5, 0, 1]) == (3, 4)
    assert flag(OFFICIAL, [1, 1, 1, 2, 5, 1, 9]) == (3, 4)  # the cap, by index


@pytest.mark.parametrize("config", [DEFAULT, OFFICIAL])
@pytest.mark.parametrize(
    "shift",
    [
        [2.0] * 10,
        [0.0] * 10,
        [nan] * 10,
        [1.0, 2.0, 3.0, nan, 99.0],
        [inf] * 4,
        [1.0, 1.1, 1.2, 1.3, 1.25],
    ],
    ids=["equal", "zero", "nan", "one nan", "infinite", "no outlier"],
)
def test_nothing_stands_out(config: ScoreConfig, shift: list[float]) -> None:
    assert flag(config, shift) == ()


def test_two_rows() -> None:
    # The lower of two is the median of both, so MAD is 0: z is 1 / (1.253314 / 2) or infinite.
    assert z_of([1, 2]) == pytest.approx([0, 2 / 1.253314])
    assert flag(DEFAULT, [1, 2]) == ()
    assert flag(OFFICIAL, [1, 2]) == (1,)


def test_all_equal_scores_are_zero_by_default_and_undefined_officially() -> None:
    assert z_of([2.0] * 5) == [0.0] * 5
    assert all(z != z for z in z_of([2.0] * 5, ZeroMAD.INFINITE))  # noqa: PLR0124 - NaN


@given(st.lists(st.integers(0, 1000), min_size=3, max_size=40, unique=True))
def test_agrees_with_plain_python(values: list[int]) -> None:
    middle = (len(values) - 1) // 2
    median = sorted(values)[middle]
    mad = sorted(abs(value - median) for value in values)[middle]
    expected = [(value - median) / (1.4826 * mad) for value in values]
    assert z_of([float(value) for value in values]) == pytest.approx(expected, rel=1e-5)


def test_scores_are_the_l1_change_of_the_weights_alone() -> None:
    scores = scored()
    assert scores.shift.tolist() == [1, 2, 3, 4, 30]
    assert scores.z[4].item() == pytest.approx(27 / 1.4826)  # median 3, MAD 1
    assert scores.suspects == (4,)
    assert {name: part.tolist() for name, part in scores.movement.items()} == {
        "head.weight": [[20, 10]]
    }
    assert (scores.stop_epoch, scores.stop_accuracy, scores.threshold_reached) == (2, 0.125, True)
    assert (scores.layers, scores.sizes, scores.places) == (("head",), (5,), (("head", 4),))
    assert torch.equal(scores.head_z, scores.z)


def test_the_threshold_picks_the_snapshot() -> None:
    before = {"head.weight": [[0.0, 0.0]] * 3}
    epochs = [{"head.weight": [[float(epoch)] * 2] * 3} for epoch in (1, 2, 3)]
    ascent = ascent_of(before, *epochs, accuracy=(0.9, 0.5, 0.2))
    for threshold, epoch in ((0.9, 1), (0.6, 2), (0.5, 2), (0.2, 3)):
        scores = score_neurons(ScoreConfig(unlearn_threshold=threshold), ascent)
        assert (scores.stop_epoch, scores.shift.tolist()) == (epoch, [2.0 * epoch] * 3)
        assert scores.stop_accuracy == ascent.accuracy[epoch - 1]
