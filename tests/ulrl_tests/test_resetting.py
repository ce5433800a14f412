"""Which weights start afresh, and from where."""

from fractions import Fraction
from math import floor, sqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, nn

from ulrl.relearning import ResetConfig, Suspects, choose_resets, reinitialise
from ulrl.scoring import NeuronScores, weights_to_reset

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


def new_head() -> nn.Linear:
    head = nn.Linear(FAN_IN, ROWS)
    source = Generator().manual_seed(1)
    with torch.no_grad():
        head.weight.normal_(generator=source)
        head.bias.normal_(generator=source)
    return head


def whole(rows: tuple[int, ...]) -> Suspects:
    return Suspects(
        rows=rows, reset=torch.ones(len(rows), FAN_IN, dtype=torch.bool), reset_bias=True
    )


def weight_after(suspects: Suspects, seed: int = 0) -> torch.Tensor:
    head = new_head()
    reinitialise(head, suspects, seed)
    return head.weight.detach()


def test_unmarked_weights_stay_bit_for_bit() -> None:
    head, before = new_head(), new_head()
    marks = torch.zeros(2, FAN_IN, dtype=torch.bool)
    marks[0, ::3], marks[1, 5] = True, True
    reinitialise(head, Suspects(rows=(1, 4), reset=marks, reset_bias=True), seed=0)
    expected = torch.zeros(ROWS, FAN_IN, dtype=torch.bool)
    expected[1, ::3], expected[4, 5] = True, True
    assert torch.equal(head.weight != before.weight, expected)
    assert head.bias[[1, 4]].tolist() == [0, 0]
    others = [0, 2, 3, 5]
    assert torch.equal(head.bias[others], before.bias[others])


def test_a_draw_depends_on_the_place_and_the_seed_alone() -> None:
    everything = weight_after(whole((0, 1, 2, 3, 4, 5)))
    assert torch.equal(weight_after(whole((3,)))[3], everything[3])
    assert torch.equal(weight_after(whole((1, 3)))[[1, 3]], everything[[1, 3]])
    half = torch.arange(FAN_IN)[None] % 2 == 0
    partly = weight_after(Suspects(rows=(3,), reset=half, reset_bias=True))
    assert torch.equal(partly[3, ::2], everything[3, ::2])
    assert torch.equal(weight_after(whole((3,)), seed=1)[3] != everything[3], half[0] | ~half[0])


def test_draws_are_uniform_within_the_official_bound() -> None:
    head = nn.Linear(512, 40)
    everything = torch.ones(40, 512, dtype=torch.bool)
    suspects = Suspects(rows=tuple(range(40)), reset=everything, reset_bias=True)
    reinitialise(head, suspects, seed=0)
    bound = sqrt(2 / 512)
    assert bound == 0.0625
    drawn = head.weight.detach().flatten()
    assert float(drawn.abs().max()) <= bound
    # 20,480 draws: five standard errors of a quantile are 0.0175 at most.
    shares = [float((drawn < (2 * q - 1) * bound).float().mean()) for q in (0.1, 0.25, 0.5, 0.9)]
    assert shares == pytest.approx([0.1, 0.25, 0.5, 0.9], abs=0.0175)
    assert head.bias.count_nonzero() == 0


def scores(suspects: tuple[int, ...]) -> NeuronScores:
    movement = torch.rand(len(suspects), FAN_IN, generator=Generator().manual_seed(2))
    return NeuronScores(
        shift=torch.ones(ROWS),
        z=torch.ones(ROWS),
        suspects=suspects,
        movement=movement,
        stop_epoch=1,
        threshold_reached=True,
        diverged=False,
    )


def test_ratio_zero_resets_nothing_not_even_the_bias() -> None:
    suspects = choose_resets(ResetConfig(reinit_ratio=0.0), scores((2,)))
    assert (suspects.rows, suspects.reset_bias) == ((2,), False)
    head, before = new_head(), new_head()
    reinitialise(head, suspects, seed=0)
    assert torch.equal(head.weight, before.weight)
    assert torch.equal(head.bias, before.bias)


@pytest.mark.parametrize("ratio", [0.01, 0.25, 1.0])
def test_any_ratio_above_zero_resets_the_bias(ratio: float) -> None:
    suspects = choose_resets(ResetConfig(reinit_ratio=ratio), scores((2,)))
    assert suspects.reset_bias
    assert int(suspects.reset.sum()) == round(ratio * FAN_IN)
    head = new_head()
    reinitialise(head, suspects, seed=0)
    assert head.bias[2].detach() == 0


def test_without_suspects_the_head_is_untouched() -> None:
    suspects = choose_resets(ResetConfig(reinit_ratio=1.0), scores(()))
    assert torch.equal(weight_after(suspects), new_head().weight)
