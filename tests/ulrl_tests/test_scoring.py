"""The flag of phase 1 on examples worked by hand."""

from dataclasses import replace
from fractions import Fraction
from math import floor, inf, nan, sqrt
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from tests.ulrl_tests.ascents import Rows, ascent_of, scored
from tests.ulrl_tests.tiny_networks import HeadAlone, classifier_of
from ulrl.hyperparameters import assemble
from ulrl.models import Classifier
from ulrl.relearning import RelearnConfig, reinitialise
from ulrl.scoring import (
    NeuronScores,
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
from ulrl.weight_selection import (
    LayerSuspects,
    ReinitBias,
    ResetConfig,
    Suspects,
    select_weights,
    weights_to_reset,
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


def test_shift_must_be_above_the_median() -> None:
    assert flag(MANY, [10, 10.1, 9.9, 10.05, 0.1]) == ()  # |z| of the last is 66
    assert flag(OFFICIAL, [10, 10, 10, 0.1]) == ()  # -inf


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
    ("rows", "share", "least"),
    [(2, 0.15, "0.25"), (3, 0.15, "0.17"), (10, 0.04, "0.05"), (10, 0.0, "0.05")],
)
def test_a_share_of_less_than_half_a_row_is_refused(rows: int, share: float, least: str) -> None:
    config = ScoreConfig(suspect_rule=SuspectRule.LARGEST, suspect_share=share)
    with pytest.raises(ValueError, match=f"suspect_share {share} of {rows} .*; from {least} on"):
        score_neurons(config, heads(rows))
    enough = ScoreConfig(suspect_rule=SuspectRule.LARGEST, suspect_share=float(least))
    assert score_neurons(enough, heads(rows)).suspects == (rows - 1,)


@given(st.lists(st.integers(0, 1000), min_size=3, max_size=40, unique=True))
def test_agrees_with_plain_python(values: list[int]) -> None:
    middle = (len(values) - 1) // 2
    median = sorted(values)[middle]
    mad = sorted(abs(value - median) for value in values)[middle]
    expected = [(value - median) / (1.4826 * mad) for value in values]
    assert z_of([float(value) for value in values]) == pytest.approx(expected, rel=1e-5)


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


@pytest.mark.parametrize(
    ("threshold", "classes", "stop"),
    [(0.0, 10, 0.1), (1.0, 10, 1.0), (0.5, 10, 0.55), (0.0, 43, 1 / 43), (0.2, 2, 0.6)],
)
def test_above_chance(threshold: float, classes: int, stop: float) -> None:
    config = ScoreConfig(unlearn_threshold=threshold, threshold_scale=ThresholdScale.ABOVE_CHANCE)
    assert config.stop_at(classes) == pytest.approx(stop, rel=1e-12)
    assert ScoreConfig(unlearn_threshold=threshold).stop_at(classes) == threshold


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


# Which weights are reinitialised, and from what.


FAN_IN, ROWS = 16, 6


@pytest.mark.parametrize(
    ("ratio", "fan_in", "count"),
    [
        (0.0, 5, 0),
        (1.0, 5, 5),
        (0.5, 5, 3),  # 2.5
        (0.1, 5, 1),  # 0.5
        (0.09, 5, 0),  # 0.45
        (0.145, 100, 15),  # 14.5, although the product of floats is 14.499999999999998
        (0.285, 100, 29),  # 28.5; the product is 28.499999999999996
        (0.3, 512, 154),  # 153.6
        (0.25, 512, 128),
        (1e-7, 512, 0),
    ],
)
def test_count_is_rounded_half_up(ratio: float, fan_in: int, count: int) -> None:
    movement = torch.rand(2, fan_in, generator=Generator().manual_seed(0))
    assert weights_to_reset(movement, ratio).sum(dim=1).tolist() == [count, count]


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=40),
    st.integers(0, 1000).map(lambda thousandths: thousandths / 1000),
)
def test_marks_agree_with_plain_python(moved: list[int], ratio: float) -> None:
    count = floor(Fraction(str(ratio)) * len(moved) + Fraction(1, 2))
    order = sorted(range(len(moved)), key=lambda j: (-moved[j], j))
    expected = [j in order[:count] for j in range(len(moved))]
    movement = torch.tensor([moved], dtype=torch.float32)
    assert weights_to_reset(movement, ratio).tolist() == [expected]


def new_classifier() -> Classifier:
    return classifier_of(lambda: HeadAlone(FAN_IN, ROWS))


def head_suspects(rows: tuple[int, ...], reset: Tensor, *, reset_bias: bool = True) -> Suspects:
    layer = LayerSuspects(weight="head.weight", rows=rows, reset=reset)
    return Suspects(layers=(layer,), reset_bias=reset_bias)


def whole(*rows: int) -> Suspects:
    return head_suspects(rows, torch.ones(len(rows), FAN_IN, dtype=torch.bool))


def weight_after(suspects: Suspects, seed: int = 0, **config: Any) -> Tensor:
    classifier = new_classifier()
    reinitialise(assemble(config).relearn, classifier, suspects, seed)
    return classifier.head.weight.detach()


def test_unmarked_weights_stay_bit_for_bit() -> None:
    head, before = (classifier := new_classifier()).head, new_classifier().head
    marks = torch.zeros(2, FAN_IN, dtype=torch.bool)
    marks[0, ::3], marks[1, 5] = True, True
    reinitialise(RelearnConfig(), classifier, head_suspects((1, 4), marks), seed=0)
    expected = torch.zeros(ROWS, FAN_IN, dtype=torch.bool)
    expected[1, ::3], expected[4, 5] = True, True
    assert torch.equal(head.weight != before.weight, expected)
    assert head.bias[[1, 4]].tolist() == [0, 0]
    others = [0, 2, 3, 5]
    assert torch.equal(head.bias[others], before.bias[others])


@pytest.mark.parametrize("distribution", ["uniform", "normal"])
def test_a_draw_depends_on_the_place_and_the_seed_alone(distribution: str) -> None:
    kind: dict[str, Any] = {"reinit_distribution": distribution}
    everything = weight_after(whole(0, 1, 2, 3, 4, 5), **kind)
    assert torch.equal(weight_after(whole(3), **kind)[3], everything[3])
    assert torch.equal(weight_after(whole(1, 3), **kind)[[1, 3]], everything[[1, 3]])
    half = torch.arange(FAN_IN)[None] % 2 == 0
    partly = weight_after(head_suspects((3,), half), **kind)
    assert torch.equal(partly[3, ::2], everything[3, ::2])
    assert bool((weight_after(whole(3), seed=1, **kind)[3] != everything[3]).all())


def drawn(**config: Any) -> Tensor:
    """Return 20,480 weights of a head with 512 inputs, all drawn again."""
    classifier = classifier_of(lambda: HeadAlone(512, 40))
    everything = head_suspects(tuple(range(40)), torch.ones(40, 512, dtype=torch.bool))
    reinitialise(assemble(config).relearn, classifier, everything, seed=0)
    assert classifier.head.bias.count_nonzero() == 0
    return classifier.head.weight.detach().flatten()


@pytest.mark.parametrize("scale", [1.0, sqrt(3)])
def test_draws_are_uniform_within_the_bound(scale: float) -> None:
    bound = scale * sqrt(2 / 512)
    assert sqrt(2 / 512) == 0.0625  # the official code's for 512 inputs
    weights = drawn(reinit_scale=scale)
    assert float(weights.abs().max()) <= bound
    # 20,480 draws: five standard errors of a quantile are 0.0175 at most.
    shares = [float((weights < (2 * q - 1) * bound).float().mean()) for q in (0.1, 0.25, 0.5, 0.9)]
    assert shares == pytest.approx([0.1, 0.25, 0.5, 0.9], abs=0.0175)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_draws_are_normal(scale: float) -> None:
    """He's deviation at scale 1: quantiles of the standard normal distribution."""
    deviation = scale * sqrt(2 / 512)
    weights = drawn(reinit_distribution="normal", reinit_scale=scale)
    limits = {-1.2816: 0.1, -0.6745: 0.25, 0.0: 0.5, 1.2816: 0.9, 2.3263: 0.99}
    shares = [float((weights < limit * deviation).float().mean()) for limit in limits]
    assert shares == pytest.approx(list(limits.values()), abs=0.0175)


def scores(suspects: tuple[int, ...]) -> NeuronScores:
    movement = torch.rand(len(suspects), FAN_IN, generator=Generator().manual_seed(2))
    return NeuronScores(
        layers=("head",),
        sizes=(ROWS,),
        shift=torch.ones(ROWS),
        z=torch.ones(ROWS),
        suspects=suspects,
        movement={"head.weight": movement} if suspects else {},
        stop_epoch=1,
        stop_accuracy=0.1,
        predicted=torch.ones(ROWS, dtype=torch.int64),
        threshold_reached=True,
        diverged=False,
    )


@pytest.mark.parametrize("ratio", [0.01, 1.0])
@pytest.mark.parametrize("bias", list(ReinitBias))
def test_any_ratio_above_zero_resets_the_bias_unless_it_is_kept(
    ratio: float, bias: ReinitBias
) -> None:
    suspects = select_weights(ResetConfig(reinit_ratio=ratio, reinit_bias=bias), scores((2,)))
    assert suspects.reset_bias is (bias is ReinitBias.ZERO)
    (layer,) = suspects.layers
    assert int(layer.reset.sum()) == round(ratio * FAN_IN)
    head, before = (classifier := new_classifier()).head, new_classifier().head
    reinitialise(RelearnConfig(), classifier, suspects, seed=0)
    expected = before.bias.detach().clone()
    if bias is ReinitBias.ZERO:
        expected[2] = 0
    assert torch.equal(head.bias, expected)


def test_suspects_are_told_apart_by_layer() -> None:
    """Six neurons of one layer, then three of the head: 1, 4, 6 and 8 are two and two."""
    first = torch.tensor([[3.0, 1.0, 2.0], [1.0, 2.0, 3.0]])
    head = torch.tensor([[1.0, 2.0], [4.0, 3.0]])
    found = replace(
        scores(()),
        layers=("conv", "head"),
        sizes=(6, 3),
        suspects=(1, 4, 6, 8),
        movement={"conv.weight": first, "head.weight": head},
    )
    assert found.places == (("conv", 1), ("conv", 4), ("head", 0), ("head", 2))
    conv, last = select_weights(ResetConfig(reinit_ratio=0.5), found).layers
    assert (conv.weight, conv.rows) == ("conv.weight", (1, 4))
    assert conv.reset.tolist() == [[True, False, True], [False, True, True]]  # 1.5: two of three
    assert (last.weight, last.rows) == ("head.weight", (0, 2))
    assert last.reset.tolist() == [[False, True], [True, False]]


def test_named_suspects_take_the_place_of_flagged_ones() -> None:
    flagged = score_neurons(ScoreConfig(), heads(10))
    named = score_neurons(ScoreConfig(suspects=(0, 3), max_suspects=0), heads(10))
    assert (flagged.suspects, named.suspects) == ((), (0, 3))
    assert named.movement["head.weight"].tolist() == [[0.0], [9.0]]
    assert torch.equal(named.z, flagged.z)
    assert named.rank(9) == 1


def test_named_suspects_are_rows_of_the_head_where_all_layers_are_watched() -> None:
    before: Rows = {"body.weight": [[0.0]] * 4, "head.weight": [[0.0]] * 3}
    after: Rows = {"body.weight": [[9.0]] * 4, "head.weight": [[1.0], [2.0], [3.0]]}
    found = score_neurons(ScoreConfig(suspects=(1,)), ascent_of(before, after, accuracy=(0.0,)))
    assert found.places == (("head", 1),)
    assert found.movement["head.weight"].tolist() == [[2.0]]


def test_two_classes_can_have_a_named_suspect() -> None:
    assert score_neurons(ScoreConfig(suspects=(1,)), heads(2)).suspects == (1,)


@pytest.mark.parametrize(
    ("suspects", "text"), [((10,), "0 to 9; got .10."), ("target", "which know the target")]
)
def test_suspects_that_the_head_does_not_have_are_refused(suspects: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        score_neurons(ScoreConfig(suspects=suspects), heads(10))


def test_named_suspects_come_as_lists_and_words() -> None:
    assert assemble({"suspects": [0, 3]}).score.suspects == (0, 3)
    assert assemble({"suspects": "target"}).score.suspects == "target"
    assert assemble({"suspects": None}).score.suspects is None
    with pytest.raises(TypeError, match="suspects is a list of whole numbers or target or None"):
        assemble({"suspects": "traget"})
