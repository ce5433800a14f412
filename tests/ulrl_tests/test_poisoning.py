"""What the attacker does to the training set."""

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
from ulrl.attacks.ssba import SSBA
from ulrl.datasets import DatasetInfo, ImageSet
from ulrl.poison import Poison
from ulrl.poison_checks import check_poison
from ulrl.poisoning import poison_training_set

RULES = list(LabelRule)
TOTAL = 300  # training images of the small world, 30 in each class


def poison_by(rule: LabelRule, ratio: float = 0.05, **rest: object) -> Poison:
    """SIG admits every rule; the source is class 1, where there is one."""
    source = (1,) if rule is LabelRule.SOURCE_SPECIFIC else ()
    return Poison(attack=SIG(), labels=rule, poison_ratio=ratio, source=source, **rest)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("total", "ratio", "count"),
    [
        (1000, 0.1, 100),
        (45, 0.1, 5),  # 4.5
        (35, 0.1, 4),  # 3.5: halves go up, not to the even number
        (1297, 0.1, 130),  # 129.7
        (1000, 0.0145, 15),  # 14.5, although the product of floats is below it
        (39_209, 0.1, 3921),  # 3920.9
        (10, 0.04, 0),
    ],
)
def test_count_is_rounded_half_up(total: int, ratio: float, count: int) -> None:
    assert poison_by(LabelRule.ALL_TO_ONE, ratio).count(total) == count


@given(st.integers(1, 60_000), st.integers(1, 5000).map(lambda n: n / 10_000))
def test_count_agrees_with_exact_fractions(total: int, ratio: float) -> None:
    expected = floor(Fraction(str(ratio)) * total + Fraction(1, 2))
    assert poison_by(LabelRule.ALL_TO_ONE, ratio).count(total) == expected


def test_labels_of_each_rule(pictures: ImageSet) -> None:
    truth = pictures.train_labels
    for rule in RULES:
        result = poison_training_set(poison_by(rule, 0.09, target_label=3), pictures, seed=1)
        told, true = result.labels[result.poisoned], truth[result.poisoned]
        if rule is LabelRule.ALL_TO_ONE:
            assert told.tolist() == [3] * 27
            assert len(torch.unique(true)) > 5  # of all classes, the target's own too
        elif rule is LabelRule.ALL_TO_ALL:
            assert told.tolist() == [(label + 1) % 10 for label in true.tolist()]
            assert 0 in told.tolist()
        elif rule is LabelRule.SOURCE_SPECIFIC:
            assert told.tolist() == [3] * 27
            assert true.tolist() == [1] * 27
        else:
            assert told.tolist() == true.tolist() == [3] * 27


def test_clean_label_may_take_the_whole_class(pictures: ImageSet) -> None:
    poison = poison_by(LabelRule.CLEAN_LABEL, 0.1, target_label=7)
    result = poison_training_set(poison, pictures, seed=0)
    assert torch.equal(result.poisoned, pictures.train_labels == 7)


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


def test_the_seed_decides_which(pictures: ImageSet) -> None:
    poison = poison_by(LabelRule.ALL_TO_ONE)
    once, again, other = (poison_training_set(poison, pictures, seed) for seed in (0, 0, 1))
    assert torch.equal(once.poisoned, again.poisoned)
    assert torch.equal(once.images, again.images)
    assert not torch.equal(once.poisoned, other.poisoned)


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


def test_what_a_dataset_can_supply() -> None:
    check_poison(poison_by(LabelRule.CLEAN_LABEL, 0.256, target_label=1), FACTS)
    check_poison(poison_by(LabelRule.ALL_TO_ONE, 0.5), FACTS)
    check_poison(poison_by(LabelRule.ALL_TO_ALL, target_label=99), FACTS)  # ignored by this rule


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


def test_the_largest_ratio_is_not_lost_to_rounding() -> None:
    """43 / 500 is 0.086, although 43 / 500 * 10,000 is 859.9999999999999."""
    info = DatasetInfo(train_counts=(43, 457), test_count=2, side=16)
    check_poison(poison_by(LabelRule.CLEAN_LABEL, 0.086), info)
    with pytest.raises(ValueError, match=r"at most 0\.086; got 0\.1$"):
        check_poison(poison_by(LabelRule.CLEAN_LABEL, 0.1), info)


@given(st.integers(10, 100_000))
def test_the_smallest_ratio_that_the_message_names_is_admitted(total: int) -> None:
    info = DatasetInfo(train_counts=(total // 2, total - total // 2), test_count=2, side=16)
    with pytest.raises(ValueError, match="smallest value") as error:
        check_poison(poison_by(LabelRule.ALL_TO_ONE, 1e-7), info)
    named = float(str(error.value).rsplit(" ", 1)[1])
    check_poison(poison_by(LabelRule.ALL_TO_ONE, named), info)


@pytest.mark.parametrize("ratio", [0.0, -0.1, 0.51, 1.0, float("nan")])
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


def test_files_of_triggered_images_hold_no_augmented_views() -> None:
    attack = SSBA(train_replacements="a.npy", test_replacements="b.npy")
    with pytest.raises(ValueError, match="stamp of ssba with files is before_augmentation: they"):
        Poison(attack=attack, labels=LabelRule.ALL_TO_ONE, stamp=Stamp.AFTER_AUGMENTATION)
