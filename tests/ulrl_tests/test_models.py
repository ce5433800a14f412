"""How networks are built, fed and copied."""

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, batch_norm, conv2d, linear, relu

from ulrl.datasets import Preprocessing
from ulrl.models import ARCHITECTURES, Classifier, ModelSpec, initialise, restore
from ulrl.models.cifar_resnet import CifarResNet18
from ulrl.models.preact_resnet import PreActResNet18, PreActResNet18BN
from ulrl.models.vgg import VGG19BN, _resized
from ulrl.randomness import generator


@pytest.fixture
def images() -> Tensor:
    return torch.randint(256, (7, 3, 16, 16), generator=Generator().manual_seed(0)).byte()


def test_initial_weights_depend_on_the_generator_alone(
    model_spec: ModelSpec, cpu: torch.device
) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    once = initialise(model_spec, generator(0, "a"), cpu).weights().state
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again = initialise(model_spec, generator(0, "a"), cpu).weights().state
    other = initialise(model_spec, generator(1, "a"), cpu).weights().state
    assert all(torch.equal(value, again[name]) for name, value in once.items())
    assert not torch.equal(once["conv1.weight"], other["conv1.weight"])


@pytest.mark.parametrize("training", [True, False])
def test_predict_keeps_the_mode_and_the_statistics(
    model_spec: ModelSpec, images: Tensor, cpu: torch.device, *, training: bool
) -> None:
    classifier = initialise(model_spec, generator(0, "a"), cpu)
    classifier.network.train(training)
    before = classifier.weights().state
    predictions = classifier.predict(images)
    assert classifier.network.training is training
    after = classifier.weights().state
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    classifier.network.eval()
    with torch.no_grad():
        assert torch.equal(predictions, classifier.logits(images).argmax(dim=1))


def test_inputs_are_normalised_per_channel(cpu: torch.device) -> None:
    class Eye(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs.flatten(1)

    preprocessing = Preprocessing(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0), padding=0, flip=False)
    model_spec = ModelSpec(
        architecture=PreActResNet18(), classes=2, channels=3, side=1, preprocessing=preprocessing
    )
    levels = torch.tensor([0, 51, 255], dtype=torch.uint8)
    pixels = levels[:, None, None, None].expand(3, 3, 1, 1)
    inputs = Classifier(model_spec, Eye(), cpu).logits(pixels)
    expected = [
        [(level - mean) / std for mean, std in ((0.1, 0.5), (0.2, 0.25), (0.3, 2.0))]
        for level in (0.0, 0.2, 1.0)
    ]
    assert torch.allclose(inputs, torch.tensor(expected), atol=1e-6)


SMALL: dict[str, dict[str, Any]] = {
    "preact_resnet18": {"width": 2},
    "preact_resnet18_bn": {"width": 2},
    "resnet18_cifar": {"width": 2},
    "small_cnn": {"width": 2},
    "vgg19_bn": {"width": 2},
    "vit_b_16": {"size": 32, "patch": 8, "width": 16, "depth": 2, "heads": 2},
    "timm": {"model": "resnet10t"},
}
IN_FULL = [(name, {"model": "resnet18"} if name == "timm" else {}) for name in ARCHITECTURES]
PLAIN = Preprocessing(mean=(0.5,), std=(0.25,), padding=0, flip=False)
SIZES = [(16, 3), (32, 1)]


def small(name: str, side: int, channels: int) -> ModelSpec:
    return ModelSpec(
        architecture=ARCHITECTURES[name](**SMALL[name]),
        classes=4,
        channels=channels,
        side=side,
        preprocessing=replace(PLAIN, mean=(0.5,) * channels, std=(0.25,) * channels),
    )


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize(("side", "channels"), SIZES)
def test_every_architecture_learns_and_comes_back(
    name: str, side: int, channels: int, cpu: torch.device
) -> None:
    """A step of training moves each weight but dead ones, and the copy of that gives its scores."""
    model_spec = small(name, side, channels)
    classifier = initialise(model_spec, generator(0, "a"), cpu)
    drawn = classifier.weights().state
    again = initialise(model_spec, generator(0, "a"), cpu).weights().state
    assert all(torch.equal(value, again[entry]) for entry, value in drawn.items())
    source = Generator().manual_seed(0)
    images = torch.randint(256, (8, channels, side, side), generator=source).byte()
    optimiser = torch.optim.SGD(classifier.network.parameters(), lr=0.1)
    for _ in range(2):  # a head of zeros lets nothing through at first
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(classifier.logits(images), torch.arange(8) % 4)
        torch.autograd.backward(loss)
        gradients = [value.grad for value in classifier.network.parameters()]
        assert all(part is not None and bool(part.isfinite().all()) for part in gradients)
        optimiser.step()
    assert not any(
        torch.equal(value, drawn[entry])
        for entry, value in classifier.weights().state.items()
        if value.ndim > 1
    )
    copy = restore(classifier.weights(), cpu)
    for model in (classifier, copy):
        model.network.eval()
    with torch.no_grad():
        scores = classifier.logits(images)
        assert scores.shape == (8, 4)
        assert torch.equal(copy.logits(images), scores)


@pytest.mark.parametrize(("name", "options"), IN_FULL)
def test_every_architecture_can_be_sized_up_without_memory(
    name: str, options: dict[str, str]
) -> None:
    with torch.device("meta"), torch.no_grad():
        network = ARCHITECTURES[name](**options).build(classes=10, channels=3, side=32).eval()
        assert network(torch.empty(1, 3, 32, 32)).shape == (1, 10)
    assert all(value.is_meta for value in network.parameters())


# ResNets for small images: names, shapes and scores, each written out a second time.


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


# VGG19 with batch normalisation, against torchvision's and the benchmark's names.


CONVOLUTIONS = (0, 3, 7, 10, 14, 17, 20, 23, 27, 30, 33, 36, 40, 43, 46, 49)


def vgg_shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def test_vgg19_bn_has_the_benchmarks_names_and_shapes() -> None:
    with torch.device("meta"):
        network = VGG19BN().build(classes=10, channels=3, side=32)
    state = vgg_shapes(network)
    assert len(state) == 118
    assert sum(parameter.numel() for parameter in network.parameters()) == 139_622_218
    norms = {f"features.{index + 1}.running_var" for index in CONVOLUTIONS}
    assert {name for name in state if name.endswith("running_var")} == norms
    assert {name for name, shape in state.items() if len(shape) == 4} == {
        f"features.{index}.weight" for index in CONVOLUTIONS
    }
    assert state["classifier.0.weight"] == (4096, 25088)
    assert state["classifier.3.weight"] == (4096, 4096)
    assert state["classifier.6.weight"] == (10, 4096)


def test_vgg19_bn_is_torchvisions_in_names_draw_and_numbers() -> None:
    from torchvision.models import vgg19_bn  # type: ignore[import-untyped]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        reference = vgg19_bn(num_classes=3).eval()
        torch.manual_seed(0)
        network = VGG19BN().build(classes=3, channels=3, side=32).eval()
    state, expected = network.state_dict(), reference.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(value, expected[name]) for name, value in state.items())
    for side in (32, 64):
        images = torch.randn(2, 3, side, side, generator=Generator().manual_seed(side))
        with torch.no_grad():
            assert torch.allclose(network(images), reference(images), atol=1e-5)


@pytest.mark.parametrize("side", [1, 5, 10])
def test_features_are_pooled_as_torchs_adaptive_pool_does(side: int) -> None:
    features = torch.randn(2, 3, side, side, generator=Generator().manual_seed(0))
    assert torch.allclose(_resized(features), adaptive_avg_pool2d(features, 7), atol=1e-6)
