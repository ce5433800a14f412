"""The training loop with its switches thrown."""

from dataclasses import replace

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from tests.ulrl_tests.tiny_networks import Mixed, classifier_of
from ulrl.fitting import Epoch, Samples, SGDConfig, Sources, train
from ulrl.models import Classifier

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


def fit(classifier: Classifier, config: SGDConfig, seed: int = 0) -> list[Epoch]:
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
    epochs = fit(classifier, config)
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
        fit(classifier, SGDConfig(epochs=2, batch_size=11, rate=lambda _: 0.1, augment=augment))
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
    (epoch,) = fit(classifier, config)
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
    fit(classifier, SGDConfig(epochs=2, batch_size=11, rate=lambda _: 0.0, augment=False))
    first, second = masks
    assert bool(first.any())
    assert not torch.equal(first.sum(dim=0), second.sum(dim=0))
