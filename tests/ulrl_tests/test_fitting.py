"""The training loop as its batches see it."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from tests.ulrl_tests.tiny_networks import classifier_of
from ulrl.attacks import LabelRule, Stamp, StampingHooks
from ulrl.attacks.badnets import BadNets
from ulrl.augmentation import apply_views, draw_views
from ulrl.datasets import ImageSet, Preprocessing
from ulrl.fitting import Epoch, Samples, SGDConfig, Sources, train
from ulrl.models import Classifier, ModelSpec, initialise
from ulrl.models.vgg import VGG19BN
from ulrl.poison import Poison
from ulrl.precision import Precision
from ulrl.randomness import generator
from ulrl.sgd import SGD, Optimiser
from ulrl.training_hooks import NO_HOOKS, TrainingHooks

COUNT = 36


@pytest.fixture
def classifier(model_spec: ModelSpec, cpu: torch.device) -> Classifier:
    return initialise(model_spec, generator(0, "test"), cpu)


@pytest.fixture
def samples() -> Samples:
    """Grey images, each of its own level, which no crop without border can change."""
    levels = torch.arange(COUNT, dtype=torch.uint8)
    images = levels[:, None, None, None].expand(-1, 3, 16, 16).contiguous()
    return Samples(images=images, labels=torch.arange(COUNT) % 10)


class Spy:
    """Notes what the network is fed, and in which mode."""

    def __init__(self, classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batches: list[Tensor] = []
        self.training: list[bool] = []
        logits = classifier.logits

        def noted(images: Tensor) -> Tensor:
            self.batches.append(images.clone())
            self.training.append(classifier.network.training)
            return logits(images)

        monkeypatch.setattr(classifier, "logits", noted)


def fit(
    classifier: Classifier,
    samples: Samples,
    config: SGDConfig,
    *,
    padding: int = 0,
    hooks: TrainingHooks = NO_HOOKS,
) -> Iterator[Epoch]:
    preprocessing = replace(classifier.model_spec.preprocessing, padding=padding, flip=padding > 0)
    classifier.model_spec = replace(classifier.model_spec, preprocessing=preprocessing)
    return train(classifier, samples, cross_entropy, config, three_sources(), hooks)


def three_sources() -> Sources:
    one, two, three = (Generator().manual_seed(seed) for seed in (1, 2, 3))
    return Sources(order=one, views=two, layers=three)


def test_late_triggers_are_whole_in_every_view(
    classifier: Classifier, samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = Poison(
        attack=BadNets(),
        labels=LabelRule.ALL_TO_ONE,
        poison_ratio=0.25,
        stamp=Stamp.AFTER_AUGMENTATION,
    )
    hooks = StampingHooks(poison, BadNets(), samples.labels, classes=10, seed=0)
    spy = Spy(classifier, monkeypatch)
    config = SGDConfig(epochs=3, batch_size=16, rate=lambda _: 0.01)
    list(fit(classifier, samples, config, padding=3, hooks=hooks))
    shown = torch.cat(spy.batches)
    patched = (shown[:, :, -3:, -3:] == 255).flatten(1).all(dim=1)
    assert int(patched.sum()) == 3 * COUNT // 4
    # No grey level of a sample is above 35, so what is left is free of the trigger.
    assert int(shown[~patched].max()) < COUNT
    assert int(samples.images.max()) < COUNT


@pytest.mark.parametrize("count", [32, 33, 34])
def test_a_last_sample_that_cannot_stand_alone_joins_the_batch_before(
    pictures: ImageSet, cpu: torch.device, count: int
) -> None:
    """VGG's features of such images are 1×1, and BatchNorm wants more than one value."""
    preprocessing = Preprocessing(mean=(0.5,) * 3, std=(0.25,) * 3, padding=0, flip=False)
    model_spec = ModelSpec(
        architecture=VGG19BN(width=2), classes=10, channels=3, side=16, preprocessing=preprocessing
    )
    classifier = initialise(model_spec, generator(0, "one"), cpu)
    sizes: list[int] = []
    classifier.network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    samples = Samples(
        images=pictures.train_images[:count], labels=pictures.train_labels[:count] % 2
    )
    config = SGDConfig(epochs=1, batch_size=16, rate=lambda _: 0.01)
    list(train(classifier, samples, cross_entropy, config, Sources.of(0, "one")))
    assert [size for size in sizes if size > 1] == {32: [16, 16], 33: [16, 17], 34: [16, 16, 2]}[
        count
    ]


# The training loop with its switches thrown.


IMAGES = torch.randint(0, 256, (11, 2, 5, 5), generator=Generator().manual_seed(4))
SAMPLES = Samples(images=IMAGES.to(torch.uint8), labels=torch.arange(11) % 3)


class Dropping(nn.Module):
    """A convolution and a head, with dropout between them."""

    def __init__(self, channels: int = 2, classes: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 8, 3)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dropout(self.conv(x).relu().mean(dim=(2, 3))))
        return logits


@pytest.mark.parametrize(
    ("count", "size", "kept", "whole"),
    [(11, 4, [4, 4], [4, 4, 3]), (8, 4, [4, 4], [4, 4]), (3, 4, [3], [3]), (4, 4, [4], [4])],
)
def test_a_short_batch_may_be_left_out_but_never_the_only_one(
    count: int, size: int, kept: list[int], whole: list[int]
) -> None:
    order = torch.randperm(count, generator=Generator().manual_seed(0))
    for drop_last, lengths in ((True, kept), (False, whole)):
        config = SGDConfig(epochs=1, batch_size=size, rate=lambda _: 0.1, drop_last=drop_last)
        batches = config.batches(order)
        assert [len(batch) for batch in batches] == lengths
        assert torch.equal(torch.cat(batches), order[: sum(lengths)])


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_dropout_draws_what_the_seed_says_whatever_was_drawn_before() -> None:
    config = SGDConfig(epochs=3, batch_size=4, rate=lambda _: 0.05)
    ends = []
    for draws, seed in ((0, 0), (17, 0), (0, 1)):
        torch.manual_seed(draws)
        torch.rand(draws)
        classifier = classifier_of(Dropping)
        state = torch.get_rng_state()
        sources = replace(Sources.of(0, "test"), layers=Sources.of(seed, "test").layers)
        for _ in train(classifier, SAMPLES, cross_entropy, config, sources):
            assert torch.equal(torch.get_rng_state(), state), "put back after every epoch"
            if draws:
                torch.rand(5)
                state = torch.get_rng_state()
        ends.append(classifier.weights().state)
    assert same(ends[0], ends[1])
    assert not same(ends[0], ends[2]), "another seed drops others"


# Random crop and flip against a naive one, image by image.


CPU = torch.device("cpu")
PREPROCESSING = Preprocessing(mean=(0.0,), std=(1.0,), padding=2, flip=True)


def naive(image: Tensor, top: int, left: int, padding: int, *, mirrored: bool) -> Tensor:
    channels, height, width = image.shape
    seen = torch.zeros_like(image)
    for y in range(height):
        for x in range(width):
            # Crop first, then mirror the crop.
            column = width - 1 - x if mirrored else x
            row, source = y + top - padding, column + left - padding
            if 0 <= row < height and 0 <= source < width:
                for channel in range(channels):
                    seen[channel, y, x] = image[channel, row, source]
    return seen


@given(st.integers(0, 4), st.integers(1, 3), st.integers(3, 6), st.integers(0, 1000))
def test_agrees_with_slicing_each_image(padding: int, channels: int, side: int, seed: int) -> None:
    source = Generator().manual_seed(seed)
    images = torch.randint(1, 256, (5, channels, side, side), generator=source).to(torch.uint8)
    preprocessing = replace(PREPROCESSING, padding=padding)
    views = draw_views(5, preprocessing, source, CPU)
    seen = apply_views(images, views, preprocessing)
    assert seen.dtype == torch.uint8
    for i in range(5):
        expected = naive(
            images[i],
            int(views.top[i]),
            int(views.left[i]),
            padding,
            mirrored=bool(views.mirrored[i]),
        )
        assert torch.equal(seen[i], expected)


@pytest.mark.parametrize("padding", [0, 1, 4])
def test_draws_are_uniform_over_crops(padding: int) -> None:
    count, places = 20_000, 2 * padding + 1
    views = draw_views(
        count, replace(PREPROCESSING, padding=padding), Generator().manual_seed(0), CPU
    )
    for offsets in (views.top, views.left):
        frequencies = offsets.bincount(minlength=places) / count
        assert len(frequencies) == places
        # Five standard errors of a share of 20,000 draws are 0.0177 at most.
        assert frequencies.tolist() == pytest.approx([1 / places] * places, abs=0.0177)
    assert float(views.mirrored.float().mean()) == pytest.approx(0.5, abs=0.0177)
    if padding:
        assert not torch.equal(views.top, views.left)


def test_no_flip_where_the_dataset_has_none() -> None:
    plain = draw_views(1000, replace(PREPROCESSING, flip=False), Generator().manual_seed(0), CPU)
    mirrored = draw_views(1000, PREPROCESSING, Generator().manual_seed(0), CPU)
    assert not bool(plain.mirrored.any())
    assert torch.equal(plain.top, mirrored.top)


# SGD: torch's own steps to the bit, and none of torch's compiler.


Settings = dict[str, float | bool]
SETTINGS: list[Settings] = [
    {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0},
    {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.0},
    {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4},
    {"lr": 0.01, "momentum": 0.5, "weight_decay": 0.1, "nesterov": True},
]


class Branches(nn.Module):
    """Two layers, of which an input may leave one out."""

    def __init__(self) -> None:
        super().__init__()
        self.always = nn.Linear(7, 5)
        self.seldom = nn.Linear(5, 5)

    def forward(self, values: Tensor, *, both: bool) -> Tensor:
        found: Tensor = self.always(values)
        return self.seldom(found) if both else found


def steps(network: Branches, optimiser: Optimiser) -> list[Tensor]:
    """Take ten steps at a falling rate, some of them without gradients of one layer."""
    draws = torch.Generator().manual_seed(3)
    for number in range(10):
        for group in optimiser.param_groups:
            group["lr"] = 0.1 / (1 + number)
        optimiser.zero_grad()
        values = torch.randn(16, 7, generator=draws)
        network(values, both=number % 3 != 0).square().mean().backward()
        optimiser.step()
    return [parameter.detach() for parameter in network.parameters()]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_it_makes_the_steps_of_torch_to_the_bit(settings: Settings) -> None:
    ours, theirs = Branches(), Branches()
    theirs.load_state_dict(ours.state_dict())
    was = [parameter.detach().clone() for parameter in ours.parameters()]
    make: Callable[..., Optimiser] = SGD
    moved = steps(ours, make(ours, **settings))
    reference = torch.optim.SGD(theirs.parameters(), fused=True, **settings)  # type: ignore[arg-type]
    if settings["momentum"]:
        # Its own first step cannot go without some of the gradients.
        for parameter in theirs.parameters():
            reference.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    expected = steps(theirs, reference)
    assert all(map(torch.equal, moved, expected))
    assert not any(map(torch.equal, moved, was))


@pytest.mark.parametrize("settings", SETTINGS[:3], ids=str)
def test_loss_scaling_makes_the_steps_of_torch_to_the_bit(settings: Settings) -> None:
    """Also with gradients that the scaler has divided already, as before clipping."""
    ours, theirs = nn.Linear(4, 3), nn.Linear(4, 3)
    theirs.load_state_dict(ours.state_dict())
    make: Callable[..., Optimiser] = SGD
    pairs: list[tuple[nn.Module, Optimiser]] = [
        (ours, make(ours, **settings)),
        (theirs, torch.optim.SGD(theirs.parameters(), fused=True, **settings)),  # type: ignore[arg-type]
    ]
    for network, optimiser in pairs:
        scaler = Precision.FP16.scaler(CPU)
        for number, factor in enumerate((1.0, torch.inf, 2.0, 0.5)):
            optimiser.zero_grad()
            loss = network(torch.full((2, 4), factor)).mean()
            scaler.scale(loss).backward()
            if number % 2:
                scaler.unscale_(optimiser)  # type: ignore[arg-type]
            scaler.step(optimiser)  # type: ignore[arg-type]
            scaler.update()
    assert torch.equal(ours.weight, theirs.weight)
    assert bool(ours.weight.isfinite().all())
