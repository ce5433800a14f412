"""Which weights start afresh, and from where."""

from dataclasses import replace
from fractions import Fraction
from math import floor, sqrt
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from tests.ulrl_tests.tiny_networks import HeadAlone, classifier_of
from ulrl.hyperparameters import assemble
from ulrl.models import Classifier
from ulrl.relearning import RelearnConfig, reinitialise
from ulrl.scoring import NeuronScores
from ulrl.weight_selection import (
    LayerSuspects,
    ReinitBias,
    ResetConfig,
    Suspects,
    select_weights,
    weights_to_reset,
)

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


def test_marks_what_moved_most_in_each_row() -> None:
    movement = torch.tensor([[0.1, 0.9, 0.5, 0.7], [4.0, 3.0, 2.0, 1.0]])
    assert weights_to_reset(movement, 0.5).tolist() == [
        [False, True, False, True],
        [True, True, False, False],
    ]


def test_ties_go_by_index() -> None:
    movement = torch.tensor([[1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0, 0.0]])
    marked = [weights_to_reset(movement, k / 8)[0].nonzero().flatten().tolist() for k in range(9)]
    order = [1, 3, 5, 0, 2, 4, 6, 7]
    assert marked == [sorted(order[:k]) for k in range(9)]


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=40),
    st.integers(0, 1000).map(lambda thousandths: thousandths / 1000),
)
def test_agrees_with_plain_python(moved: list[int], ratio: float) -> None:
    count = floor(Fraction(str(ratio)) * len(moved) + Fraction(1, 2))
    order = sorted(range(len(moved)), key=lambda j: (-moved[j], j))
    expected = [j in order[:count] for j in range(len(moved))]
    movement = torch.tensor([moved], dtype=torch.float32)
    assert weights_to_reset(movement, ratio).tolist() == [expected]


def test_no_suspects_no_marks() -> None:
    assert weights_to_reset(torch.empty(0, 8), 0.5).shape == (0, 8)


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
    """Return 20,480 weights of a head with 512 inputs, all drawn afresh."""
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


def test_zero_leaves_nothing() -> None:
    half = torch.arange(FAN_IN)[None] % 2 == 0
    weight = weight_after(head_suspects((3,), half), reinit_distribution="zero")
    expected = new_classifier().head.weight.detach().clone()
    expected[3, ::2] = 0
    assert torch.equal(weight, expected)


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


def test_ratio_zero_resets_nothing_not_even_the_bias() -> None:
    suspects = select_weights(ResetConfig(reinit_ratio=0.0), scores((2,)))
    assert ([layer.rows for layer in suspects.layers], suspects.reset_bias) == ([(2,)], False)
    head, before = (classifier := new_classifier()).head, new_classifier().head
    reinitialise(RelearnConfig(), classifier, suspects, seed=0)
    assert torch.equal(head.weight, before.weight)
    assert torch.equal(head.bias, before.bias)


@pytest.mark.parametrize("ratio", [0.01, 0.25, 1.0])
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


def test_without_suspects_nothing_is_touched() -> None:
    suspects = select_weights(ResetConfig(reinit_ratio=1.0), scores(()))
    assert (suspects.layers, suspects.reset_bias) == ((), False)
    assert torch.equal(weight_after(suspects), new_classifier().head.weight)


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
