"""Both phases of ULRL against a second, slow writing of them, with every switch thrown."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ulrl_tests.naive import (
    in_double,
    largest_error,
    naive_relearn,
    naive_shifts,
    naive_suspects,
    naive_unlearn,
)
from tests.ulrl_tests.tiny_networks import Victims
from ulrl.clean import draw_clean_samples
from ulrl.datasets import ImageSet
from ulrl.hyperparameters import Hyperparameters, Preset, assemble, preset_values
from ulrl.models import Weights
from ulrl.relearning import relearn
from ulrl.scoring import NeuronScores, score_neurons
from ulrl.unlearning import Ascent, unlearn
from ulrl.weight_selection import select_weights

SHORT = {
    "clean_ratio": 20 / 300,
    "unlearn_batch_size": 8,  # 20 samples: two whole batches and a short one of 4
    "unlearn_epochs": 8,
    "relearn_batch_size": 8,
    "relearn_epochs": 3,
}


def hyperparameters(preset: Preset, **values: Any) -> Hyperparameters:
    return assemble(preset_values(preset, "cifar10") | SHORT | values)


def last(ascent: Iterator[Ascent]) -> Ascent:
    *_, end = ascent
    return end


@dataclass(frozen=True, kw_only=True, eq=False)
class Repair:
    """What both writings agreed on."""

    stop_epoch: int
    accuracy: tuple[float, ...]
    scores: NeuronScores
    start: Tensor  # of phase 2: the head's weight
    state: dict[str, Tensor]


def agreed(h: Hyperparameters, victim: Weights, images: ImageSet, seed: int) -> Repair:
    """Run both phases twice, check that they agree, and return the library's results.

    In double precision: an ascent multiplies what the two writings round differently, and how
    differently is each kind of CPU's own.
    """
    with in_double():
        state = {
            name: value.double() if value.is_floating_point() else value
            for name, value in victim.state.items()
        }
        return compared(h, replace(victim, state=state), images, seed)


def compared(h: Hyperparameters, victim: Weights, images: ImageSet, seed: int) -> Repair:
    cpu = torch.device("cpu")
    clean = draw_clean_samples(h.clean, images, seed)
    assert len(clean.index) == 20

    ascent = last(unlearn(h.unlearn, victim, clean, h.score.stop_at(10), cpu))
    accuracies, network = naive_unlearn(h, victim, clean)
    assert list(ascent.accuracy) == accuracies
    scores = score_neurons(h.score, ascent)
    assert (scores.stop_epoch, scores.stop_accuracy) == (len(accuracies), accuracies[-1])
    after = network.get_parameter("linear.weight").detach()
    bias = network.get_parameter("linear.bias").detach()
    ours = ascent.at(scores.stop_epoch)
    assert largest_error(ours, {"linear.weight": after, "linear.bias": bias}) < 1e-5
    rows_before, rows_after = victim.head, after
    if h.score.score_bias:
        rows_before = torch.cat([rows_before, victim.state["linear.bias"][:, None]], dim=1)
        rows_after = torch.cat([rows_after, bias[:, None]], dim=1)
    shifts = naive_shifts(h, rows_before.tolist(), rows_after.tolist())
    assert scores.shift.tolist() == pytest.approx(shifts, rel=1e-3)
    rows = naive_suspects(h, shifts)
    assert list(scores.suspects) == rows

    run = relearn(h.relearn, victim, select_weights(h.reset, scores), clean, cpu)
    start = run.classifier.head.weight.detach().clone()
    epochs = list(run.epochs)
    accuracies, network = naive_relearn(h, victim, clean, rows, after)
    assert [epoch.accuracy for epoch in epochs] == accuracies
    state = run.classifier.weights().state
    assert largest_error(state, network.state_dict()) < 1e-5
    return Repair(
        stop_epoch=scores.stop_epoch,
        accuracy=ascent.accuracy,
        scores=scores,
        start=start,
        state=state,
    )


@pytest.mark.parametrize(
    ("preset", "ratio", "seed"), [(Preset.OFFICIAL, 1.0, 0), (Preset.DEFAULT, 0.3, 1)]
)
def test_both_phases_agree_with_the_naive_ones(
    pictures: ImageSet, victim_of: Victims, seed: int, preset: Preset, ratio: float
) -> None:
    h = hyperparameters(preset, reinit_ratio=ratio, z_threshold=1.0)
    result = agreed(h, victim_of(seed), pictures, seed)
    assert result.scores.suspects, "a comparison without suspects compares little"
    tracked = "layer1.0.bn1.num_batches_tracked"
    updates = int(result.state[tracked] - victim_of(seed).state[tracked])
    assert updates == (2 if preset is Preset.OFFICIAL else 1) * 3 * 3


@pytest.fixture(scope="module")
def usual(pictures: ImageSet, victim_of: Victims) -> Repair:
    return agreed(hyperparameters(Preset.DEFAULT), victim_of(0), pictures, 0)


def differs(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return any(not torch.equal(value, other[name]) for name, value in one.items())


IN_PHASE_1: dict[str, dict[str, Any]] = {
    "frozen BatchNorm": {"unlearn_batchnorm_updates": 0},
    "tight clip": {"unlearn_clip_norm": 0.5},
    "weight decay": {"unlearn_weight_decay": 0.1},
    "milestones": {"unlearn_milestones": (1, 3)},
}


@pytest.mark.parametrize("values", IN_PHASE_1.values(), ids=list(IN_PHASE_1))
def test_switches_of_the_ascent(
    pictures: ImageSet, victim_of: Victims, usual: Repair, values: dict[str, Any]
) -> None:
    h = hyperparameters(Preset.DEFAULT, **values)
    result = agreed(h, victim_of(0), pictures, 0)
    assert not torch.equal(result.scores.shift, usual.scores.shift), "the switch did nothing"


def test_the_stop_by_accuracy_in_eval_mode(pictures: ImageSet, victim_of: Victims) -> None:
    """There a second update of BatchNorm counts, which nothing in train mode notices."""
    ways = (("running", 1), ("eval", 1), ("eval", 2))
    curves = set()
    for kind, updates in ways:
        values = {"stop_accuracy": kind, "unlearn_batchnorm_updates": updates}
        h = hyperparameters(Preset.DEFAULT, **values, unlearn_threshold=0.1)
        curves.add(agreed(h, victim_of(2), pictures, 2).accuracy)
    assert len(curves) == len(ways), curves


IN_PHASE_2: dict[str, dict[str, Any]] = {
    "narrow normal, in part": {
        "reinit_distribution": "normal",
        "reinit_scale": 0.5,
        "reinit_ratio": 0.4,
    },
    "clamped": {"cosine_form": "clamped", "relearn_lr": 0.05},
    "absolute mean": {"cosine_form": "absolute", "cosine_reduction": "mean"},
    "linear": {"relearn_schedule": "linear"},
    "clip": {"relearn_clip_norm": 0.3},
    "weight decay": {"relearn_weight_decay": 0.1},
    "augment off": {"relearn_augment": False},
    "frozen BatchNorm": {"batchnorm_updates": 0},
}


TWO = {"suspect_rule": "largest", "suspect_share": 0.2, "unlearn_epochs": 2}


@pytest.fixture(scope="module")
def usual_two(pictures: ImageSet, victim_of: Victims) -> Repair:
    """A repair with two suspects, of which a mean is no sum."""
    return agreed(hyperparameters(Preset.DEFAULT, **TWO), victim_of(0), pictures, 0)


@pytest.mark.parametrize("values", IN_PHASE_2.values(), ids=list(IN_PHASE_2))
def test_switches_of_the_relearning(
    pictures: ImageSet, victim_of: Victims, usual_two: Repair, values: dict[str, Any]
) -> None:
    h = hyperparameters(Preset.DEFAULT, **TWO, **values)
    result = agreed(h, victim_of(0), pictures, 0)
    assert len(result.scores.suspects) == 2
    assert differs(result.state, usual_two.state), "the switch did nothing"
