"""NPD: where the polariser goes, that it folds exactly, and how it is trained."""

from collections.abc import Callable
from dataclasses import replace
from math import log, sqrt

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import conv2d

from tests.ulrl_tests.repairs import CPU, clean_samples, rates, repaired, repaired_exactly
from tests.ulrl_tests.states import same
from tests.ulrl_tests.tiny_networks import weights_of
from ulrl.datasets import ImageSet
from ulrl.errors import DivergedError
from ulrl.methods import RepairContext
from ulrl.methods.npd import (
    NPD,
    Polariser,
    fold,
    inserted,
    pairs,
    place,
    push,
    strongest_wrong,
    targeted_perturbations,
)
from ulrl.models import Architecture, Classifier, ModelSpec, Weights, initialise, restore
from ulrl.models.cifar_resnet import CifarResNet18
from ulrl.models.preact_resnet import PreActResNet18, PreActResNet18BN
from ulrl.models.timm_model import TimmModel
from ulrl.models.vgg import VGG19BN
from ulrl.models.vit import ViTB16
from ulrl.poison import Poison
from ulrl.randomness import generator

PLACES: list[tuple[Architecture, str]] = [
    (PreActResNet18(width=4), "layer4.1.conv1"),
    (PreActResNet18BN(width=4), "layer4.1.conv1"),
    (CifarResNet18(width=4), "layer4.1.conv1"),
    (VGG19BN(width=4), "features.49"),
    (TimmModel(model="resnet10t"), "1.layer4.0.conv1"),  # whose shortcut is a sequence
]


@pytest.fixture
def drawn(model_spec: ModelSpec) -> Callable[[Architecture], Classifier]:
    """Return a network of random weights and statistics, in eval mode."""

    def draw(architecture: Architecture) -> Classifier:
        spec = replace(model_spec, architecture=architecture)
        made = initialise(spec, generator(0, "weights"), CPU)
        source = Generator().manual_seed(0)
        with torch.no_grad():
            for value in made.network.state_dict().values():
                if value.is_floating_point() and value.ndim == 1:
                    value.uniform_(0.5, 1.5, generator=source)
        made.network.eval()
        return made

    return draw


def shaken(convolution: nn.Conv2d) -> Polariser:
    """Return a polariser far from the identity."""
    polariser = Polariser(convolution.out_channels)
    source = Generator().manual_seed(2)
    with torch.no_grad():
        weight = polariser.mix.weight
        weight.add_(torch.randn(weight.shape, generator=source) / 8)
        for value in polariser.norm.state_dict().values():
            if value.is_floating_point():
                value.uniform_(0.5, 2.0, generator=source)
    return polariser


def layers_of(classifier: Classifier, path: str) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    network = classifier.network
    layer, norm = network.get_submodule(path), network.get_submodule(pairs(network)[path])
    assert isinstance(layer, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    return layer, norm


@pytest.mark.parametrize(
    ("architecture", "path"),
    [*PLACES, (CifarResNet18(width=4), "conv1"), (PreActResNet18(width=4), "layer2.0.conv1")],
    ids=lambda value: value.called if isinstance(value, Architecture) else value,
)
def test_the_folded_polariser_is_the_one_between_the_layers(
    drawn: Callable[[Architecture], Classifier],
    pictures: ImageSet,
    architecture: Architecture,
    path: str,
) -> None:
    classifier = drawn(architecture)
    layer, norm = layers_of(classifier, path)
    names, images = list(classifier.network.state_dict()), pictures.test_images[:8]
    polariser = shaken(layer)
    with torch.no_grad():
        before = classifier.logits(images)
        with inserted(polariser, layer):
            wanted = classifier.logits(images)
        fold(polariser, layer, norm)
        after = classifier.logits(images)
    size = float(wanted.abs().max())
    torch.testing.assert_close(after / size, wanted / size, rtol=0, atol=1e-5)
    assert float((after - before).abs().max()) > 1e-3 * size
    assert list(classifier.network.state_dict()) == names


@pytest.mark.parametrize(("architecture", "path"), PLACES, ids=str)
def test_the_place_is_the_first_convolution_of_the_last_block(
    architecture: Architecture, path: str
) -> None:
    with torch.device("meta"):
        network = architecture.build(classes=10, channels=3, side=32)
    assert place(network) == path
    NPD().check(network, "head", 10)
    NPD(layer=path).check(network, "head", 10)


def test_without_training_the_polariser_is_the_identity_up_to_epsilon(
    victim_of: Callable[[int], Weights], pictures: ImageSet
) -> None:
    victim = restore(victim_of(0), CPU)
    victim.network.eval()
    layer, norm = layers_of(victim, "layer4.1.conv1")
    filters = layer.weight.detach().clone()
    with torch.no_grad():
        before = victim.logits(pictures.test_images)
        with inserted(Polariser(layer.out_channels), layer):
            between = victim.logits(pictures.test_images)
        fold(Polariser(layer.out_channels), layer, norm)
    torch.testing.assert_close(between, before, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer.weight.detach(), filters / sqrt(1 + 1e-5))
    assert not torch.equal(between, before)


def test_pushed_scores_are_the_formula() -> None:
    scores = torch.tensor([[2.0, 1.0, -1.0], [50.0, 0.0, 0.0]])
    labels = torch.tensor([0, 2])
    assert strongest_wrong(scores, labels).tolist() == [1, 0]
    p = float(scores[0].softmax(0)[1])
    wanted = -(log(1.0001 - p) + log(0.0001)) / 2
    assert float(push(scores, torch.tensor([1, 0]))) == pytest.approx(wanted, rel=1e-2)


def linear(images: Tensor) -> Tensor:
    weight = torch.randn(12, 5, generator=Generator().manual_seed(1)) / 100
    return images.flatten(1).float() @ weight


@pytest.mark.parametrize("bound", [0.05, 1.0])
def test_perturbations_go_to_their_targets_within_the_bound(bound: float) -> None:
    source = Generator().manual_seed(0)
    images = torch.randint(256, (20, 3, 2, 2), generator=source).to(torch.uint8)
    targets = strongest_wrong(linear(images), linear(images).argmax(dim=1))
    moved = targeted_perturbations(linear, images, targets, bound=bound, steps=2)
    change = (moved - images) / 255
    assert float(change.flatten(1).norm(dim=1).max()) <= bound + 1e-6
    assert float(moved.min()) >= 0
    assert float(moved.max()) <= 255
    there = float((linear(moved).argmax(dim=1) == targets).float().mean())
    assert there > (0.05 if bound < 0.1 else 0.6)
    assert there > float((linear(images).argmax(dim=1) == targets).float().mean())


def test_perturbations_stop_where_most_are_at_their_targets() -> None:
    images = torch.full((4, 3, 2, 2), 128, dtype=torch.uint8)
    images += torch.arange(4, dtype=torch.uint8)[:, None, None, None]
    best = linear(images).argmax(dim=1)
    most = torch.where(torch.arange(4) < 3, best, (best + 1) % 5)  # 75 % are there already
    half = torch.where(torch.arange(4) < 2, best, (best + 1) % 5)
    stay, go = (
        targeted_perturbations(linear, images, targets, bound=1.0, steps=2)
        for targets in (most, half)
    )
    assert torch.equal(stay, images.float())
    assert not torch.equal(go[2:], images[2:].float())


def strongest_but(label: int, scores: Tensor) -> int:
    values = scores.detach().tolist()
    return max((k for k in range(len(values)) if k != label), key=lambda k: values[k])


class Plain:
    """The published training of a polariser after a convolution, in the plainest way."""

    def __init__(self, classifier: Classifier, layer: nn.Conv2d) -> None:
        channels = layer.out_channels
        self.classifier = classifier
        self.mix = torch.eye(channels).requires_grad_()
        self.scale = torch.ones(channels, requires_grad=True)
        self.shift = torch.zeros(channels, requires_grad=True)
        self.mean, self.variance, self.batch = torch.zeros(channels), torch.ones(channels), False
        layer.register_forward_hook(lambda _layer, _inputs, maps: self.polarise(maps))

    @property
    def weights(self) -> tuple[Tensor, ...]:
        return self.mix, self.scale, self.shift

    def polarise(self, maps: Tensor) -> Tensor:
        mixed = conv2d(maps, self.mix[:, :, None, None])
        mean, variance = self.mean, self.variance
        if self.batch:
            mean, variance = mixed.mean((0, 2, 3)), mixed.var((0, 2, 3), correction=0)
            count = mixed.numel() / len(mean)
            self.mean = 0.9 * self.mean + 0.1 * mean.detach()
            self.variance = 0.9 * self.variance + 0.1 * variance.detach() * count / (count - 1)
        shape = (1, -1, 1, 1)
        normalised = (mixed - mean.reshape(shape)) / (variance.reshape(shape) + 1e-5).sqrt()
        return normalised * self.scale.reshape(shape) + self.shift.reshape(shape)

    def warm_up(self, images: Tensor, labels: Tensor) -> None:
        self.batch = True
        p = self.classifier.logits(images).softmax(1)
        loss = torch.zeros(())
        for row, label in zip(p, labels, strict=True):
            loss = loss - row[label].log() / len(labels)
        for weight, gradient in zip(
            self.weights, torch.autograd.grad(loss, self.weights), strict=True
        ):
            weight.data -= 1e-4 * gradient
        self.batch = False

    def perturbed(self, image: Tensor, target: Tensor, bound: float) -> Tensor:
        """One image's two steps; the batch of the test never stops early."""
        delta = torch.zeros_like(image)
        for _ in range(2):
            delta = delta.detach().requires_grad_()
            p = self.classifier.logits((image + 255 * delta).clamp(0, 255)[None])[0].softmax(0)
            (gradient,) = torch.autograd.grad(-p[target].log(), delta)
            delta = delta - 0.1 * gradient.sign()
            delta = delta * min(1.0, bound / float(delta.detach().norm()))
        return (image + 255 * delta.detach()).clamp(0, 255)

    def loss(self, images: Tensor, labels: Tensor, bound: float) -> tuple[Tensor, int]:
        total, reached = torch.zeros(()), 0
        for image, label in zip(images, labels, strict=True):
            scores = self.classifier.logits(image[None])[0]
            target = strongest_but(int(label), scores)
            moved = self.perturbed(image, torch.tensor(target), bound)
            p = self.classifier.logits(moved[None])[0].softmax(0)
            reached += int(p.argmax()) == target
            other = strongest_but(int(label), p)
            total = total - scores.softmax(0)[label].log() - 0.4 * p[scores.argmax()].log()
            total = total - 0.4 * ((1.0001 - p[other]).log() + (1.0001 - p[target]).log())
        return total / len(images), reached


def test_two_steps_are_those_of_a_plain_writing(
    victim_of: Callable[[int], Weights], pictures: ImageSet
) -> None:
    """A step of warm-up, then two of training with momentum and decay, each image by itself."""
    clean = clean_samples(pictures, share=0.1)
    method = NPD(warmup_epochs=1, epochs=2, bound=0.6, batch_size=30, weight_decay=0.05)
    found = repaired(method, victim_of(0), clean).weights.state
    network = restore(victim_of(0), CPU)
    network.network.eval()
    layer, norm = layers_of(network, "layer4.1.conv1")
    plain = Plain(network, layer)
    images, labels = clean.samples.images.float(), clean.samples.labels
    plain.warm_up(images, labels)
    velocities = [torch.zeros_like(weight) for weight in plain.weights]
    for _ in range(2):
        loss, reached = plain.loss(images, labels, bound=0.6)
        assert reached < 0.6 * len(images)  # so that no step was left out
        gradients = torch.autograd.grad(loss, plain.weights)
        for weight, gradient, velocity in zip(plain.weights, gradients, velocities, strict=True):
            velocity.mul_(0.9).add_(gradient + 0.05 * weight.detach())
            weight.data -= 0.01 * velocity
    scale = (plain.scale / (plain.variance + 1e-5).sqrt()).detach()
    filters = torch.einsum("o,oi,ichw->ochw", scale, plain.mix.detach(), layer.weight.detach())
    mean = norm.running_mean
    assert mean is not None
    moved = mean - (plain.shift.detach() - scale * plain.mean)
    torch.testing.assert_close(found["layer4.1.conv1.weight"], filters, rtol=2e-3, atol=2e-5)
    torch.testing.assert_close(found["layer4.1.bn2.running_mean"], moved, rtol=2e-3, atol=2e-5)
    untouched = {"layer4.1.conv1.weight", "layer4.1.bn2.running_mean"} ^ found.keys()
    assert all(torch.equal(found[name], victim_of(0).state[name]) for name in untouched)


def test_it_weakens_a_backdoor(
    victim_of: Callable[[int], Weights], pictures: ImageSet, badnets: Poison
) -> None:
    """It does not end it. Of the victims of seeds 0, 1 and 2 this one is between the others."""
    before = rates(victim_of(0), badnets, pictures)
    method = NPD(batch_size=20, epochs=25)
    found = repaired_exactly(method, victim_of(0), clean_samples(pictures, 0.5))
    after = rates(found.weights, badnets, pictures)
    assert before.asr > 0.9
    assert after.asr < 0.7
    assert after.acc > before.acc - 0.15
    assert len(found.shown) == 25


def test_the_same_bits_twice(victim_of: Callable[[int], Weights], pictures: ImageSet) -> None:
    first, second = (
        repaired(NPD(epochs=1), victim_of(0), clean_samples(pictures)) for _ in range(2)
    )
    assert same(dict(first.weights.state), dict(second.weights.state))


def test_numbers_depend_on_the_dataset() -> None:
    def numbers(method: NPD) -> tuple[object, ...]:
        return method.bound, method.adversarial_weight, method.push_weight, method.warmup_epochs

    assert numbers(NPD().resolved("cifar10")) == (3, 0.4, 0.4, 5)
    assert numbers(NPD().resolved("gtsrb")) == (5, 0.5, 0.5, 5)
    assert numbers(NPD().resolved("tiny_imagenet")) == (6, 1, 0.1, 0)
    given = NPD(bound=1, adversarial_weight=0, push_weight=2, warmup_epochs=0)
    assert given.resolved("gtsrb") == given


def test_a_rate_that_is_too_large_is_an_error(
    victim_of: Callable[[int], Weights], pictures: ImageSet
) -> None:
    with pytest.raises(DivergedError, match=r"npd diverged in epoch .* smaller lr may help"):
        repaired(NPD(lr=100.0, epochs=40), victim_of(0), clean_samples(pictures))


class Apart(nn.Module):
    """A convolution whose output also goes past the BatchNorm after it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv(x)
        logits: Tensor = self.head((self.norm(maps).relu() + maps).mean(dim=(2, 3)))
        return logits


def test_a_convolution_that_also_goes_elsewhere_is_refused(pictures: ImageSet) -> None:
    clean = clean_samples(pictures)
    two = replace(
        clean.samples, images=clean.samples.images[:, :2], labels=clean.samples.labels % 3
    )
    context = RepairContext(
        victim=weights_of(Apart),
        clean=replace(clean, samples=two),
        device=CPU,
        observe=lambda _: None,
    )
    (stage,) = NPD().resolved("cifar10").stages
    with pytest.raises(ValueError, match=r"npd cannot go into conv: .* name another layer"):
        next(stage.checked(context, {}))


@pytest.mark.parametrize(
    ("architecture", "layer", "message"),
    [
        (ViTB16(width=12, depth=1), None, "npd needs a convolution with a BatchNorm after it"),
        (TimmModel(model="convnext_atto"), None, "and the network has none"),
        (PreActResNet18(width=4), "layer4.1.conv2", "such as layer4.1.conv1; got layer4.1.conv2"),
        (PreActResNet18(width=4), "layer4.1.cnv1", r"cnv1; did you mean 'layer4.1.conv1'"),
    ],
    ids=["vit", "convnext", "no batchnorm after", "misspelt"],
)
def test_other_networks_and_layers_are_refused(
    architecture: Architecture, layer: str | None, message: str
) -> None:
    with torch.device("meta"):
        network = architecture.build(classes=10, channels=3, side=32)
    with pytest.raises(ValueError, match=message):
        NPD(layer=layer).check(network, "head", 10)


def test_layers_that_cannot_hold_a_polariser_are_no_pairs() -> None:
    """Groups cannot mix all channels, and batch statistics take back every shift."""
    network = nn.Sequential(
        *(nn.Conv2d(4, 4, 3, groups=2), nn.BatchNorm2d(4)),
        *(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),
        *(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)),
        *(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8)),
    )
    assert pairs(network) == {"7": "8"}


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [
        ("layer", "", "the path of a convolution"),
        ("bound", 0.0, "above 0 and at most 1000"),
        ("bound", float("nan"), "above 0 and at most 1000"),
        ("adversarial_weight", -0.1, "in .0, 1000."),
        ("push_weight", 1001.0, "in .0, 1000."),
        ("inner_steps", 0, "from 1 to 100"),
        ("warmup_epochs", -1, "from 0 to 1000"),
        ("lr", 0.0, "above 0 and at most 100"),
        ("epochs", 0, "from 1 to 1000"),
    ],
)
def test_options_out_of_range_are_refused(option: str, value: float, rule: str) -> None:
    with pytest.raises(ValueError, match=f"{option} is {rule}"):
        NPD(**{option: value})  # type: ignore[arg-type]
