"""The flag of phase 1 on examples worked by hand."""

from dataclasses import replace
from math import inf, nan
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.ulrl_tests.ascents import AFTER, BEFORE, ELSEWHERE, Rows, ascent_of, scored
from ulrl.hyperparameters import assemble
from ulrl.layers import Layers
from ulrl.scoring import (
    ScoreConfig,
    SuspectOrder,
    SuspectRule,
    ThresholdScale,
    ZeroMAD,
    modified_z,
    pick_suspects,
    score_neurons,
)
from ulrl.unlearning import Ascent

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
    assert flag(OFFICIAL, [10, 10, 10, 0.1]) == ()  # -inf


def test_the_cap_keeps_the_largest_z_and_of_infinite_ones_the_largest_shifts() -> None:
    """In one layer both orders are the same; of several, a small layer's outlier may win."""
    shift, z = torch.tensor([5.0, 90.0, 0.1, 80.0]), torch.tensor([9.0, 4.0, 8.0, 3.0])
    two = ScoreConfig(max_suspects=2)
    assert pick_suspects(two, shift, z) == (0, 2)
    assert pick_suspects(two, shift, torch.tensor([inf, 4.0, inf, inf])) == (0, 3)


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


def heads(rows: int) -> Ascent:
    """An ascent of a head whose last row moves furthest."""
    after: Rows = {"head.weight": [[float(row) ** 2] for row in range(rows)]}
    return ascent_of({"head.weight": [[0.0]] * rows}, after, accuracy=(0.0,))


@pytest.mark.parametrize("preset", [DEFAULT, OFFICIAL])
def test_two_classes_have_no_outlier(preset: ScoreConfig) -> None:
    """Whatever the scores are, z of the larger is the same: the rule does not see them."""
    draws = torch.rand(200, 2, generator=torch.Generator().manual_seed(0)).exp().exp()
    z = {round(float(modified_z(pair, preset.zero_mad)[pair.argmax()]), 4) for pair in draws}
    assert z == ({1.5958} if preset is DEFAULT else {inf})
    with pytest.raises(ValueError, match="suspect_rule outlier cannot answer for 2 classes"):
        score_neurons(preset, heads(2))


@pytest.mark.parametrize(
    ("way_out", "suspects"),
    [
        ({"suspect_rule": "largest", "suspect_share": 0.5}, (1,)),
        ({"max_suspects": 0}, ()),
        ({"mad_epsilon": 0.1}, (1,)),  # an absolute limit: 1 / (1.4826 × 0.1) is 6.7
        ({"mad_epsilon": 1.0}, ()),
    ],
)
def test_two_classes_have_ways_out(way_out: dict[str, Any], suspects: tuple[int, ...]) -> None:
    assert score_neurons(assemble(way_out).score, heads(2)).suspects == suspects


@pytest.mark.parametrize(
    ("rows", "share", "least"),
    [(2, 0.15, "0.25"), (3, 0.15, "0.17"), (10, 0.04, "0.05"), (10, 0.0, "0.05")],
)
def test_a_share_of_less_than_half_a_row_is_refused(rows: int, share: float, least: str) -> None:
    config = ScoreConfig(suspect_rule=SuspectRule.LARGEST, suspect_share=share)
    with pytest.raises(ValueError, match=f"suspect_share {share} of {rows} .*; from {least} on"):
        score_neurons(config, heads(rows))
    enough = ScoreConfig(suspect_rule=SuspectRule.LARGEST, suspect_share=float(least))
    assert score_neurons(enough, heads(rows)).suspects == (rows - 1,)


def test_an_ascent_that_diverged_ended_in_no_class() -> None:
    ascent = replace(heads(4), predicted=torch.zeros(1, 4, dtype=torch.int64))
    scores = score_neurons(DEFAULT, ascent)
    assert (scores.collapse_class, scores.collapse_share) == (None, None)


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
    assert scores.predicted.tolist() == [2, 8]  # of the second epoch
    assert (scores.collapse_class, scores.collapse_share) == (1, 0.8)


def test_the_threshold_picks_the_snapshot() -> None:
    before = {"head.weight": [[0.0, 0.0]] * 3}
    epochs = [{"head.weight": [[float(epoch)] * 2] * 3} for epoch in (1, 2, 3)]
    ascent = ascent_of(before, *epochs, accuracy=(0.9, 0.5, 0.2))
    for threshold, epoch in ((0.9, 1), (0.6, 2), (0.5, 2), (0.2, 3)):
        scores = score_neurons(ScoreConfig(unlearn_threshold=threshold), ascent)
        assert (scores.stop_epoch, scores.shift.tolist()) == (epoch, [2.0 * epoch] * 3)
        assert scores.stop_accuracy == ascent.accuracy[epoch - 1]


# What makes a neuron suspicious, with the switches thrown, on examples worked by hand.


@pytest.mark.parametrize(
    ("config", "shift"),
    [
        ({"score_bias": True}, [6, 6, 3, 6, 30]),
        ({"score": "l2"}, [1, 2**0.5, 4.5**0.5, 8**0.5, 500**0.5]),
        ({"score": "l2", "score_bias": True}, [26**0.5, 18**0.5, 4.5**0.5, 12**0.5, 500**0.5]),
        # sums of absolute weights: 2 2 6 2 1, with biases 2 3 7 4 1
        ({"score": "relative"}, [0.5, 1, 0.5, 2, 30]),
        ({"score": "relative", "score_bias": True}, [3, 2, 3 / 7, 1.5, 30]),
    ],
)
def test_other_scores(config: dict[str, Any], shift: list[float]) -> None:
    scores = scored(**config)
    assert scores.shift.tolist() == pytest.approx(shift)
    assert scores.suspects == (4,)
    # What is re-initialised goes by the weights that moved, whatever the score.
    assert scores.movement["head.weight"].tolist() == [[20, 10]]


def test_a_row_that_was_all_zero_moved_infinitely_by_its_own_measure() -> None:
    before = {"head.weight": [[0.0], [1.0], [1.0], [0.0]]}
    after = {"head.weight": [[1.0], [2.0], [3.0], [0.0]]}
    ascent = ascent_of(before, after, accuracy=(0.0,))
    scores = score_neurons(assemble({"score": "relative"}).score, ascent)
    assert scores.shift[:3].tolist() == [inf, 1, 2]
    assert bool(scores.shift[3].isnan())  # 0 / 0
    assert scores.suspects == ()


@pytest.mark.parametrize(
    ("epsilon", "z"),
    # median 3, MAD 1
    [(0.0, 27 / 1.4826), (1.0, 27 / (2 * 1.4826)), (9.0, 27 / (10 * 1.4826))],
)
def test_epsilon_is_added_to_the_mad(epsilon: float, z: float) -> None:
    scores = scored(mad_epsilon=epsilon)
    assert scores.z[4].item() == pytest.approx(z)
    assert scores.suspects == ((4,) if z > 3.5 else ())


@pytest.mark.parametrize("zero_mad", list(ZeroMAD))
def test_with_epsilon_no_mad_is_zero(zero_mad: ZeroMAD) -> None:
    shift = torch.tensor([1.0, 1, 1, 1, 5])
    z = modified_z(shift, zero_mad, 0.5)
    assert z.tolist() == pytest.approx([0, 0, 0, 0, 4 / (1.4826 * 0.5)])


@pytest.mark.parametrize(
    ("threshold", "classes", "stop"),
    [(0.0, 10, 0.1), (1.0, 10, 1.0), (0.5, 10, 0.55), (0.0, 43, 1 / 43), (0.2, 2, 0.6)],
)
def test_above_chance(threshold: float, classes: int, stop: float) -> None:
    config = ScoreConfig(unlearn_threshold=threshold, threshold_scale=ThresholdScale.ABOVE_CHANCE)
    assert config.stop_at(classes) == pytest.approx(stop, rel=1e-12)
    assert ScoreConfig(unlearn_threshold=threshold).stop_at(classes) == threshold


def test_chance_is_counted_in_the_heads_rows() -> None:
    """Of five classes 0.2 is chance, so an accuracy of 0.2 is reached by a threshold of 0."""
    ascent = ascent_of(BEFORE, ELSEWHERE, AFTER, accuracy=(0.9, 0.2))
    values = {"unlearn_threshold": 0.0, "threshold_scale": "above_chance"}
    assert score_neurons(assemble(values).score, ascent).threshold_reached
    del values["threshold_scale"]
    assert not score_neurons(assemble(values).score, ascent).threshold_reached


@pytest.mark.parametrize(
    ("config", "suspects"),
    [
        ({}, ()),  # 0.15 of five is 0.75, rounded 1, but by z nothing is flagged
        ({"suspect_rule": "largest"}, (3,)),
        ({"suspect_rule": "largest", "suspect_share": 0.0}, ()),
        ({"suspect_rule": "largest", "suspect_share": 0.5}, (2, 3)),  # 2.5: three, capped
        ({"suspect_rule": "largest", "suspect_share": 0.5, "max_suspects": None}, (0, 2, 3)),
        ({"suspect_rule": "largest", "suspect_share": 1.0, "suspect_order": "index"}, (0, 1)),
        ({"suspect_rule": "largest", "suspect_share": 1.0, "max_suspects": 0}, ()),
    ],
)
def test_the_largest_share(config: dict[str, Any], suspects: tuple[int, ...]) -> None:
    """Neuron 0 ties with 1 and stands before it."""
    assert flag(assemble(config).score, [2, 2, 4, 5, 1]) == suspects


def test_what_is_no_number_is_never_among_the_largest() -> None:
    config = assemble({"suspect_rule": "largest", "suspect_share": 0.5, "max_suspects": None})
    assert flag(config.score, [1, nan, inf, 3, nan, 2]) == (2, 3, 5)
    assert flag(config.score, [nan, nan, nan, 3, nan, nan]) == (3,)


def test_no_cap() -> None:
    shift = [5, 1.1, 1.2, 1.3, 1, 1.15, 9, 1.25, 1.05, 30]
    for order in SuspectOrder:
        assert flag(ScoreConfig(max_suspects=None, suspect_order=order), shift) == (0, 6, 9)


def test_ranks() -> None:
    """The head's rows are the last four of six: 3 1 3 2."""
    scores = replace(scored(), sizes=(2, 4), shift=torch.tensor([9.0, 9, 3, 1, 3, 2]))
    assert [scores.rank(row) for row in range(4)] == [1, 4, 1, 3]
    for value in (nan, inf):
        lost = replace(scores, shift=torch.tensor([9.0, 9, 3, 1, value, 2]))
        assert [lost.rank(row) for row in range(4)] == [None] * 4


@pytest.mark.parametrize(
    ("config", "layers", "rows"),
    [
        (
            {"suspect_rule": "largest", "suspect_share": 0.25, "max_suspects": None},
            "head",
            3,
        ),  # 2.5
        ({"suspect_rule": "largest", "suspect_share": 1.0, "max_suspects": 4}, "head", 4),
        ({"suspect_rule": "largest", "suspect_share": 0.2, "max_suspects": 4}, "head", 2),
        ({"suspect_rule": "largest", "suspect_share": 1.0, "max_suspects": None}, "all", 0),
        ({"suspect_rule": "outlier", "suspect_share": 1.0, "max_suspects": None}, "head", 0),
    ],
)
def test_rows_that_are_flagged_whatever_their_scores(
    config: dict[str, Any], layers: str, rows: int
) -> None:
    assert assemble(config).score.certain(10, Layers(layers)) == rows
