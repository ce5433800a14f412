"""Poisoned training sets and triggered test sets."""

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction

import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from ulrl.attacks import Attack, LabelRule, Stamp, stamp_bytes
from ulrl.datasets import Facts, ImageSet
from ulrl.randomness import generator
from ulrl.wording import at_least, at_most

MONITOR_COUNT = 256  # images of the selection half behind each point of a curve


@dataclass(frozen=True, kw_only=True)
class Poison:
    """What the attacker does to the training set.

    Attributes:
        attack: The trigger.
        labels: Which images are poisoned and how they are labelled.
        poison_ratio: Poisoned images as a fraction of the *whole* training set, for
            clean-label attacks too.
        target_label: The class that triggered images shall be taken for (ignored by
            ``all_to_all``).
        stamp: Whether augmentation comes after the trigger, or before it.
    """

    attack: Attack
    labels: LabelRule
    poison_ratio: float = 0.1
    target_label: int = 0
    stamp: Stamp = Stamp.BEFORE_AUGMENTATION

    def __post_init__(self) -> None:
        if self.labels not in self.attack.label_rules:
            rules = ", ".join(self.attack.label_rules)
            raise ValueError(f"{self.attack.name} admits labels {rules}; got {self.labels}")
        if not 0 < self.poison_ratio <= 0.5:
            raise ValueError(
                f"poison_ratio is a fraction of the training set, above 0 and at most 0.5; "
                f"got {self.poison_ratio}"
            )

    def count(self, train_count: int) -> int:
        """Return the number of poisoned images: ratio × size, halves rounded up."""
        exact = Decimal(str(self.poison_ratio)) * train_count
        return int(exact.quantize(Decimal(1), rounding=ROUND_HALF_UP))

    def wanted(self, labels: Int64[Tensor, " n"], classes: int) -> Int64[Tensor, " n"]:
        """Return the class that the attacker wants for triggered images of `labels`."""
        if self.labels is LabelRule.ALL_TO_ALL:
            return (labels + 1) % classes
        return torch.full_like(labels, self.target_label)

    def check(self, facts: Facts) -> None:
        """Raise ``ValueError`` where a dataset cannot supply what is asked of it."""
        if self.labels is not LabelRule.ALL_TO_ALL and not 0 <= self.target_label < facts.classes:
            raise ValueError(
                f"target_label is one of the {facts.classes} classes, 0 to {facts.classes - 1}; "
                f"got {self.target_label}"
            )
        self.attack.check(side=facts.side, channels=facts.channels)
        count, total = self.count(facts.train_count), facts.train_count
        if count < 1:
            raise ValueError(
                f"poison_ratio {self.poison_ratio} of {total} training images is no image; "
                f"the smallest value is {at_least(Fraction(1, 2 * total))}"
            )
        supply = total
        if self.labels is LabelRule.CLEAN_LABEL:
            supply = facts.train_counts[self.target_label]
        if count > supply:
            raise ValueError(
                f"poison_ratio counts against all {total} training images, and clean_label "
                f"takes them from class {self.target_label}, which has {supply}: at most "
                f"{at_most(Fraction(supply, total))}; got {self.poison_ratio}"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class PoisonedSet:
    """A training set after the attacker."""

    images: UInt8[Tensor, "n c h w"]
    labels: Int64[Tensor, " n"]
    poisoned: Bool[Tensor, " n"]


def poison_training_set(poison: Poison, images: ImageSet, seed: int) -> PoisonedSet:
    """Return the training set with as many poisoned images as asked, drawn by `seed`.

    With ``stamp: after_augmentation`` the stored images stay clean; whoever trains stamps
    the poisoned ones in each view.
    """
    labels = images.train_labels
    candidates = torch.arange(len(labels))
    if poison.labels is LabelRule.CLEAN_LABEL:
        candidates = candidates[labels == poison.target_label]
    draw = torch.randperm(len(candidates), generator=generator(seed, "poisoned samples"))
    chosen = candidates[draw[: poison.count(len(labels))]].sort().values

    poisoned = torch.zeros(len(labels), dtype=torch.bool)
    poisoned[chosen] = True
    shown = images.train_images
    if poison.stamp is Stamp.BEFORE_AUGMENTATION:
        shown = shown.clone()
        trigger = generator(seed, "training triggers")
        shown[chosen] = stamp_bytes(poison.attack, shown[chosen], trigger)
    told = labels.clone()
    if poison.labels is not LabelRule.CLEAN_LABEL:
        told[chosen] = poison.wanted(labels[chosen], images.classes)
    return PoisonedSet(images=shown, labels=told, poisoned=poisoned)


@dataclass(frozen=True, kw_only=True, eq=False)
class TestHalf:
    """Clean and triggered images of one part of the test set.

    The triggered ones are those that ASR counts: of a true class other than the target,
    or all of them for ``all_to_all``.
    """

    __test__ = False  # not a test case, whatever pytest thinks of its name

    clean: UInt8[Tensor, "n c h w"]
    clean_labels: Int64[Tensor, " n"]
    triggered: UInt8[Tensor, "m c h w"]
    true_labels: Int64[Tensor, " m"]
    wanted_labels: Int64[Tensor, " m"]


@dataclass(frozen=True, kw_only=True, eq=False)
class TestSets:
    """The two halves of the test set, and the subset of the first that curves use."""

    __test__ = False

    selection: TestHalf
    report: TestHalf
    monitor: TestHalf


def make_test_sets(poison: Poison, images: ImageSet, seed: int) -> TestSets:
    """Stamp the test set once and split it by a rule that no setting can change."""
    labels = images.test_labels
    wanted = poison.wanted(labels, images.classes)
    triggered = stamp_bytes(poison.attack, images.test_images, generator(seed, "test triggers"))
    selection, report = split_halves(labels)

    def part(index: Int64[Tensor, " n"]) -> TestHalf:
        counted = index[wanted[index] != labels[index]]
        return TestHalf(
            clean=images.test_images[index],
            clean_labels=labels[index],
            triggered=triggered[counted],
            true_labels=labels[counted],
            wanted_labels=wanted[counted],
        )

    monitor = selection[:MONITOR_COUNT]
    return TestSets(selection=part(selection), report=part(report), monitor=part(monitor))


def split_halves(
    labels: Int64[Tensor, " n"],
) -> tuple[Int64[Tensor, " selection"], Int64[Tensor, " report"]]:
    """Return the indices of the selection and the report half, each in a shuffled order.

    The halves hold the same number of images of each class, give or take one.
    """
    order = torch.randperm(len(labels), generator=generator(0, "test halves"))
    by_class = order[labels[order].sort(stable=True).indices]
    first = torch.zeros(len(labels), dtype=torch.bool)
    first[by_class[::2]] = True
    return order[first[order]], order[~first[order]]
