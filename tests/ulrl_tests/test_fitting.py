"""The training loop as its batches see it."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from tests.ulrl_tests.tiny_networks import Mixed, classifier_of
from ulrl.attacks import LabelRule, Stamp, StampingHooks
from ulrl.attacks.badnets import BadNets
from ulrl.datasets import ImageSet, Preprocessing
from ulrl.fitting import Epoch, Samples, SGDConfig, Sources, train
from ulrl.models import Classifier, ModelSpec, initialise
from ulrl.models.vgg import VGG19BN
from ulrl.poison import Poison
from ulrl.randomness import generator
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


def test_each_epoch_sees_every_sample_once_in_its_own_order(
    classifier: Classifier, samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(classifier, monkeypatch)
    list(fit(classifier, samples, SGDConfig(epochs=2, batch_size=16, rate=lambda _: 0.01)))
    assert [len(batch) for batch in spy.batches] == [16, 16, 4] * 2
    assert spy.training == [True] * 6
    orders = [torch.cat(spy.batches[:3])[:, 0, 0, 0], torch.cat(spy.batches[3:])[:, 0, 0, 0]]
    for order in orders:
        assert sorted(order.tolist()) == list(range(COUNT))
    assert orders[0].tolist() != orders[1].tolist() != list(range(COUNT))


def test_views_change_from_epoch_to_epoch(
    classifier: Classifier, samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(classifier, monkeypatch)
    config = SGDConfig(epochs=2, batch_size=COUNT, rate=lambda _: 0.01)
    list(fit(classifier, samples, config, padding=2))
    borders = [Counter(map(int, (batch == 0).flatten(1).sum(dim=1))) for batch in spy.batches]
    assert borders[0] != borders[1]


def test_the_rate_is_asked_for_each_step(classifier: Classifier, samples: Samples) -> None:
    asked = []

    def rate(elapsed: float) -> float:
        asked.append(elapsed)
        return 0.01

    list(fit(classifier, samples, SGDConfig(epochs=2, batch_size=16, rate=rate)))
    assert asked == pytest.approx([0, 1 / 3, 2 / 3, 1, 4 / 3, 5 / 3])


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


def test_further_forwards_follow_each_step_with_the_same_batch(
    classifier: Classifier, samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(classifier, monkeypatch)
    config = SGDConfig(epochs=1, batch_size=16, rate=lambda _: 0.01, batchnorm_updates=2)
    list(fit(classifier, samples, config))
    assert [len(batch) for batch in spy.batches] == [16, 16, 16, 16, 4, 4]
    for first, second in zip(spy.batches[::2], spy.batches[1::2], strict=True):
        assert torch.equal(first, second)


def test_loss_and_accuracy_are_means_over_samples_before_the_steps(
    classifier: Classifier, samples: Samples
) -> None:
    rated = SGDConfig(epochs=1, batch_size=16, rate=lambda _: 0.0)  # no step moves anything
    order = torch.randperm(COUNT, generator=Generator().manual_seed(1))
    classifier.network.train()
    losses, hits = [], 0
    with torch.no_grad():
        for index in torch.split(order, 16):
            logits = classifier.logits(samples.images[index])
            labels = samples.labels[index]
            losses += cross_entropy(logits, labels, reduction="none").tolist()
            hits += int((logits.argmax(dim=1) == labels).sum())
    (epoch,) = fit(classifier, samples, rated)
    assert epoch.number == 1
    assert epoch.loss == pytest.approx(sum(losses) / COUNT, rel=1e-5)
    assert epoch.accuracy == hits / COUNT


def test_measuring_between_epochs_changes_nothing(
    model_spec: ModelSpec, samples: Samples, cpu: torch.device
) -> None:
    config = SGDConfig(epochs=3, batch_size=16, rate=lambda _: 0.05)
    ends = []
    for measure in (False, True):
        classifier = initialise(model_spec, generator(0, "test"), cpu)
        for _ in fit(classifier, samples, config, padding=1):
            if measure:
                classifier.predict(samples.images)
                classifier.network.eval()
                torch.rand(3)
        ends.append(classifier.weights().state)
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_leaving_early_is_a_prefix(
    model_spec: ModelSpec, samples: Samples, cpu: torch.device
) -> None:
    ends = []
    for epochs in (2, 5):
        classifier = initialise(model_spec, generator(0, "test"), cpu)
        config = SGDConfig(epochs=epochs, batch_size=16, rate=lambda _: 0.05)
        for epoch in fit(classifier, samples, config, padding=1):
            if epoch.number == 2:
                break
        ends.append(classifier.weights().state)
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_clipping_bounds_the_first_step(
    model_spec: ModelSpec, samples: Samples, cpu: torch.device
) -> None:
    def distance(clip_norm: float | None) -> float:
        classifier = initialise(model_spec, generator(0, "test"), cpu)
        before = [p.detach().clone() for p in classifier.network.parameters()]
        config = SGDConfig(epochs=1, batch_size=COUNT, rate=lambda _: 1.0, clip_norm=clip_norm)
        list(fit(classifier, samples, config))
        after = classifier.network.parameters()
        moved = [(p.detach() - b).square().sum() for p, b in zip(after, before, strict=True)]
        return float(torch.stack(moved).sum().sqrt())

    free = distance(None)
    assert distance(free / 4) == pytest.approx(free / 4, rel=1e-4)
    assert distance(free * 2) == pytest.approx(free, rel=1e-6)


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
NORM = ("norm.running_mean", "norm.running_var", "norm.num_batches_tracked")


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


def trained(classifier: Classifier, config: SGDConfig, seed: int = 0) -> list[Epoch]:
    return list(train(classifier, SAMPLES, cross_entropy, config, Sources.of(seed, "test")))


def spied(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Return a list that what the network is fed will be put into."""
    batches: list[Tensor] = []
    logits = classifier.logits

    def noted(images: Tensor) -> Tensor:
        batches.append(images.clone())
        return logits(images)

    monkeypatch.setattr(classifier, "logits", noted)
    return batches


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


def test_without_the_short_batch_others_stay_out_each_epoch_and_means_are_over_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    classifier = classifier_of(Mixed)
    batches = spied(classifier, monkeypatch)
    rates: list[float] = []

    def rate(elapsed: float) -> float:
        rates.append(elapsed)
        return 0.0  # nothing moves, so that the means can be made again

    config = SGDConfig(epochs=2, batch_size=4, rate=rate, drop_last=True, augment=False)
    epochs = trained(classifier, config)
    assert [len(batch) for batch in batches] == [4, 4] * 2
    assert rates == [0, 0.5, 1, 1.5]
    left_out = []
    with torch.no_grad():
        for number, epoch in enumerate(epochs):
            seen = batches[2 * number : 2 * number + 2]
            index = [
                int((image == IMAGES).flatten(1).all(dim=1).nonzero()) for image in torch.cat(seen)
            ]
            left_out.append(set(range(11)) - set(index))
            labels = torch.split(SAMPLES.labels[index], 4)
            classifier.network.train()
            logits = [classifier.logits(batch) for batch in seen]
            losses = [float(cross_entropy(*pair)) for pair in zip(logits, labels, strict=True)]
            assert epoch.loss == pytest.approx(sum(losses) / 2, rel=1e-5)
            right = sum(
                int((one.argmax(dim=1) == label).sum())
                for one, label in zip(logits, labels, strict=True)
            )
            assert epoch.accuracy == right / 8
    assert left_out[0] != left_out[1]


def test_without_augmentation_images_are_seen_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for augment in (False, True):
        classifier = classifier_of(Mixed)
        batches = spied(classifier, monkeypatch)
        trained(classifier, SGDConfig(epochs=2, batch_size=11, rate=lambda _: 0.1, augment=augment))
        for batch in batches:
            plain = sum(bool((SAMPLES.images == image).flatten(1).all(1).any()) for image in batch)
            assert (plain == 11) is not augment


def test_frozen_batchnorm_normalises_by_what_it_knows_and_learns_nothing_of_the_batch() -> None:
    classifier = classifier_of(Mixed)
    with torch.no_grad():
        classifier.network.get_buffer("norm.running_mean").add_(0.3)
        classifier.network.get_buffer("norm.running_var").mul_(2.5)
    before = classifier.weights().state
    classifier.network.eval()
    with torch.no_grad():
        loss = cross_entropy(classifier.logits(SAMPLES.images), SAMPLES.labels)
    config = SGDConfig(
        epochs=1, batch_size=11, rate=lambda _: 0.1, batchnorm_updates=0, augment=False
    )
    (epoch,) = trained(classifier, config)
    assert epoch.loss == pytest.approx(float(loss), rel=1e-5), "as in eval mode"
    after = classifier.weights().state
    assert all(torch.equal(after[name], before[name]) for name in NORM)
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert {"norm.weight", "norm.bias", "conv.weight", "head.weight"} <= moved


def test_measuring_between_epochs_leaves_batchnorm_frozen() -> None:
    """`predict` puts the network into eval mode and all of it back into train mode."""
    classifier = classifier_of(Mixed)
    before = classifier.weights().state
    # Without the batch's own statistics a larger rate diverges.
    config = SGDConfig(epochs=3, batch_size=4, rate=lambda _: 1e-3, batchnorm_updates=0)
    sources = Sources.of(0, "test")
    for _ in train(classifier, SAMPLES, cross_entropy, config, sources):
        classifier.predict(SAMPLES.images)
    assert all(torch.equal(classifier.weights().state[name], before[name]) for name in NORM)


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


def test_dropout_drops_others_in_each_epoch() -> None:
    classifier = classifier_of(Dropping)
    masks: list[Tensor] = []
    dropout = classifier.network.get_submodule("dropout")
    dropout.register_forward_hook(lambda _, __, out: masks.append(out == 0))
    trained(classifier, SGDConfig(epochs=2, batch_size=11, rate=lambda _: 0.0, augment=False))
    first, second = masks
    assert bool(first.any())
    assert not torch.equal(first.sum(dim=0), second.sum(dim=0))
