"""Attacks whose trigger a network makes: LIRA, input-aware, SSBA."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from tests.ulrl_tests.attack_tools import context_of, source
from ulrl.attacks import AttackContext, LabelRule
from ulrl.attacks._input_aware_hooks import PatternHooks
from ulrl.attacks._input_aware_networks import (
    AutoEncoder,
    density_loss,
    diversity,
    sharpened,
    standardised,
    statistics_of,
)
from ulrl.attacks._networks import drawn
from ulrl.attacks.input_aware import InputAware
from ulrl.attacks.lira import LIRA, Perturber, _Together
from ulrl.attacks.ssba import SSBA
from ulrl.datasets import ImageSet
from ulrl.models import Classifier, ModelSpec, initialise
from ulrl.poison import Poison
from ulrl.randomness import generator
from ulrl.trigger_training import train_trigger
from ulrl.victim import train_victim

TARGET = 4


@pytest.fixture(scope="module")
def context(pictures: ImageSet, model_spec: ModelSpec) -> AttackContext:
    return context_of(pictures, model_spec, epochs=2, batch_size=32)


def poison_of(attack: Any, **other: Any) -> Poison:
    return Poison(
        **{
            "attack": attack,
            "labels": LabelRule.ALL_TO_ONE,
            "poison_ratio": 0.2,
            "target_label": TARGET,
            "stamp": attack.default_stamp,
            **other,
        }
    )


@pytest.fixture
def classifier(model_spec: ModelSpec, cpu: torch.device) -> Classifier:
    return initialise(model_spec, generator(0, "any"), cpu)


# LIRA.


@pytest.mark.parametrize("epsilon", [0.01, 0.1])
def test_lira_adds_at_most_epsilon(context: AttackContext, epsilon: float) -> None:
    attack = LIRA(epsilon=epsilon, epochs=1, width=4, lr=0.1)
    learned = train_trigger(poison_of(attack), context)
    images = torch.rand(40, 3, 16, 16, generator=source())
    added = attack.trigger(0, learned).stamp(images, source()) - images
    assert float(added.abs().max()) <= epsilon + 1e-6
    assert float(added.abs().max()) > 0.1 * epsilon


def test_lira_triggers_half_of_each_batch_in_its_first_stage(
    context: AttackContext, classifier: Classifier
) -> None:
    helper = LIRA(clean_weight=0.25, epsilon=0.5).helper(poison_of(LIRA()))
    network = drawn(partial(Perturber, 3, 4), 0, "any")
    hooks = _Together(helper, network, 10, 0)  # type: ignore[arg-type]
    images, labels = context.images.train_images[::5], context.images.train_labels[::5]
    shown, told = hooks.alter(images, labels, torch.arange(60), classifier)
    changed = (shown - images).flatten(1).abs().amax(dim=1) > 1e-3
    assert int(changed.sum()) == 30
    assert (told[changed] == TARGET).all()
    assert torch.equal(told[~changed], labels[~changed])
    logits = torch.randn(60, 10, generator=source())
    each = cross_entropy(logits, told, reduction="none")
    expected = 0.25 * each[~changed].mean() + 0.75 * each[changed].mean()
    assert torch.allclose(hooks.loss(logits, told, cross_entropy), expected)


def test_lira_learns_a_trigger_and_victims_start_from_its_classifier(
    context: AttackContext,
) -> None:
    attack = LIRA(epochs=6, width=8, epsilon=0.3, lr=0.01)
    poison = poison_of(attack)
    learned = train_trigger(poison, context)
    images = context.images
    config = replace(context.recipe, lr=1e-9)  # a victim that stays where it starts
    run = train_victim(config, context.model_spec, poison, images, 0, context.device, learned)
    state = run.classifier.weights().state
    assert all(torch.equal(state[name], learned[f"classifier/{name}"]) for name in state)
    triggered = attack.trigger(0, learned).stamp(images.test_images.float() / 255, source())
    classes = run.classifier.predict((255 * triggered).round().to(torch.uint8))
    others = images.test_labels != TARGET
    taken = (classes[others] == TARGET).float().mean()
    plain = (run.classifier.predict(images.test_images)[others] == TARGET).float().mean()
    assert float(taken) > float(plain) + 0.5


# Input-aware.


def test_densities_and_diversities_by_hand() -> None:
    mask = torch.tensor([[0.0, 0.5], [0.02, 0.132]])[None, None]
    # What exceeds 0.032, over four pixels: (0.468 + 0.1) / 4.
    assert float(density_loss(mask, 0.032)) == pytest.approx(0.142)
    zero, two, three = (torch.full((1, 1, 2, 2), value) for value in (0.0, 2.0, 3.0))
    assert float(diversity(zero, two, zero, three)) == pytest.approx(2 / 3)
    assert sharpened(torch.tensor([0.5, 0.4, 1.0])).tolist() == pytest.approx(
        [0.5, 0.5 - 0.5 * 0.9640276, 1.0], abs=1e-6
    )


@pytest.fixture(scope="module")
def masked(context: AttackContext) -> AttackContext:
    attack = InputAware(mask_epochs=1, width=4)
    return replace(context, learned=train_trigger(poison_of(attack), context))


def control_of(masked: AttackContext, *, ratio: float = 0.2, **options: Any) -> PatternHooks:
    attack = InputAware(mask_epochs=1, width=4, **options)
    return attack.training_hooks(poison_of(attack, poison_ratio=ratio), masked)


def given(hooks: PatternHooks, masked: AttackContext) -> tuple[AutoEncoder, AutoEncoder]:
    """Give a control a mask and a pattern that differ from image to image and stay as they are."""
    preprocessing = masked.model_spec.preprocessing
    pixels = masked.images.train_images.float() / 255
    seen = standardised(pixels, statistics_of(preprocessing.mean, preprocessing.std))
    networks = []
    for outputs in (1, 3):
        network = drawn(partial(AutoEncoder, 3, outputs, 4), outputs, "given")
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0  # running statistics are those of the last batch
        network(seen)
        networks.append(network.eval().requires_grad_(False))  # noqa: FBT003 - torch's way
    hooks._mask, hooks._pattern = networks
    return networks[0], networks[1]


def test_covers_carry_pattern_and_mask_of_another_image(
    masked: AttackContext, classifier: Classifier
) -> None:
    hooks = control_of(masked)
    mask, pattern = given(hooks, masked)
    images, labels = masked.images.train_images, masked.images.train_labels
    roles = (hooks.roles.poisoned, hooks.roles.covers)
    own = [role.nonzero().flatten()[:6] for role in roles]
    clean = (~roles[0] & ~roles[1]).nonzero().flatten()[:20]
    chosen = torch.cat([*own, clean])
    shown, told = hooks.alter(images[chosen], labels[chosen], chosen, classifier)
    assert (told[:6] == TARGET).all()
    assert torch.equal(told[6:], labels[chosen[6:]])
    assert torch.equal(shown[12:], images[clean].float())

    preprocessing = masked.model_spec.preprocessing
    pixels = images[chosen].float() / 255
    seen = standardised(pixels, statistics_of(preprocessing.mean, preprocessing.std))
    made, where = pattern(seen), (2 * (20 * mask(seen) - 10)).sigmoid()
    # Row i, column j: image i with the pattern of j through the mask of j.
    pairs = 255 * ((1 - where) * pixels[:, None] + where * made)
    givers = ((pairs - shown[:, None]).abs().flatten(2).amax(dim=2) < 1e-2)[:12].nonzero()
    assert givers[:, 0].tolist() == list(range(12)), "one giver each"
    assert givers[:6, 1].tolist() == list(range(6)), "a poisoned image is its own"
    assert (givers[6:, 1] >= 12).all(), "the giver of a cover is a clean image"
    assert len(set(givers[6:, 1].tolist())) == 6


def test_the_diversity_of_patterns_is_that_of_standardised_ones(
    masked: AttackContext, classifier: Classifier
) -> None:
    hooks = control_of(masked, diversity_weight=0.25)
    _, pattern = given(hooks, masked)
    images, labels = masked.images.train_images, masked.images.train_labels
    clean = (~hooks.roles.poisoned & ~hooks.roles.covers).nonzero().flatten()
    chosen = torch.stack([clean[0], hooks.roles.poisoned.nonzero().flatten()[0]])
    shown, told = hooks.alter(images[chosen], labels[chosen], chosen, classifier)
    logits = classifier.logits(shown)
    term = (hooks.loss(logits, told, cross_entropy) - cross_entropy(logits, told)).detach()

    preprocessing = masked.model_spec.preprocessing
    statistics = statistics_of(preprocessing.mean, preprocessing.std)
    one, two = images[chosen].double() / 255
    made = pattern(standardised(images[chosen].float() / 255, statistics)).double()
    std = torch.tensor(preprocessing.std, dtype=torch.float64)[:, None, None]
    apart = ((one - two) / std).square().mean().sqrt()
    made_apart = ((made[0] - made[1]) / std).square().mean().sqrt()
    assert float(term) == pytest.approx(0.25 * float(apart / (made_apart + 1e-7)), rel=1e-4)


def test_a_step_of_the_mask_by_hand(context: AttackContext) -> None:
    """Of two images: whichever comes first, each is the other's other."""
    preprocessing = replace(context.model_spec.preprocessing, padding=0, flip=False)
    pictures = replace(
        context.images,
        train_images=context.images.train_images[:2],
        train_labels=context.images.train_labels[:2],
    )
    seen_by = replace(
        context,
        images=pictures,
        model_spec=replace(context.model_spec, preprocessing=preprocessing),
    )
    attack = InputAware(mask_epochs=1, width=4, density=0.2, mask_weight=3.0)
    learned = train_trigger(poison_of(attack), seen_by)

    network = drawn(partial(AutoEncoder, 3, 1, 4), 0, "input_aware", "mask").train()
    mean, std = (torch.tensor(v)[:, None, None] for v in (preprocessing.mean, preprocessing.std))
    seen = (pictures.train_images.float() / 255 - mean) / std
    first, second = (2 * (20 * network(seen) - 10)).sigmoid()  # sharpened: tanh(z) / 2 + 1 / 2
    dense = (torch.stack([first, second]) - 0.2).clamp_min(0).mean()
    apart = (seen[0] - seen[1]).square().mean().sqrt()
    loss = 3 * dense + apart / ((first - second).square().mean().sqrt() + 1e-7)
    loss.backward()
    torch.optim.Adam(network.parameters(), lr=0.01, betas=(0.5, 0.9)).step()
    for name, value in network.named_parameters():
        moved = learned[f"mask/{name}"]
        assert value.grad is not None
        certain = value.grad.abs() > 1e-4  # Adam's first step is lr × sign
        assert torch.allclose(moved[certain], value.detach()[certain], atol=1e-5), name


@pytest.mark.parametrize(("ratio", "size"), [(0.2, 32), (0.02, 4), (0.02, 1)])
def test_an_image_is_relabelled_only_where_it_is_stamped(
    masked: AttackContext, classifier: Classifier, ratio: float, size: int
) -> None:
    hooks = control_of(masked, ratio=ratio)
    images, labels = masked.images.train_images, masked.images.train_labels
    other = labels != TARGET
    for epoch in (1, 2):
        hooks.start_epoch(epoch)
        order = torch.randperm(len(labels), generator=source(epoch))
        for chosen in torch.split(order, size):
            if len(chosen) < size:
                continue
            shown, told = hooks.alter(images[chosen], labels[chosen], chosen, classifier)
            changed = (shown != images[chosen]).flatten(1).any(dim=1)
            poisoned = hooks.roles.poisoned[chosen]
            relabelled = told != labels[chosen]
            assert torch.equal(changed & poisoned & other[chosen], relabelled)
            if size > 1:
                assert torch.equal(poisoned & other[chosen], relabelled), "no image is left out"


def test_the_pattern_trains_along_and_the_mask_does_not(masked: AttackContext) -> None:
    attack = InputAware(mask_epochs=1, width=4)
    run = train_victim(
        masked.recipe,
        masked.model_spec,
        poison_of(attack),
        masked.images,
        0,
        masked.device,
        masked.learned,
    )
    masks = {name: value.clone() for name, value in masked.learned.items()}
    before = {name: value.clone() for name, value in run.learned().items()}
    for _ in run.epochs:
        pass
    after = run.learned()
    assert set(after) == set(before)
    assert all(name.startswith("pattern/") for name in after)
    weights = [name for name in after if name.endswith("weight")]
    assert all(not torch.equal(after[name], before[name]) for name in weights)
    assert all(torch.equal(masks[name], masked.learned[name]) for name in masks)
    images = masked.images.test_images[:8].float() / 255
    alone = attack.trigger(0, {**masked.learned, **after}).stamp(images, source())
    assert not torch.equal(
        alone, attack.trigger(0, {**masked.learned, **before}).stamp(images, source())
    )


# SSBA.


@pytest.fixture(scope="module")
def stega(context: AttackContext) -> tuple[SSBA, dict[str, Tensor]]:
    attack = SSBA(bits=8, epochs=16, batch_size=30, width=8, lr=3e-3)
    return attack, dict(train_trigger(poison_of(attack), context))


def test_ssba_hides_a_message_that_can_be_read(stega: tuple[SSBA, dict[str, Tensor]]) -> None:
    _, learned = stega
    assert float(learned["bit_accuracy"]) > 0.8, "0.5 is chance"
    assert float(learned["error"]) < 0.01, "PSNR above 20 dB"


# Networks that are kept.
