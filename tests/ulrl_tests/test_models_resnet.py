"""ResNets for small images: names, shapes and scores, each written out a second time."""

import re
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import batch_norm, conv2d, linear, relu

from ulrl.models.cifar_resnet import CifarResNet18
from ulrl.models.preact_resnet import PreActResNet18, PreActResNet18BN

State = dict[str, Tensor]
STAGES = ((1, 1), (2, 2), (3, 2), (4, 2))  # number, stride of the first block


def shapes(options: Any) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        network = options.build(classes=10, channels=3, side=32)
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def norm_shapes(prefix: str, channels: int) -> dict[str, tuple[int, ...]]:
    parts = ("weight", "bias", "running_mean", "running_var")
    entries: dict[str, tuple[int, ...]] = {f"{prefix}.{part}": (channels,) for part in parts}
    return entries | {f"{prefix}.num_batches_tracked": ()}


def test_resnet18_cifar_has_the_fields_names_and_shapes() -> None:
    """Those of pytorch-cifar, by rule; 11,173,962 parameters, as is often quoted."""
    expected = {"conv1.weight": (64, 3, 3, 3), **norm_shapes("bn1", 64)}
    before = 64
    for stage, width in enumerate((64, 128, 256, 512), start=1):
        for block in (0, 1):
            path = f"layer{stage}.{block}"
            expected[f"{path}.conv1.weight"] = (width, before, 3, 3)
            expected |= norm_shapes(f"{path}.bn1", width)
            expected[f"{path}.conv2.weight"] = (width, width, 3, 3)
            expected |= norm_shapes(f"{path}.bn2", width)
            if stage > 1 and block == 0:
                expected[f"{path}.shortcut.0.weight"] = (width, before, 1, 1)
                expected |= norm_shapes(f"{path}.shortcut.1", width)
            before = width
    expected |= {"linear.weight": (10, 512), "linear.bias": (10,)}
    assert shapes(CifarResNet18()) == expected
    with torch.device("meta"):
        network = CifarResNet18().build(classes=10, channels=3, side=32)
    assert sum(value.numel() for value in network.parameters()) == 11_173_962


def test_preact_resnet18_has_backdoorbenchs_names_and_shapes() -> None:
    """Those of the sibling, but for the norms: each comes before its convolution."""
    expected = {
        name: shape
        for name, shape in shapes(CifarResNet18()).items()
        if not re.search(r"^bn1|shortcut.1|bn1.", name)
    }
    before = 64
    for stage, width in enumerate((64, 128, 256, 512), start=1):
        for block in (0, 1):
            expected |= norm_shapes(f"layer{stage}.{block}.bn1", before)
            before = width
    assert len(expected) == 102
    assert shapes(PreActResNet18()) == expected
    with torch.device("meta"):
        network = PreActResNet18().build(classes=10, channels=3, side=32)
    assert sum(value.numel() for value in network.parameters()) == 11_171_146


def test_preact_resnet18_bn_has_one_more_norm() -> None:
    assert shapes(PreActResNet18BN()) == shapes(PreActResNet18()) | norm_shapes("bn", 512)


def drawn(options: Any) -> tuple[nn.Module, State]:
    """Return a network in evaluation mode with every entry drawn, and its state."""
    network: nn.Module = options.build(classes=4, channels=3, side=16)
    source = Generator().manual_seed(0)
    state = {}
    for name, value in network.state_dict().items():
        state[name] = value
        if value.is_floating_point():
            state[name] = 0.5 * torch.randn(value.shape, generator=source)
        if name.endswith("running_var"):
            state[name] = 0.5 + torch.rand(value.shape, generator=source)
    network.load_state_dict(state)
    return network.eval(), state


def norm(state: State, path: str, x: Tensor) -> Tensor:
    mean, var, weight, bias = (
        state[f"{path}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return batch_norm(x, mean, var, weight, bias)


IMAGES = torch.randn(3, 3, 16, 16, generator=Generator().manual_seed(1))


def test_activations_come_after_the_additions() -> None:
    network, state = drawn(CifarResNet18(width=3))
    x = relu(norm(state, "bn1", conv2d(IMAGES, state["conv1.weight"], padding=1)))
    for stage, first in STAGES:
        for block, stride in ((0, first), (1, 1)):
            path = f"layer{stage}.{block}"
            out = conv2d(x, state[f"{path}.conv1.weight"], stride=stride, padding=1)
            out = relu(norm(state, f"{path}.bn1", out))
            out = norm(state, f"{path}.bn2", conv2d(out, state[f"{path}.conv2.weight"], padding=1))
            if f"{path}.shortcut.0.weight" in state:
                x = conv2d(x, state[f"{path}.shortcut.0.weight"], stride=stride)
                x = norm(state, f"{path}.shortcut.1", x)
            x = relu(out + x)
    expected = linear(x.mean(dim=(2, 3)), state["linear.weight"], state["linear.bias"])
    with torch.no_grad():
        assert torch.allclose(network(IMAGES), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [PreActResNet18(width=3), PreActResNet18BN(width=3)])
def test_activations_come_before_the_convolutions(options: PreActResNet18) -> None:
    network, state = drawn(options)
    x = conv2d(IMAGES, state["conv1.weight"], padding=1)
    for stage, first in STAGES:
        for block, stride in ((0, first), (1, 1)):
            path = f"layer{stage}.{block}"
            active = relu(norm(state, f"{path}.bn1", x))
            out = conv2d(active, state[f"{path}.conv1.weight"], stride=stride, padding=1)
            out = relu(norm(state, f"{path}.bn2", out))
            out = conv2d(out, state[f"{path}.conv2.weight"], padding=1)
            if f"{path}.shortcut.0.weight" in state:
                x = conv2d(active, state[f"{path}.shortcut.0.weight"], stride=stride)
            x = out + x
    if "bn.weight" in state:
        x = relu(norm(state, "bn", x))
    expected = linear(x.mean(dim=(2, 3)), state["linear.weight"], state["linear.bias"])
    with torch.no_grad():
        assert torch.allclose(network(IMAGES), expected, rtol=1e-4, atol=1e-4)
