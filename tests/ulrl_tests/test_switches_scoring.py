"""What makes a neuron suspicious, with the switches thrown, on examples worked by hand."""

from dataclasses import replace
from math import inf, nan
from typing import Any

import pytest
import torch

from tests.ulrl_tests.ascents import AFTER, BEFORE, ELSEWHERE, ascent_of, scored
from ulrl.hyperparameters import assemble
from ulrl.scoring import (
    ScoreConfig,
    SuspectOrder,
    ThresholdScale,
    ZeroMAD,
    modified_z,
    pick_suspects,
    score_neurons,
)


def flag(config: ScoreConfig, shift: list[float]) -> tuple[int, ...]:
    scores = torch.tensor(shift, dtype=torch.float32)
    return pick_suspects(config, scores, modified_z(scores, config.zero_mad))


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
