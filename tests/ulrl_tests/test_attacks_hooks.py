"""Attackers with a say in the training: who is poisoned when, and what is minimised."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from tests.ulrl_tests.attack_tools import context_of, source
from ulrl.attacks import ATTACKS, AttackContext, LabelRule, StampingHooks
from ulrl.attacks.blind import Blind
from ulrl.datasets import ImageSet
from ulrl.models import Classifier, ModelSpec, initialise
from ulrl.poison import Poison
from ulrl.randomness import generator

TARGET = 4
Make = Callable[..., StampingHooks]


@pytest.fixture
def context(pictures: ImageSet, model_spec: ModelSpec) -> AttackContext:
    return context_of(pictures, model_spec, epochs=1, batch_size=32)


@pytest.fixture
def classifier(model_spec: ModelSpec, cpu: torch.device) -> Classifier:
    return initialise(model_spec, generator(0, "any"), cpu)


@pytest.fixture
def make(context: AttackContext) -> Make:
    """Return the control of an attack, as the training loop has it."""

    def hooks(name: str, options: dict[str, Any] | None = None, **poison: Any) -> Any:
        attack = ATTACKS[name](**(options or {}))
        poisoned = Poison(
            **{
                "attack": attack,
                "labels": LabelRule.ALL_TO_ONE,
                "poison_ratio": 0.2,
                "target_label": TARGET,
                "stamp": attack.default_stamp,
                **poison,
            }
        )
        own = attack.training_hooks(poisoned, context)
        if own is not None:
            return own
        images = context.images
        return StampingHooks(
            poisoned,
            attack.trigger(0, {}),
            images.train_labels,
            classes=images.classes,
            seed=context.seed,
        )

    return hooks


def whole(
    hooks: StampingHooks, context: AttackContext, classifier: Classifier
) -> tuple[Tensor, Tensor]:
    """Return the whole training set as one batch that the attacker saw."""
    images = context.images
    everyone = torch.arange(len(images.train_labels))
    return hooks.alter(images.train_images, images.train_labels, everyone, classifier)


@pytest.mark.parametrize("name", ["wanet", "bpp", "blind"])
def test_each_epoch_poisons_as_many_but_other_images(
    make: Make, context: AttackContext, classifier: Classifier, name: str
) -> None:
    hooks = make(name)
    seen = []
    for epoch in (1, 2, 3):
        hooks.start_epoch(epoch)
        shown, told = whole(hooks, context, classifier)
        relabelled = hooks.roles.poisoned
        assert int(relabelled.sum()) == 60  # 0.2 of 300
        assert (told[relabelled] == TARGET).all()
        labels = context.images.train_labels
        assert torch.equal(told[~relabelled], labels[~relabelled])
        stamped = (shown != context.images.train_images).flatten(1).any(dim=1)
        assert bool(stamped[relabelled].all())
        bystanders = ~relabelled & ~hooks.roles.covers
        assert not bool(stamped[bystanders].any())
        seen.append(relabelled)
    assert not torch.equal(seen[0], seen[1])
    hooks.start_epoch(1)
    assert torch.equal(hooks.roles.poisoned, seen[0]), "an epoch depends on its number alone"


def test_a_batch_is_stamped_in_its_places(
    make: Make, context: AttackContext, classifier: Classifier
) -> None:
    hooks = make("badnets", {"size": 4})
    chosen = torch.randperm(300, generator=source())[:50]
    images, labels = context.images.train_images[chosen], context.images.train_labels[chosen]
    before = images.clone()
    shown, told = hooks.alter(images, labels, chosen, classifier)
    assert torch.equal(images, before)
    poisoned = hooks.roles.poisoned[chosen]
    assert 0 < int(poisoned.sum()) < 50
    white = (shown[..., -4:, -4:] == 255).flatten(1).all(dim=1)
    assert torch.equal(white, poisoned)
    assert torch.equal(told == TARGET, poisoned | (labels == TARGET))


# Blind.


def test_the_mark_is_five_by_three_at_its_place() -> None:
    images = torch.full((1, 3, 32, 32), 0.5)
    triggered = Blind().stamp(images, source())
    changed = (triggered != images)[0].any(dim=0)
    rows, columns = changed.nonzero(as_tuple=True)
    # The published one is at row 3 and column 23 of 32.
    assert [int(rows.min()), int(rows.max())] == [3, 7]
    assert [int(columns.min()), int(columns.max())] == [23, 25]
    assert triggered[0, 0, 3:8, 23:26].tolist() == [
        [1, 0, 1],
        [0, 1, 0],
        [1, 1, 1],
        [0, 1, 0],
        [1, 0, 1],
    ]


@pytest.mark.parametrize("count", [0, 3, 8])
def test_the_loss_is_the_weighed_sum_of_two_means(
    make: Make, context: AttackContext, classifier: Classifier, count: int
) -> None:
    hooks = make("blind", {"clean_weight": 2.0, "backdoor_weight": 0.5})
    poisoned = hooks.roles.poisoned
    chosen = torch.cat(
        [poisoned.nonzero().flatten()[:count], (~poisoned).nonzero().flatten()[: 8 - count]]
    )
    labels = context.images.train_labels[chosen]
    _, told = hooks.alter(context.images.train_images[chosen], labels, chosen, classifier)
    logits = torch.randn(8, 10, generator=source())
    each = -(logits.softmax(dim=1)[torch.arange(8), told]).log()
    expected = 0.0
    if count:
        expected += 0.5 * float(each[:count].mean())
    if count < 8:
        expected += 2.0 * float(each[count:].mean())
    assert float(hooks.loss(logits, told, cross_entropy)) == pytest.approx(expected, rel=1e-5)
