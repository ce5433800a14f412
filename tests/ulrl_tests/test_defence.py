"""The whole defence as one call, on a network that the library did not build."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import ulrl
from ulrl.clean import CleanConfig, draw_clean_samples
from ulrl.datasets import ImageSet
from ulrl.hyperparameters import Hyperparameters, assemble, preset_values
from ulrl.metrics import measure
from ulrl.models import Weights, restore
from ulrl.poison import Poison
from ulrl.poisoning import make_test_sets
from ulrl.relearning import relearn
from ulrl.scoring import score_neurons
from ulrl.unlearning import unlearn
from ulrl.weight_selection import select_weights

SHORT: dict[str, Any] = {"unlearn_batch_size": 16, "relearn_batch_size": 16, "relearn_epochs": 10}


class Foreign(nn.Module):
    """Somebody's network: the library's victim under other names."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.wrapped = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.wrapped(x)
        return scores


@pytest.fixture
def samples(pictures: ImageSet) -> tuple[torch.Tensor, torch.Tensor]:
    clean = draw_clean_samples(CleanConfig(clean_ratio=0.3), pictures, seed=0)
    return clean.samples.images, clean.samples.labels


def test_ten_lines_repair_a_foreign_network(
    victim_of: Callable[[int], Weights],
    samples: tuple[torch.Tensor, torch.Tensor],
    pictures: ImageSet,
    badnets: Poison,
    cpu: torch.device,
) -> None:
    victim = Foreign(restore(victim_of(1), cpu).network).eval()
    before = {name: value.clone() for name, value in victim.state_dict().items()}
    # One suspect: which rows pass the limit beside the target's is each kind of CPU's own.
    values = SHORT | {"max_suspects": 1}
    repaired = ulrl.repair(victim, *samples, victim_of(1).model_spec.preprocessing, **values)
    assert repaired.scores.places == (("wrapped.linear", badnets.target_label),)
    assert not repaired.plain_fine_tuning
    assert not repaired.network.training
    assert all(torch.equal(value, before[name]) for name, value in victim.state_dict().items())
    tests = make_test_sets(badnets, pictures, seed=0)
    model = restore(victim_of(1), cpu)
    was = measure(model.predict, tests.report)
    model.network = repaired.network
    now = measure(model.predict, tests.report)
    assert was.asr > 0.9
    assert now.asr < was.asr / 2  # how much is left is each kind of CPU's own, too
    assert now.acc > was.acc - 0.1


def test_it_is_the_stages_one_after_the_other(
    victim_of: Callable[[int], Weights],
    samples: tuple[torch.Tensor, torch.Tensor],
    pictures: ImageSet,
    cpu: torch.device,
) -> None:
    weights = victim_of(1)
    parts: Hyperparameters = assemble(preset_values(ulrl.Preset.OFFICIAL, "cifar10") | SHORT)
    clean = draw_clean_samples(CleanConfig(clean_ratio=0.3), pictures, seed=0)
    *_, ascent = unlearn(parts.unlearn, weights, clean, 0.2, cpu)
    suspects = select_weights(parts.reset, score_neurons(parts.score, ascent))
    run = relearn(parts.relearn, weights, suspects, clean, cpu)
    for _ in run.epochs:
        pass
    whole = ulrl.repair(
        restore(weights, cpu).network,
        *samples,
        weights.model_spec.preprocessing,
        preset="official",
        **SHORT,
    )
    theirs = run.classifier.network.state_dict()
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, theirs[name]), name


def test_nothing_suspicious_is_plain_fine_tuning_and_says_so(
    victim_of: Callable[[int], Weights],
    samples: tuple[torch.Tensor, torch.Tensor],
    cpu: torch.device,
) -> None:
    network = restore(victim_of(0), cpu).network
    preprocessing = victim_of(0).model_spec.preprocessing
    values = SHORT | {"relearn_epochs": 1, "unlearn_epochs": 1}
    assert ulrl.repair(
        network, *samples, preprocessing, z_threshold=1e6, **values
    ).plain_fine_tuning
    tuned = ulrl.repair(network, *samples, preprocessing, preset="fine_tuning", **values)
    assert tuned.plain_fine_tuning
