"""The training loop as its batches see it."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy

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
