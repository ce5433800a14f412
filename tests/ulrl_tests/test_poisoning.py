"""What the attacker does to the training set."""

import random
import re
from dataclasses import dataclass
from fractions import Fraction
from math import floor

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Generator

from ulrl.attacks import FixedAttack, Images, LabelRule, Stamp
from ulrl.attacks.badnets import BadNets
from ulrl.attacks.blended import Blended
from ulrl.attacks.sig import SIG
from ulrl.clean import CleanConfig, CleanDraw, draw_clean_samples
from ulrl.datasets import DatasetInfo, ImageSet
from ulrl.poison import Poison
from ulrl.poison_checks import check_poison
from ulrl.poisoning import poison_training_set

RULES = list(LabelRule)


def poison_by(rule: LabelRule, ratio: float = 0.05, **rest: object) -> Poison:
    """SIG admits every rule; the source is class 1, where there is one."""
    source = (1,) if rule is LabelRule.SOURCE_SPECIFIC else ()
    return Poison(attack=SIG(), labels=rule, poison_ratio=ratio, source=source, **rest)  # type: ignore[arg-type]


@given(st.integers(1, 60_000), st.integers(1, 5000).map(lambda n: n / 10_000))
def test_count_agrees_with_exact_fractions(total: int, ratio: float) -> None:
    expected = floor(Fraction(str(ratio)) * total + Fraction(1, 2))
    assert poison_by(LabelRule.ALL_TO_ONE, ratio).count(total) == expected


@pytest.mark.parametrize("stamp", list(Stamp))
@pytest.mark.parametrize("rule", RULES)
def test_the_original_arrays_are_not_modified(
    pictures: ImageSet, rule: LabelRule, stamp: Stamp
) -> None:
    images, labels = pictures.train_images.clone(), pictures.train_labels.clone()
    result = poison_training_set(poison_by(rule, stamp=stamp), pictures, seed=0)
    result.labels.zero_()
    assert torch.equal(pictures.train_images, images)
    assert torch.equal(pictures.train_labels, labels)


def test_the_same_images_whatever_the_trigger(pictures: ImageSet) -> None:
    sets = [
        poison_training_set(
            Poison(attack=attack, labels=LabelRule.ALL_TO_ONE, target_label=target),
            pictures,
            seed=0,
        ).poisoned
        for attack, target in ((BadNets(), 0), (Blended(), 0), (BadNets(), 5))
    ]
    assert all(torch.equal(one, sets[0]) for one in sets)


@dataclass(frozen=True, kw_only=True)
class Dice(FixedAttack):
    """Paints each image in a random grey: the triggers differ from image to image."""

    name = "dice"

    def stamp(self, images: Images, generator: Generator) -> Images:
        return torch.rand(len(images), 1, 1, 1, generator=generator).expand_as(images)


def test_random_triggers_come_from_the_scenarios_seed(pictures: ImageSet) -> None:
    poison = Poison(attack=Dice(), labels=LabelRule.ALL_TO_ONE)
    torch.manual_seed(0)
    once = poison_training_set(poison, pictures, seed=0)
    torch.manual_seed(1)
    again = poison_training_set(poison, pictures, seed=0)
    assert torch.equal(once.images, again.images)
    assert len(torch.unique(once.images[once.poisoned][:, 0, 0, 0])) > 10


FACTS = DatasetInfo(train_counts=(300, 128, 72), test_count=50, side=16)


@pytest.mark.parametrize(
    ("poison", "message"),
    [
        (
            Poison(attack=BadNets(), labels=LabelRule.ALL_TO_ONE, target_label=3),
            "target_label is one of the 3 classes, 0 to 2; got 3",
        ),
        (
            poison_by(LabelRule.CLEAN_LABEL, target_label=-1),
            "target_label is one of the 3 classes, 0 to 2; got -1",
        ),
        (
            Poison(attack=BadNets(), labels=LabelRule.ALL_TO_ONE, poison_ratio=0.0005),
            "poison_ratio 0.0005 of 500 training images is no image; the smallest value is 0.001",
        ),
        (
            poison_by(LabelRule.CLEAN_LABEL, 0.3, target_label=1),
            (
                "poison_ratio counts against all 500 training images, and clean_label takes "
                "them from class 1, which has 128: at most 0.256; got 0.3"
            ),
        ),
        (
            Poison(attack=BadNets(size=12, inset=5), labels=LabelRule.ALL_TO_ONE),
            "a square of 12 pixels at inset 5 fits images of at least 17 pixels; got 16",
        ),
    ],
    ids=["target too high", "target negative", "none", "too many", "attack"],
)
def test_what_a_dataset_cannot_supply(poison: Poison, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        check_poison(poison, FACTS)
    assert str(error.value) == message


@given(st.integers(1, 6000), st.integers(2, 100_000))
def test_the_largest_ratio_that_the_message_names_is_admitted(supply: int, rest: int) -> None:
    info = DatasetInfo(train_counts=(supply, rest), test_count=2, side=16)
    share = supply / (supply + rest)
    assume(1e-4 < share < 0.49)
    with pytest.raises(ValueError, match="at most") as error:
        check_poison(poison_by(LabelRule.CLEAN_LABEL, 0.5), info)
    named = re.search(r"at most ([\d.]+);", str(error.value))
    assert named is not None
    largest = float(named[1])
    assert share - 1e-4 < largest <= share
    check_poison(poison_by(LabelRule.CLEAN_LABEL, largest), info)


@pytest.mark.parametrize("ratio", [0.0, 0.51, float("nan")])
def test_poison_ratio_out_of_range(ratio: float) -> None:
    with pytest.raises(ValueError, match="poison_ratio") as error:
        poison_by(LabelRule.ALL_TO_ONE, ratio)
    assert str(error.value) == (
        f"poison_ratio is a fraction of the training set, above 0 and at most 0.5; got {ratio}"
    )


def test_a_rule_that_makes_no_sense_for_an_attack() -> None:
    with pytest.raises(ValueError, match="badnets") as error:
        Poison(attack=BadNets(), labels=LabelRule.CLEAN_LABEL)
    assert (
        str(error.value)
        == "badnets admits labels all_to_one, all_to_all, source_specific; got clean_label"
    )


# The defender's samples.


def blank(labels: torch.Tensor) -> ImageSet:
    """A training set of one-pixel images that carry their index modulo 256."""
    pixels = (torch.arange(len(labels)) % 256).to(torch.uint8)[:, None, None, None]
    return ImageSet(
        train_images=pixels,
        train_labels=labels,
        test_images=pixels[:1],
        test_labels=labels[:1],
        classes=int(labels.max()) + 1,
    )


def test_official_indices_of_cifar10() -> None:
    clean = draw_clean_samples(CleanConfig(), blank(torch.arange(50_000) % 10), seed=0)
    assert len(clean.index) == 500
    assert clean.index[:5].tolist() == [25247, 49673, 27562, 2653, 16968]
    assert len(torch.unique(clean.index)) == 500
    random.seed(0)
    assert clean.index.tolist() == random.sample(range(50_000), 500)


@pytest.mark.parametrize(
    ("total", "ratio", "count"),
    [
        (50_000, 0.01, 500),
        (39_209, 0.01, 392),  # 392.09: GTSRB
        (100_000, 0.01, 1000),
        (299, 0.01, 2),  # 2.99
        (1297, 0.05, 64),  # 64.85
        (10, 1.0, 10),
    ],
)
def test_count_is_truncated(total: int, ratio: float, count: int) -> None:
    images = blank(torch.arange(total) % 10)
    clean = draw_clean_samples(CleanConfig(clean_ratio=ratio), images, seed=3)
    assert len(clean.index) == len(torch.unique(clean.index)) == count


def test_samples_are_clean_copies_even_of_poisoned_images(
    pictures: ImageSet, badnets: Poison
) -> None:
    poisoned = poison_training_set(badnets, pictures, seed=0)
    clean = draw_clean_samples(CleanConfig(clean_ratio=0.5), pictures, seed=0)
    both = poisoned.poisoned[clean.index]
    assert bool(both.any())
    assert torch.equal(clean.samples.images, pictures.train_images[clean.index])
    assert torch.equal(clean.samples.labels, pictures.train_labels[clean.index])
    assert not torch.equal(clean.samples.images[both], poisoned.images[clean.index][both])
    clean.samples.images.zero_()
    assert bool(pictures.train_images.any())


@pytest.mark.parametrize("draw", list(CleanDraw))
def test_the_seed_decides(pictures: ImageSet, draw: CleanDraw) -> None:
    config = CleanConfig(clean_ratio=0.2, clean_draw=draw)
    once, again, other = (draw_clean_samples(config, pictures, seed) for seed in (0, 0, 1))
    assert torch.equal(once.index, again.index)
    assert set(once.index.tolist()) != set(other.index.tolist())
    assert (once.seed, other.seed) == (0, 1)


def test_per_class_takes_the_same_share_of_each() -> None:
    labels = torch.tensor([0] * 100 + [1] * 59 + [2] * 10 + [3] * 3)
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    config = CleanConfig(clean_ratio=0.1, clean_draw=CleanDraw.PER_CLASS)
    clean = draw_clean_samples(config, blank(labels), seed=0)
    # 10, 5.9 truncated, 1, and 0.3 raised to the one image each class supplies
    assert clean.samples.labels.bincount().tolist() == [10, 5, 1, 1]
    assert len(torch.unique(clean.index)) == 17
    assert torch.equal(labels[clean.index], clean.samples.labels)


def test_too_few_samples() -> None:
    with pytest.raises(ValueError, match="clean_ratio") as error:
        CleanConfig(clean_ratio=0.01).check(100)
    assert str(error.value) == (
        "clean_ratio 0.01 of 100 training images is 1 sample, and ULRL needs at least 2: "
        "from 0.02 on"
    )


@pytest.mark.parametrize("count", [3, 199, 39_209])
def test_the_ratio_that_the_message_names_is_admitted(count: int) -> None:
    with pytest.raises(ValueError, match="from") as error:
        CleanConfig(clean_ratio=1 / count / 2).check(count)
    named = float(str(error.value).split("from ")[1].removesuffix(" on"))
    CleanConfig(clean_ratio=named).check(count)
    assert named < 2.2 / count
