"""How networks are built, fed and copied."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from ulrl.datasets import Preprocessing
from ulrl.models import ARCHITECTURES, Classifier, ModelSpec, initialise, restore
from ulrl.models.preact_resnet import PreActResNet18
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


def test_restoring_gives_identical_logits(
    model_spec: ModelSpec, images: Tensor, cpu: torch.device
) -> None:
    torch.manual_seed(3)
    classifier = initialise(model_spec, generator(0, "a"), cpu)
    with torch.no_grad():
        classifier.logits(images)  # moves the running statistics off their start
    before = torch.get_rng_state()
    copy = restore(classifier.weights(), cpu)
    assert torch.equal(torch.get_rng_state(), before)
    classifier.network.eval()
    copy.network.eval()
    with torch.no_grad():
        assert torch.equal(classifier.logits(images), copy.logits(images))


def test_restoring_draws_nothing(monkeypatch: pytest.MonkeyPatch, model_spec: ModelSpec) -> None:
    """Random weights that are overwritten at once cost seconds for the largest networks."""
    weights = initialise(model_spec, generator(0), torch.device("cpu")).weights()
    states = []
    build = PreActResNet18.build

    def watched(self: PreActResNet18, **sizes: int) -> nn.Module:
        states.append(torch.get_rng_state())
        network = build(self, **sizes)
        states.append(torch.get_rng_state())
        return network

    monkeypatch.setattr(PreActResNet18, "build", watched)
    restore(weights, torch.device("cpu"))
    assert torch.equal(*states)


def test_weights_are_a_copy(model_spec: ModelSpec, cpu: torch.device) -> None:
    classifier = initialise(model_spec, generator(0, "a"), cpu)
    weights = classifier.weights()
    kept = weights.head.clone()
    with torch.no_grad():
        classifier.head.weight.zero_()
    assert torch.equal(weights.head, kept)
    other = restore(weights, cpu)
    with torch.no_grad():
        other.head.weight.zero_()
    assert torch.equal(weights.head, kept)
    assert weights.head.shape == (10, 32)


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


def test_predict_goes_through_any_number_of_images(
    model_spec: ModelSpec, cpu: torch.device
) -> None:
    images = torch.randint(256, (1203, 3, 16, 16), generator=Generator().manual_seed(0)).byte()
    classifier = initialise(model_spec, generator(0, "a"), cpu)
    whole = classifier.predict(images)
    assert len(whole) == 1203
    assert torch.equal(whole[1000:], classifier.predict(images[1000:]))


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


def test_a_head_that_is_not_linear_is_refused(model_spec: ModelSpec, cpu: torch.device) -> None:
    class Wrong(PreActResNet18):
        @property
        def head(self) -> str:
            return "layer4"

    wrong = replace(model_spec, architecture=Wrong(width=2))
    classifier = initialise(wrong, generator(0, "a"), cpu)
    with pytest.raises(TypeError, match="layer4") as error:
        _ = classifier.head
    assert str(error.value) == "layer4 is Sequential, not the linear layer ULRL needs"


SMALL: dict[str, dict[str, Any]] = {
    "preact_resnet18": {"width": 2},
    "preact_resnet18_bn": {"width": 2},
    "resnet18_cifar": {"width": 2},
    "vgg19_bn": {"width": 2},
    "vit_b_16": {"size": 32, "patch": 8, "width": 16, "depth": 2, "heads": 2},
    "timm": {"model": "resnet10t"},
}
IN_FULL = [(name, {"model": "resnet18"} if name == "timm" else {}) for name in ARCHITECTURES]
PLAIN = Preprocessing(mean=(0.5,), std=(0.25,), padding=0, flip=False)
SIZES = [(16, 3), (32, 1), (64, 3)]


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
