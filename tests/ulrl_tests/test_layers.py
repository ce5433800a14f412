"""Neurons of every layer: which there are, how they are scored, reset and penalised."""

from math import floor
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from tests.ulrl_tests.ascents import Rows, ascent_of
from tests.ulrl_tests.tiny_networks import Mixed, Victims, classifier_of, weights_of
from ulrl.clean import CleanSamples, draw_clean_samples
from ulrl.datasets import ImageSet
from ulrl.fitting import Samples
from ulrl.hyperparameters import Hyperparameters, assemble
from ulrl.layers import Layers, neurons_of
from ulrl.models import Classifier, Weights, restore
from ulrl.randomness import generator
from ulrl.relearning import reinitialise, relearn
from ulrl.scoring import NeuronScores, score_neurons
from ulrl.unlearning import unlearn
from ulrl.weight_selection import LayerSuspects, Suspects, select_weights

ALL_OF_MIXED = [
    *("conv.weight", "conv.bias", "point.weight"),
    *("attention.in_proj_weight", "attention.in_proj_bias"),
    *("attention.out_proj.weight", "attention.out_proj.bias", "mixer.weight"),
    *("head.weight", "head.bias"),
]


def marks(rows: list[int], fan_in: int, *places: tuple[int, int]) -> Tensor:
    found = torch.zeros(len(rows), fan_in, dtype=torch.bool)
    for row, place in places:
        found[row, place] = True
    return found


def test_all_layers_with_neurons_the_head_last() -> None:
    """It is built first; normalisation has no neurons; attention projects in and out."""
    classifier = classifier_of(Mixed)
    found = neurons_of(classifier, Layers.ALL)
    assert list(found) == ALL_OF_MIXED
    state = dict(classifier.network.named_parameters())
    assert all(parameter is state[name] for name, parameter in found.items())
    assert list(neurons_of(classifier, Layers.HEAD)) == ["head.weight", "head.bias"]


def clean_pictures() -> CleanSamples:
    images = torch.randint(0, 256, (6, 2, 5, 5), generator=generator(0, "pictures"))
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    samples = Samples(images=images.to(torch.uint8), labels=labels)
    return CleanSamples(samples=samples, index=torch.arange(6), seed=3)


# Two filters of four weights, a projection of two rows without a bias, and a head of two.
BEFORE: Rows = {
    "conv.weight": [[1.0, 1.0, 1.0, 1.0], [2.0, 0.0, 0.0, 0.0]],
    "conv.bias": [0.0, 1.0],
    "mixer.weight": [[1.0, -1.0], [0.0, 4.0]],
    "head.weight": [[3.0, 1.0], [5.0, -5.0]],
    "head.bias": [0.0, 0.0],
}
AFTER: Rows = {
    "conv.weight": [[1.0, 2.0, 1.0, 0.0], [2.0, 0.0, 3.0, -4.0]],  # 2 and 7
    "conv.bias": [3.0, 0.0],  # 3 and 1
    "mixer.weight": [[1.0, 2.0], [1.0, 4.0]],  # 3 and 1
    "head.weight": [[4.0, 3.0], [25.0, -5.0]],  # 3 and 20
    "head.bias": [8.0, 0.0],  # 8 and 0
}


@pytest.mark.parametrize(
    ("config", "shift"),
    [
        ({}, [2, 7, 3, 1, 3, 20]),
        ({"score_bias": True}, [5, 8, 3, 1, 11, 20]),
        ({"score": "l2"}, [2**0.5, 5, 3, 1, 5**0.5, 20]),
        # of 4, 2, 2, 4, 4 and 10
        ({"score": "relative"}, [0.5, 3.5, 1.5, 0.25, 0.75, 2]),
        ({"score": "relative", "score_bias": True}, [1.25, 8 / 3, 1.5, 0.25, 2.75, 2]),
    ],
)
def test_scores_of_all_layers_are_one_list(config: dict[str, Any], shift: list[float]) -> None:
    rule = {"suspect_rule": "largest", "suspect_share": 0.5, "max_suspects": None}
    scores = score_neurons(assemble(rule | config).score, ascent_of(BEFORE, AFTER, accuracy=(0.1,)))
    assert (scores.layers, scores.sizes) == (("conv", "mixer", "head"), (2, 2, 2))
    assert scores.shift.tolist() == pytest.approx(shift)
    largest = sorted(sorted(range(6), key=lambda neuron: -shift[neuron])[:3])
    assert scores.suspects == tuple(largest)
    names = [("conv", 0), ("conv", 1), ("mixer", 0), ("mixer", 1), ("head", 0), ("head", 1)]
    assert scores.places == tuple(names[neuron] for neuron in largest)
    assert torch.equal(scores.head_z, scores.z[4:])
    assert [scores.rank(row) for row in (0, 1)] == ([2, 1] if shift[5] > shift[4] else [1, 2])


SCALES: tuple[Rows, Rows] = (
    {"conv.weight": [[0.0]] * 5, "head.weight": [[0.0]] * 5},
    # The head moves a hundred times as far, and none of its rows stands out.
    {
        "conv.weight": [[0.01], [0.02], [0.03], [0.04], [0.3]],
        "head.weight": [[1.0], [2.0], [3.0], [4.0], [6.0]],
    },
)


def test_z_is_within_a_neurons_own_layer() -> None:
    scores = score_neurons(assemble({}).score, ascent_of(*SCALES, accuracy=(0.1,)))
    # Medians 0.03 and 3, MADs 0.01 and 1; pooled, the last row of the head would be first.
    expected = [deviation / 1.4826 for deviation in (-2, -1, 0, 1, 27, -2, -1, 0, 1, 3)]
    assert scores.z.tolist() == pytest.approx(expected, rel=1e-4)
    assert scores.places == (("conv", 4),)
    assert scores.head_z.tolist() == scores.z[5:].tolist()


def test_only_marked_weights_of_the_right_filters_start_afresh() -> None:
    classifier, before = classifier_of(Mixed), weights_of(Mixed).state
    assert classifier.network.get_parameter("conv.weight").stride()[1] == 1, "channels last"
    suspects = Suspects(
        layers=(
            LayerSuspects(
                weight="conv.weight", rows=(0, 3), reset=marks([0, 3], 8, (0, 0), (0, 6), (1, 5))
            ),
            LayerSuspects(
                weight="attention.in_proj_weight", rows=(7,), reset=marks([7], 4, (0, 2))
            ),
            LayerSuspects(weight="mixer.weight", rows=(1,), reset=marks([1], 4, (0, 1), (0, 3))),
        ),
        reset_bias=True,
    )
    reinitialise(assemble({}).relearn, classifier, suspects, seed=9)

    expected = {name: value.clone() for name, value in before.items()}
    # Place 6 of a filter [2, 2, 2] is channel 1, row 1, column 0; 5 is channel 1, row 0, column 1.
    places: dict[str, list[tuple[int, ...]]] = {
        "conv.weight": [(0, 0, 0, 0), (0, 1, 1, 0), (3, 1, 0, 1)],
        "attention.in_proj_weight": [(7, 2)],
        "mixer.weight": [(1, 1), (1, 3)],
    }
    for name, changed in places.items():
        source = generator(9, "relearn", "reset", name)
        uniform = torch.rand(before[name].shape, generator=source)
        fan_in = before[name][0].numel()
        for place in changed:
            expected[name][place] = (2 / fan_in) ** 0.5 * (2 * uniform[place] - 1)
    expected["conv.bias"][[0, 3]] = 0
    expected["attention.in_proj_bias"][7] = 0
    for name, value in classifier.weights().state.items():
        assert torch.allclose(value, expected[name], rtol=1e-6, atol=0), name
        unmarked = expected[name] == before[name]
        assert torch.equal(value[unmarked], before[name][unmarked]), name


def test_the_cosine_is_over_whole_filters() -> None:
    """One step of plain SGD on one batch, with its gradient written out."""
    weights, clean = weights_of(Mixed), clean_pictures()
    rows = {"conv.weight": (1, 2), "attention.in_proj_weight": (5,), "head.weight": (0,)}
    layers = tuple(
        LayerSuspects(
            weight=name,
            rows=chosen,
            reset=torch.ones(len(chosen), weights.state[name][0].numel(), dtype=torch.bool),
        )
        for name, chosen in rows.items()
    )
    config = {"relearn_epochs": 1, "relearn_batch_size": 6, "relearn_augment": False}
    values = {"alpha": 3.0, "cosine_reduction": "mean", "relearn_lr": 0.5}
    run = relearn(
        assemble(config | values).relearn,
        weights,
        Suspects(layers=layers, reset_bias=True),
        clean,
        torch.device("cpu"),
    )
    start = run.classifier.weights()
    assert len(list(run.epochs)) == 1

    network = restore(start, torch.device("cpu")).network.train()
    parameters = dict(network.named_parameters())
    inputs = (clean.samples.images.float() / 255 - 0.5) / 0.25
    loss = cross_entropy(network(inputs), clean.samples.labels)
    for name, chosen in rows.items():
        for row in chosen:
            now = parameters[name][row].reshape(-1)
            then = weights.state[name][row].reshape(-1)
            cosine = (now @ then) / ((now @ now).sqrt() * (then @ then).sqrt())
            loss = loss + 3.0 / 4 * cosine
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    end = run.classifier.weights().state
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        expected = parameter.detach() - 0.5 * gradient
        assert torch.allclose(end[name], expected, rtol=1e-4, atol=1e-5), name


# The whole chain of stages with `layers: all`, TSBD's rule for one.


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


def test_tsbds_rule_zeroes_exactly_its_weights(victim_of: Victims, pictures: ImageSet) -> None:
    h, victim = assemble(SHORT | TSBD), victim_of(0)
    clean = draw_clean_samples(h.clean, pictures, 0)
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
