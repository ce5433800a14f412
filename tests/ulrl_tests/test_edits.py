"""What a repair changed, against numpy on weights that are changed by hand."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from ulrl.datasets import Preprocessing
from ulrl.edits import EDITS, compare
from ulrl.models import ModelSpec, Weights, initialise
from ulrl.models.preact_resnet import PreActResNet18
from ulrl.randomness import generator

PREPROCESSING = Preprocessing(mean=(0.5,), std=(0.5,), padding=0, flip=False)
Change = Callable[[dict[str, Tensor]], None]


@pytest.fixture
def victim() -> Weights:
    architecture = PreActResNet18(width=2)
    spec = ModelSpec(
        architecture=architecture, classes=4, channels=1, side=8, preprocessing=PREPROCESSING
    )
    state = initialise(spec, generator(3, "edits"), torch.device("cpu")).weights().state
    state["layer4.1.bn2.weight"][0] = 0.0  # dead before
    return Weights(model_spec=spec, state=state)


def repaired(victim: Weights, change: Change) -> Weights:
    state = {name: value.clone() for name, value in victim.state.items()}
    change(state)
    return Weights(model_spec=victim.model_spec, state=state)


def test_nothing_changes_but_buffers(victim: Weights) -> None:
    def change(state: dict[str, Tensor]) -> None:
        state["layer4.1.bn2.running_mean"].zero_().add_(7)
        state["layer4.1.bn2.running_var"].zero_()

    found = compare(victim, repaired(victim, change))
    assert (found.zeroed_parts, found.zeroed_share, found.change) == (0, 0.0, 0.0)
    assert set(found.by_layer) == set(EDITS)
    assert found.layers[0] == "conv1"
    assert found.layers[-1] == "linear"
    network = victim.model_spec.architecture.build(classes=4, channels=1, side=8)
    sizes = [p.numel() for p in network.parameters()]
    assert float(found.by_layer["weights"].sum()) == sum(sizes)


def test_zeros_count_by_part_and_by_weight(victim: Weights) -> None:
    def change(state: dict[str, Tensor]) -> None:
        state["conv1.weight"][1] = 0.0  # a filter of 9 weights
        state["layer4.1.bn2.weight"][:3] = 0.0  # two channels, and one that was dead
        state["layer4.1.bn2.bias"].add_(0.5)  # a bias is no part
        state["linear.weight"][2, 0] = 0.0  # a weight, not a row

    after = repaired(victim, change)
    found = compare(victim, after)
    of = dict(zip(found.layers, zip(*found.by_layer.values(), strict=True), strict=True))
    numbers = {layer: dict(zip(EDITS, map(float, row), strict=True)) for layer, row in of.items()}
    assert numbers["conv1"]["parts"] == 2
    assert numbers["conv1"]["zeroed_parts"] == 1
    assert numbers["conv1"]["zeroed_weights"] == 9
    assert numbers["layer4.1.bn2"]["zeroed_parts"] == 2
    assert numbers["linear"]["zeroed_parts"] == 0
    assert numbers["linear"]["zeroed_weights"] == 1
    assert found.zeroed_parts == 3
    names = [n for n in victim.state if n.endswith(("weight", "bias"))]
    before, later = (
        np.concatenate([w.state[name].double().numpy().ravel() for name in names])
        for w in (victim, after)
    )
    assert found.zeroed_share == pytest.approx(12 / len(before), abs=1e-15)
    ratio = np.linalg.norm(later - before) / np.linalg.norm(before)
    assert found.change == pytest.approx(ratio, rel=1e-12)
    bn = [f"layer4.1.bn2.{name}" for name in ("weight", "bias")]
    moved = np.concatenate([(after.state[n] - victim.state[n]).double().numpy() for n in bn])
    assert numbers["layer4.1.bn2"]["moved"] == pytest.approx(np.linalg.norm(moved), rel=1e-6)
