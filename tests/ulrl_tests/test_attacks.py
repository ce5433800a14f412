"""The contract of every attack, and closed forms of those that have one."""

from dataclasses import replace
from functools import cache
from math import pi
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from tests.ulrl_tests.attack_tools import context_of, source
from ulrl.attacks import ATTACKS, Attack, LabelRule, Learned, Trigger, stamp_bytes
from ulrl.attacks.badnets import BadNets
from ulrl.attacks.blended import Blended, Pattern
from ulrl.attacks.sig import SIG
from ulrl.datasets import ImageSet, Preprocessing
from ulrl.models import ModelSpec
from ulrl.models.preact_resnet import PreActResNet18
from ulrl.poison import Poison
from ulrl.poisoning import poison_training_set
from ulrl.trigger_training import train_trigger


def random_images(count: int, channels: int, side: int) -> Tensor:
    return torch.rand(count, channels, side, side, generator=source(99))


SHAPES = pytest.mark.parametrize(("side", "channels"), [(16, 3), (32, 1), (32, 3), (64, 3)])
# An imported attack has no trigger of its own; `test_spec_imports` tests it.
NAMES = sorted(set(ATTACKS) - {"imported", "none"})
EVERY = pytest.mark.parametrize("name", NAMES)
# Options with which what an attack trains itself takes a moment: the contract is about
# every trigger, not about good ones.
BRIEF: dict[str, dict[str, Any]] = {
    "input_aware": {"mask_epochs": 1, "width": 2},
    "lc": {"steps": 2, "model_steps": 1},
    "lf": {"images": 4, "passes": 1},
    "lira": {"epochs": 1, "width": 2},
    "poison_ink": {"epochs": 1, "width": 2},
    "ssba": {"epochs": 1, "width": 2, "bits": 8},
    "trojannn": {"steps": 2},
}


def attack_for(name: str, side: int, channels: int) -> Attack:
    attack = ATTACKS[name](**BRIEF.get(name, {}))
    try:
        attack.check(side=side, channels=channels)
    except ValueError as error:
        pytest.skip(f"by its own word: {error}")
    return attack


@cache
def armed(name: str, side: int, channels: int) -> Trigger:
    """Return an attack's trigger, trained on a few random images where it has to be."""
    attack = ATTACKS[name](**BRIEF.get(name, {}))
    images = ImageSet(
        train_images=(random_images(24, channels, side) * 256).to(torch.uint8),
        train_labels=torch.arange(24) % 3,
        test_images=(random_images(6, channels, side) * 256).to(torch.uint8),
        test_labels=torch.arange(6) % 3,
        classes=3,
    )
    poison = Poison(
        attack=attack,
        labels=attack.label_rules[0],
        source=attack.default_source,
        poison_ratio=0.2,
        stamp=attack.default_stamp,
    )
    preprocessing = Preprocessing(
        mean=(0.5,) * channels, std=(0.25,) * channels, padding=0, flip=False
    )
    model_spec = ModelSpec(
        architecture=PreActResNet18(width=2),
        classes=3,
        channels=channels,
        side=side,
        preprocessing=preprocessing,
    )
    context = context_of(images, model_spec, epochs=1, batch_size=12)
    return attack.trigger(0, train_trigger(poison, context, victim=True))


# What one epoch on noise trains may leave images alone; `docs/attacks.md` has trained ones.
UNTRAINED = {"lf", "lira", "poison_ink", "ssba", "input_aware"}


@EVERY
@SHAPES
def test_the_contract_of_a_trigger(name: str, side: int, channels: int) -> None:
    """New images in range, the same for the same generator, each image treated alone."""
    attack_for(name, side, channels)
    trigger = armed(name, side, channels)
    images = random_images(4, channels, side)
    before = images.clone()
    order = torch.tensor([2, 0, 3, 1])
    for stamp in (trigger.stamp, trigger.stamp_training, trigger.stamp_cover):
        torch.manual_seed(1)
        triggered = stamp(images, source())
        assert (triggered.shape, triggered.dtype) == (images.shape, images.dtype)
        assert 0 <= float(triggered.min()) <= float(triggered.max()) <= 1
        assert not triggered.requires_grad
        torch.manual_seed(2)
        state = torch.get_rng_state()
        assert torch.equal(stamp(images, source()), triggered)
        assert torch.equal(torch.get_rng_state(), state)
        if stamp != trigger.stamp_cover:  # which may need another image
            assert torch.equal(stamp(images[order], source()), triggered[order])
            alone = [stamp(images[i : i + 1], source()) for i in range(4)]
            assert torch.equal(torch.cat(alone), triggered)
        triggered.zero_()
        assert torch.equal(images, before), "the result shares memory with the argument"
    levels = (images * 256).to(torch.uint8)
    stored = stamp_bytes(trigger, levels, source())
    assert (stored.shape, stored.dtype) == (levels.shape, torch.uint8)
    assert torch.equal(levels, (before * 256).to(torch.uint8))
    assert stamp_bytes(trigger, levels[:0], source()).shape == levels[:0].shape
    if name not in UNTRAINED:
        changed = trigger.stamp(images, source()) != images
        assert bool(changed.flatten(1).any(dim=1).all()), "every image is changed"


@pytest.mark.gpu
@EVERY
@pytest.mark.parametrize("channels", [1, 3])
def test_a_gpu_stamps_the_same_to_one_grey_level(name: str, channels: int) -> None:
    attack_for(name, 32, channels)
    trigger = armed(name, 32, channels)
    images = (random_images(3, channels, 32) * 256).to(torch.uint8)
    here = stamp_bytes(trigger, images, source()).int()
    there = stamp_bytes(trigger, images.cuda(), source()).cpu().int()
    assert int((here - there).abs().max()) <= 1


def test_all_that_a_study_may_name_are_here() -> None:
    assert set(NAMES) >= {  # and whatever was added by a file
        *("badnets", "blended", "sig", "lc", "lf", "ssba", "trojannn", "input_aware", "wanet"),
        *("bpp", "lira", "blind", "refool", "ctrl", "ftrojan"),
        *("adaptive_blend", "adaptive_patch", "tact", "poison_ink"),
    }


def every_level(channels: int = 3, side: int = 16) -> Tensor:
    """256 images, each of one grey level."""
    levels = torch.arange(256, dtype=torch.uint8)
    return levels[:, None, None, None].expand(-1, channels, side, side).contiguous()


class Nothing(BadNets):
    """Leaves images as they are."""

    def stamp(self, images: Tensor, generator: Generator) -> Tensor:
        del generator
        return images.clone()


def test_bytes_survive_the_way_through_floats() -> None:
    assert torch.equal(stamp_bytes(Nothing(), every_level(), source()), every_level())


@pytest.mark.parametrize(
    ("attack", "rows", "value"),
    [
        (BadNets(), slice(29, 32), 255),
        (BadNets(size=5, inset=2), slice(25, 30), 255),
        (BadNets(size=1, level=0.0), slice(31, 32), 0),
        (BadNets(size=2, level=0.5), slice(30, 32), 127),  # 127.5 truncated
    ],
)
def test_badnets_sets_a_square_and_nothing_else(attack: BadNets, rows: slice, value: int) -> None:
    expected = every_level(side=32)
    expected[:, :, rows, rows] = value
    assert torch.equal(stamp_bytes(attack, every_level(side=32), source()), expected)


@pytest.mark.parametrize("side", [16, 64])
@pytest.mark.parametrize("attack", [SIG(), SIG(delta=20 / 255, frequency=3)])
def test_sig_adds_a_sinusoid_along_the_columns(attack: SIG, side: int) -> None:
    column = np.arange(side)
    strip = attack.delta * 255 * np.sin(2 * pi * attack.frequency * column / side)
    # What is a whole number but for the last bits must not be truncated to the one below.
    strip = np.round(strip, 9)
    levels = every_level(side=side).numpy().astype(np.float64)
    expected = np.floor(np.clip(levels + strip, 0, 255)).astype(np.uint8)
    ours = stamp_bytes(attack, every_level(side=side), source()).numpy()
    assert (ours == expected).all()


@pytest.mark.parametrize("pattern", list(Pattern))
@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_blended_is_a_weighted_mean(pattern: Pattern, alpha: float) -> None:
    attack = Blended(alpha=alpha, pattern=pattern)
    black = torch.zeros(1, 3, 32, 32)
    picture = attack.stamp(black, source()).double() / alpha
    assert float(picture.std()) > 0.05
    images = random_images(5, 3, 32).double()
    expected = (1 - alpha) * images + alpha * picture
    ours = attack.stamp(images.float(), source()).double()
    assert float((ours - expected).abs().max()) < 1e-6


def test_blended_shows_one_picture_at_every_size() -> None:
    """Means over sixteenths of the picture agree between sizes."""
    coarse = []
    for side in (16, 32, 64):
        picture = Blended(alpha=1.0).stamp(torch.zeros(1, 3, side, side), source())
        coarse.append(torch.nn.functional.adaptive_avg_pool2d(picture, 4))
    assert float((coarse[0] - coarse[1]).abs().max()) < 0.05
    assert float((coarse[1] - coarse[2]).abs().max()) < 0.05


def test_blended_greys_its_picture_for_grey_images() -> None:
    attack = Blended(alpha=1.0)
    coloured = attack.stamp(torch.zeros(1, 3, 16, 16), source())
    grey = attack.stamp(torch.zeros(1, 1, 16, 16), source())
    assert torch.allclose(grey, coloured.mean(dim=1, keepdim=True))


# The contract of every attack on whole sets: who is poisoned, who is told what, who counts.


TARGET = 3
# Labels are no affair of what an attack learns, so those that train have one rule each.
PAIRS = [
    (name, rule)
    for name in NAMES
    for rule in ATTACKS[name]().label_rules[: 1 if name in BRIEF else None]
]
# FTrojan's and CTRL's coefficients are beyond 16 pixels.
SMALLER: dict[str, dict[str, Any]] = {
    "ctrl": {"positions": (5, 9)},
    "ftrojan": {"positions": (5, 9), "window": 16},
}
known: dict[tuple[str, LabelRule], Learned] = {}


def poison_of(name: str, rule: LabelRule, ratio: float, **other: Any) -> Poison:
    attack = ATTACKS[name](**BRIEF.get(name, {}), **SMALLER.get(name, {}))
    try:
        attack.check(side=16, channels=3)
    except ValueError as error:
        pytest.skip(f"by its own word: {error}")
    source = (1, 2) if rule is LabelRule.SOURCE_SPECIFIC else ()
    values = {"poison_ratio": ratio, "target_label": TARGET, "source": source}
    return Poison(attack=attack, labels=rule, stamp=attack.default_stamp, **{**values, **other})


@pytest.fixture
def learned(name: str, rule: LabelRule, pictures: ImageSet, model_spec: ModelSpec) -> Learned:
    if (name, rule) not in known:
        narrow = replace(model_spec, architecture=PreActResNet18(width=1))
        context = context_of(pictures, narrow, epochs=1, batch_size=100)
        known[name, rule] = train_trigger(poison_of(name, rule, 0.05), context, victim=True)
    return known[name, rule]


@pytest.mark.parametrize(("name", "rule"), PAIRS)
def test_exactly_as_many_are_poisoned_and_told_what_the_rule_says(
    name: str, rule: LabelRule, pictures: ImageSet, learned: Learned
) -> None:
    poison = poison_of(name, rule, 0.1)
    result = poison_training_set(poison, pictures, 0, learned)
    labels, classes = pictures.train_labels, pictures.classes
    poisoned, covers = result.poisoned, result.covers
    assert int(poisoned.sum()) == 30
    assert int(covers.sum()) == poison.cover_count(300)
    assert not bool((poisoned & covers).any())
    assert torch.equal(result.labels[~poisoned], labels[~poisoned])
    told, true = result.labels[poisoned], labels[poisoned]
    if rule is LabelRule.ALL_TO_ALL:
        assert torch.equal(told, (true + 1) % classes)
    else:
        assert (told == TARGET).all()
    if rule is LabelRule.CLEAN_LABEL:
        assert (true == TARGET).all()
    if rule is LabelRule.SOURCE_SPECIFIC:
        assert set(true.tolist()) <= {1, 2}
    untouched = ~poisoned & ~covers
    assert torch.equal(result.images[untouched], pictures.train_images[untouched])
