"""The whole chain of stages with `layers: all`, TSBD's rule for one."""

from collections.abc import Callable
from math import floor
from typing import Any

import pytest
import torch
from torch import Tensor

from ulrl.clean import CleanSamples, draw_clean_samples
from ulrl.datasets import ImageSet
from ulrl.evaluation import evaluate
from ulrl.hyperparameters import Hyperparameters, assemble
from ulrl.models import Classifier, Weights
from ulrl.poison import Poison
from ulrl.poisoning import make_test_sets
from ulrl.relearning import relearn
from ulrl.scoring import NeuronScores, score_neurons
from ulrl.unlearning import unlearn
from ulrl.weight_selection import select_weights

CPU = torch.device("cpu")
SHORT = {"clean_ratio": 0.12, "unlearn_batch_size": 16, "relearn_batch_size": 16}
TSBD = {
    "layers": "all",
    "suspect_rule": "largest",
    "suspect_share": 0.15,
    "max_suspects": None,
    "reinit_ratio": 0.7,
    "reinit_distribution": "zero",
    "alpha": 0.0,
}


def phase_one(
    h: Hyperparameters, victim: Weights, clean: CleanSamples
) -> tuple[NeuronScores, dict[str, Tensor]]:
    """Return the scores, and all weights where the ascent stopped."""
    states: list[dict[str, Tensor]] = []

    def observe(classifier: Classifier) -> None:
        states.append(classifier.weights().state)

    *_, ascent = unlearn(h.unlearn, victim, clean, h.score.stop_at(10), CPU, observe=observe)
    return score_neurons(h.score, ascent), states[ascent.stop_epoch(h.score.stop_at(10)) - 1]


def neurons(state: dict[str, Tensor]) -> dict[tuple[str, int], list[float]]:
    """Return the incoming weights of every row and filter, the head's last."""
    names = [name for name, value in state.items() if value.ndim in (2, 4)]
    assert names[-1] == "linear.weight"
    return {
        (name, k): row.reshape(-1).tolist() for name in names for k, row in enumerate(state[name])
    }


def tsbd(before: dict[str, Tensor], after: dict[str, Tensor]) -> dict[str, Tensor]:
    """A second writing: zero the 70% that moved most of the 15% of neurons that moved most."""
    old, new = neurons(before), neurons(after)
    moved = {
        place: [abs(b - a) for a, b in zip(old[place], new[place], strict=True)] for place in old
    }
    order = sorted(moved, key=lambda place: -sum(moved[place]))
    assert len(order) == 310
    expected = {name: value.clone() for name, value in before.items()}
    for name, k in order[:47]:  # 46.5, a half up
        distances = moved[name, k]
        ranked = sorted(range(len(distances)), key=lambda j: -distances[j])
        row = torch.tensor(old[name, k])
        row[ranked[: floor(0.7 * len(row) + 0.5)]] = 0
        expected[name][k] = row.reshape(before[name][k].shape)
        if name == "linear.weight":
            expected["linear.bias"][k] = 0
    return expected


@pytest.mark.parametrize("seed", [0, 1])
def test_tsbds_rule_zeroes_exactly_its_weights(
    victim_of: Callable[[int], Weights], pictures: ImageSet, seed: int
) -> None:
    h, victim = assemble(SHORT | TSBD), victim_of(seed)
    clean = draw_clean_samples(h.clean, pictures, seed)
    scores, after = phase_one(h, victim, clean)
    assert len(scores.suspects) == 47
    suspects = select_weights(h.reset, scores)
    start = relearn(h.relearn, victim, suspects, clean, CPU).classifier.weights().state
    expected = tsbd(victim.state, after)
    for name, value in start.items():
        assert torch.equal(value, expected[name]), name
    changed = {name for name, value in start.items() if not torch.equal(value, victim.state[name])}
    assert len(changed - {"linear.weight", "linear.bias"}) > 2, "neurons of several layers"
    assert changed - {"linear.bias"} == {layer.weight for layer in suspects.layers}


@pytest.mark.parametrize(
    "values",
    [TSBD, {"layers": "all", "max_suspects": None}, {"layers": "all", "reinit_ratio": 0.5}],
    ids=["TSBD", "outliers", "two outliers"],
)
def test_the_chain_runs_to_its_end(
    victim_of: Callable[[int], Weights],
    pictures: ImageSet,
    badnets: Poison,
    values: dict[str, Any],
) -> None:
    h, victim = assemble(SHORT | values), victim_of(0)
    clean = draw_clean_samples(h.clean, pictures, 0)
    scores, _ = phase_one(h, victim, clean)
    assert scores.suspects
    assert len(scores.places) == len(scores.suspects)
    assert sum(len(rows) for rows in scores.movement.values()) == len(scores.suspects)
    run = relearn(h.relearn, victim, select_weights(h.reset, scores), clean, CPU)
    epochs = list(run.epochs)
    assert len(epochs) == 20
    repaired = run.classifier.weights()
    assert all(bool(value.isfinite().all()) for value in repaired.state.values())
    tests = make_test_sets(badnets, pictures, 0)
    before, now = (evaluate(weights, tests, CPU).report for weights in (victim, repaired))
    assert now.acc > before.acc - 0.15
    assert now.asr <= before.asr


def test_all_layers_and_the_head_agree_where_only_the_head_stands_out(
    victim_of: Callable[[int], Weights], pictures: ImageSet
) -> None:
    """The head's shifts do not depend on what else is watched."""
    clean = draw_clean_samples(assemble(SHORT).clean, pictures, 0)
    head, _ = phase_one(assemble(SHORT), victim_of(0), clean)
    everything, _ = phase_one(assemble(SHORT | {"layers": "all"}), victim_of(0), clean)
    assert torch.equal(everything.shift[-10:], head.shift)
    assert [everything.rank(row) for row in range(10)] == [head.rank(row) for row in range(10)]
    assert everything.stop_epoch == head.stop_epoch
