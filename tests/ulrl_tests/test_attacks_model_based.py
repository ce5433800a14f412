"""Attacks that look into a model of the victim's kind: LF, TrojanNN, LC."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn
from torch.nn.functional import cross_entropy

from tests.steps import finished
from tests.ulrl_tests.attack_tools import context_of, source
from ulrl.attacks import AttackContext, stamp_bytes
from ulrl.attacks._adversarial import pgd
from ulrl.attacks._benign import BenignModel, benign_classifier
from ulrl.attacks._smooth import deepfool_step, low_passed, universal_perturbation
from ulrl.attacks.lc import LC
from ulrl.attacks.lf import LF, Origin
from ulrl.attacks.trojannn import heaviest_inputs
from ulrl.datasets import ImageSet
from ulrl.models import Classifier, ModelSpec
from ulrl.poison import Poison
from ulrl.poisoning import poison_training_set
from ulrl.trigger_training import train_trigger

TARGET = 4


def poison_of(attack: Any, **other: Any) -> Poison:
    values = {"labels": attack.label_rules[0], "poison_ratio": 0.1, "target_label": TARGET}
    return Poison(**{"attack": attack, "stamp": attack.default_stamp, **values, **other})


@pytest.fixture(scope="module")
def context(pictures: ImageSet, model_spec: ModelSpec) -> AttackContext:
    bare = context_of(pictures, model_spec, epochs=4, batch_size=32)
    return replace(bare, learned=train_trigger(poison_of(LF(passes=1, images=1)), bare))


@pytest.fixture(scope="module")
def benign(context: AttackContext) -> AttackContext:
    """The scene with its clean model."""
    return replace(context, learned=finished(BenignModel().train(context))[1])


@pytest.fixture
def classifier(benign: AttackContext) -> Classifier:
    return benign_classifier(benign)


# The clean model.


def test_the_clean_model_is_good_and_says_how_good(
    benign: AttackContext, classifier: Classifier
) -> None:
    images = benign.images
    right = (classifier.predict(images.test_images) == images.test_labels).float().mean()
    assert float(right) == pytest.approx(float(benign.learned["accuracy"]), abs=1e-6)
    assert float(right) > 0.8
    assert not any(value.requires_grad for value in classifier.network.parameters())


# LF.


@pytest.mark.parametrize("sigma", [0.7, 3.0])
def test_the_filter_is_scipys(sigma: float) -> None:
    images = torch.rand(2, 3, 20, 20, generator=source(), dtype=torch.float64)
    expected = gaussian_filter(images.numpy(), sigma, axes=(2, 3), mode="constant")
    np.testing.assert_allclose(low_passed(images, sigma).numpy(), expected, atol=1e-6)


def test_a_step_of_deepfool_ends_just_beyond_a_plane() -> None:
    """For w·x + b the nearest point of the boundary is x - (w·x + b) w / |w|²."""
    weight = torch.randn(12, generator=source())
    image = torch.randn(12, generator=source(1))
    gap = (weight @ image).abs()
    step = deepfool_step(gap, weight)
    assert float(weight @ step) == pytest.approx(1.02 * float(gap), rel=1e-5)
    assert float(step.norm()) == pytest.approx(1.02 * float(gap / weight.norm()), rel=1e-5)


def test_the_pattern_takes_images_to_the_target(
    benign: AttackContext, classifier: Classifier
) -> None:
    images = benign.images.train_images[::6].float() / 255
    rounds = universal_perturbation(
        classifier, images, target=TARGET, passes=6, fooling_rate=0.5, cutoff=1.5
    )
    patterns = list(rounds)
    assert 1 <= len(patterns) <= 6
    with torch.no_grad():
        before, after = (
            (classifier.logits(255 * shown).argmax(dim=1) == TARGET).float().mean()
            for shown in (images, images + patterns[-1])
        )
    assert float(after) > float(before) + 0.2


def test_lf_adds_one_smooth_pattern_and_clips(context: AttackContext) -> None:
    pattern = context.learned["pattern"]
    assert [float(pattern.min()), float(pattern.max())] == [0.0, 1.0]
    power = torch.fft.fft2(pattern - pattern.mean(dim=(1, 2), keepdim=True)).abs().square()
    frequencies = torch.fft.fftfreq(16).abs()
    low = (frequencies[:, None] < 0.2) & (frequencies < 0.2)
    assert float(power[:, low].sum() / power.sum()) > 0.95
    trigger = LF(scale=0.3).trigger(0, context.learned)
    images = torch.rand(4, 3, 16, 16, generator=source())
    assert torch.equal(trigger.stamp(images, source()), (images + 0.3 * pattern).clamp(0, 1))


def test_the_drawn_field_needs_no_model_and_is_the_scenarios_own() -> None:
    attack = LF(origin=Origin.FIELD)
    assert attack.helper(poison_of(attack)) is None
    black = torch.zeros(2, 3, 32, 32)
    first, again, other = (attack.trigger(s, {}).stamp(black, source()) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert [float(first.min()), float(first.max())] == pytest.approx([0, 0.2])


# TrojanNN.


def test_the_neurons_are_those_that_weigh_most() -> None:
    head = nn.Linear(4, 3)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, -9, 0, 2], [1, 0, 0, -2], [1, 0, -5, 2]]))
    assert heaviest_inputs(head, 2).tolist() == [1, 3]  # sums: 3, 9, 5, 6
    assert heaviest_inputs(head, 9).tolist() == [0, 1, 2, 3]


# LC.


@pytest.mark.parametrize("steps", [1, 8])
def test_pgd_stays_in_the_ball_and_raises_the_loss(
    classifier: Classifier, benign: AttackContext, steps: int
) -> None:
    images = benign.images.train_images[::10].float() / 255
    labels = benign.images.train_labels[::10]
    moved = pgd(classifier, images, labels, epsilon=8 / 255, step_size=3 / 255, steps=steps)
    away = (moved - images).abs()
    assert float(away.max()) <= min(8, 3 * steps) / 255 + 1e-6
    assert float(away.max()) > 2.9 / 255
    assert 0 <= float(moved.min()) <= float(moved.max()) <= 1
    with torch.no_grad():
        losses = [float(cross_entropy(classifier.logits(255 * x), labels)) for x in (images, moved)]
    assert losses[1] > losses[0]


def test_a_step_of_pgd_goes_by_the_sign_of_the_gradient(classifier: Classifier) -> None:
    images = 0.3 + 0.4 * torch.rand(3, 3, 16, 16, generator=source())
    labels = torch.tensor([1, 2, 3])
    seen = images.clone().requires_grad_()
    cross_entropy(classifier.logits(255 * seen), labels).backward()  # type: ignore[no-untyped-call]
    assert seen.grad is not None
    moved = pgd(classifier, images, labels, epsilon=0.1, step_size=0.01, steps=1)
    assert torch.allclose(moved, images + 0.01 * seen.grad.sign(), atol=1e-6)


def test_only_poisoned_images_of_the_target_are_replaced(benign: AttackContext) -> None:
    attack = LC(steps=3, model_steps=1, amplitude=0.5)
    poison = poison_of(attack, poison_ratio=0.05)
    learned = train_trigger(poison, replace(benign, learned={}))
    images = benign.images
    target = (images.train_labels == TARGET).nonzero().flatten()
    assert torch.equal(learned["index"], target)
    result = poison_training_set(poison, images, 0, learned)
    assert int(result.poisoned.sum()) == 15
    assert (images.train_labels[result.poisoned] == TARGET).all()
    assert torch.equal(result.labels, images.train_labels)
    assert torch.equal(result.images[~result.poisoned], images.train_images[~result.poisoned])
    index = result.poisoned.nonzero().flatten()
    crafted = learned["images"][[target.tolist().index(i) for i in index.tolist()]]
    expected = stamp_bytes(attack.trigger(0, {}), crafted, source())
    assert torch.equal(result.images[index], expected)
    away = (crafted.int() - images.train_images[index].int()).abs()
    assert 0 < int(away.max()) <= 5  # three steps of 1.5 grey levels, rounded


def test_corners_add_and_take_away() -> None:
    grey = torch.full((1, 1, 16, 16), 0.5)
    triggered = LC(amplitude=0.25).trigger(0, {}).stamp(grey, source())[0, 0]
    left = [[0.75, 0.25, 0.25], [0.25, 0.75, 0.25], [0.75, 0.25, 0.75]]
    right = [row[::-1] for row in left]
    assert triggered[:3, :3].tolist() == left
    assert triggered[-3:, :3].tolist() == left
    assert triggered[:3, -3:].tolist() == right
    assert triggered[-3:, -3:].tolist() == right
    assert int((triggered != 0.5).sum()) == 36
    large = LC().trigger(0, {}).stamp(torch.full((1, 1, 64, 64), 0.5), source())[0, 0]
    assert int((large != 0.5).sum()) == 4 * 36, "to scale"
