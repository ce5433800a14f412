"""Poisoned training sets and triggered test sets."""

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Generator, Tensor

from ulrl.attacks import (
    NOTHING_LEARNED,
    Attack,
    LabelRule,
    Learned,
    Roles,
    Split,
    Stamp,
    Trigger,
    in_bytes,
    stamp_bytes,
)
from ulrl.datasets import DatasetInfo, ImageSet
from ulrl.poison_checks import check_poison
from ulrl.randomness import generator

MONITOR_COUNT = 256  # images of the selection half behind each point of a curve


@dataclass(frozen=True, kw_only=True)
class Poison:
    """What the attacker does to the training set.

    Attributes:
        attack: Whose trigger it is.
        labels: Which images are poisoned and how they are labelled.
        poison_ratio: Poisoned images as a fraction of the *whole* training set, for
            clean-label attacks too.
        target_label: The class that triggered images shall be taken for (ignored by
            ``all_to_all``).
        stamp: Whether augmentation comes after the trigger, or before it.
        source: Under ``source_specific``, the classes whose images are poisoned, and for
            whose images alone the trigger is meant to work; otherwise empty.
    """

    attack: Attack
    labels: LabelRule
    poison_ratio: float = 0.1
    target_label: int = 0
    stamp: Stamp = Stamp.BEFORE_AUGMENTATION
    source: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.labels not in self.attack.label_rules:
            rules = ", ".join(self.attack.label_rules)
            raise ValueError(f"{self.attack.name} admits labels {rules}; got {self.labels}")
        if self.stamp not in self.attack.stamps:
            raise ValueError(
                f"stamp of {self.attack.name} with files is {', '.join(self.attack.stamps)}: they "
                f"hold no augmented views; got {self.stamp}"
            )
        if not 0 < self.poison_ratio <= 0.5:
            raise ValueError(
                f"poison_ratio is a fraction of the training set, above 0 and at most 0.5; "
                f"got {self.poison_ratio}"
            )
        specific = self.labels is LabelRule.SOURCE_SPECIFIC
        if self.source and not specific:
            raise ValueError(f"source goes with labels: source_specific; got labels: {self.labels}")
        if specific and not self.source:
            raise ValueError("source_specific needs the classes it is about; write source: 1")
        if len(set(self.source)) < len(self.source):
            raise ValueError(f"source names each class once; got {list(self.source)}")

    @property
    def stamps_in_training(self) -> bool:
        """Whether images are stamped as batches come, or else all before training begins."""
        return self.attack.redrawn or self.stamp is not Stamp.BEFORE_AUGMENTATION

    def count(self, train_count: int) -> int:
        """Return the number of poisoned images: ratio × size, halves rounded up."""
        return _rounded(self.poison_ratio, train_count)

    def cover_count(self, train_count: int) -> int:
        """Return the number of covers, which are stamped and keep their true label."""
        return _rounded(self.attack.cover_ratio_at(self.poison_ratio), train_count)

    def target_labels(self, labels: Int64[Tensor, " n"], classes: int) -> Int64[Tensor, " n"]:
        """Return the class that the attacker wants for triggered images of `labels`."""
        if self.labels is LabelRule.ALL_TO_ALL:
            return (labels + 1) % classes
        return torch.full_like(labels, self.target_label)

    def assigned_labels(self, labels: Int64[Tensor, " n"], classes: int) -> Int64[Tensor, " n"]:
        """Return the labels that poisoned images of `labels` are given."""
        return (
            labels if self.labels is LabelRule.CLEAN_LABEL else self.target_labels(labels, classes)
        )

    def asr_mask(self, labels: Int64[Tensor, " n"], classes: int) -> Bool[Tensor, " n"]:
        """Return which triggered test images ASR and RA count: those that could betray it.

        They are not of the wanted class; source-specific, they are of a source class.
        """
        counts = self.target_labels(labels, classes) != labels
        if self.labels is LabelRule.SOURCE_SPECIFIC:
            counts &= torch.isin(labels, torch.tensor(self.source, device=labels.device))
        return counts

    def poisonable_classes(self, classes: int) -> tuple[int, ...]:
        """Return the classes whose images may be poisoned."""
        if self.labels is LabelRule.CLEAN_LABEL:
            return (self.target_label,)
        return self.source or tuple(range(classes))

    def roles(self, labels: Int64[Tensor, " n"], seed: int, epoch: int | None = None) -> Roles:
        """Draw the poisoned images and the covers, which are others.

        Args:
            labels: True classes of the whole training set.
            seed: The scenario's.
            epoch: For attacks that poison other images in each epoch.
        """
        moment = () if epoch is None else (str(epoch),)
        classes = int(labels.max()) + 1
        poisoned = _drawn(
            torch.isin(labels, torch.tensor(self.poisonable_classes(classes))),
            self.count(len(labels)),
            generator(seed, "poisoned samples", *moment),
        )
        covers = _drawn(
            self._may_cover(labels, classes) & ~poisoned,
            self.cover_count(len(labels)),
            generator(seed, "covers", *moment),
        )
        return Roles(poisoned=poisoned, covers=covers)

    def _may_cover(self, labels: Int64[Tensor, " n"], classes: int) -> Bool[Tensor, " n"]:
        if self.cover_count(len(labels)) == 0:
            return torch.zeros(len(labels), dtype=torch.bool)
        givers = self.attack.cover_sources(classes) or tuple(range(classes))
        return torch.isin(labels, torch.tensor(givers))

    def check(self, info: DatasetInfo) -> None:
        """Raise ``ValueError`` where a dataset cannot supply what is asked of it."""
        check_poison(self, info)


def _rounded(ratio: float, total: int) -> int:
    return int((Decimal(str(ratio)) * total).quantize(Decimal(1), rounding=ROUND_HALF_UP))


def _drawn(candidates: Bool[Tensor, " n"], count: int, source: Generator) -> Bool[Tensor, " n"]:
    places = candidates.nonzero().flatten()
    chosen = torch.zeros(len(candidates), dtype=torch.bool)
    if count:
        chosen[places[torch.randperm(len(places), generator=source)[:count]]] = True
    return chosen


@dataclass(frozen=True, kw_only=True, eq=False)
class PoisonedSet:
    """A training set after the attacker."""

    images: UInt8[Tensor, "n c h w"]
    labels: Int64[Tensor, " n"]
    poisoned: Bool[Tensor, " n"]
    covers: Bool[Tensor, " n"]


def prepared_images(
    poison: Poison, images: ImageSet, roles: Roles, learned: Learned
) -> UInt8[Tensor, "n c h w"]:
    """Return a copy of the training images, the poisoned ones as they are before any stamp."""
    shown = images.train_images.clone()
    index = roles.poisoned.nonzero().flatten()
    shown[index] = poison.attack.prepared(shown[index], index, learned)
    return shown


def poison_training_set(
    poison: Poison, images: ImageSet, seed: int, learned: Learned = NOTHING_LEARNED
) -> PoisonedSet:
    """Return the training set with as many poisoned images as asked, drawn by `seed`.

    That is the set of an attacker who has no say in the training: all stamps come before
    augmentation.

    Args:
        poison: What the attacker does.
        images: Clean.
        seed: The scenario's.
        learned: What the attack was trained to do, for those that are.
    """
    trigger = poison.attack.trigger(seed, learned)
    labels = images.train_labels
    roles = poison.roles(labels, seed)
    source = generator(seed, "training triggers")
    shown = prepared_images(poison, images, roles, learned)
    given = trigger.replacements(Split.TRAINING, roles.poisoned.nonzero().flatten())
    shown[roles.poisoned] = (
        in_bytes(trigger.stamp_training, shown[roles.poisoned], source) if given is None else given
    )
    shown[roles.covers] = in_bytes(trigger.stamp_cover, shown[roles.covers], source)
    told = labels.clone()
    told[roles.poisoned] = poison.assigned_labels(labels[roles.poisoned], images.classes)
    return PoisonedSet(images=shown, labels=told, poisoned=roles.poisoned, covers=roles.covers)


@dataclass(frozen=True, kw_only=True, eq=False)
class TestHalf:
    """Clean and triggered images of one part of the test set.

    The triggered ones are those that ASR counts: of a true class other than the target,
    all of them for ``all_to_all``, those of the source classes for ``source_specific``.
    """

    __test__ = False  # not a test case, whatever pytest thinks of its name

    clean: UInt8[Tensor, "n c h w"]
    clean_labels: Int64[Tensor, " n"]
    triggered: UInt8[Tensor, "m c h w"]
    true_labels: Int64[Tensor, " m"]
    target_labels: Int64[Tensor, " m"]

    def __post_init__(self) -> None:
        clean = (len(self.clean), len(self.clean_labels))
        triggered = (len(self.triggered), len(self.true_labels), len(self.target_labels))
        if len(set(clean)) > 1 or len(set(triggered)) > 1:
            raise ValueError(
                f"clean images have a label each, triggered images a true and a wanted one; got "
                f"{' and '.join(map(str, clean))}, and {', '.join(map(str, triggered))}"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class TestSets:
    """The two halves of the test set, and the subset of the first that curves use."""

    __test__ = False

    selection: TestHalf
    report: TestHalf
    monitor: TestHalf


def make_test_sets(
    poison: Poison, images: ImageSet, seed: int, learned: Learned = NOTHING_LEARNED
) -> TestSets:
    """Stamp the test set once and split it by a rule that no setting can change.

    Args:
        poison: What the attacker does.
        images: Clean.
        seed: The scenario's.
        learned: What the attack was trained to do, for those that are.
    """
    trigger = poison.attack.trigger(seed, learned)
    labels = images.test_labels
    wanted = poison.target_labels(labels, images.classes)
    counts = poison.asr_mask(labels, images.classes)
    triggered = _replaced(trigger, images)
    if triggered is None:
        triggered = stamp_bytes(trigger, images.test_images, generator(seed, "test triggers"))
    selection, report = split_halves(labels)

    def part(index: Int64[Tensor, " n"]) -> TestHalf:
        counted = index[counts[index]]
        return TestHalf(
            clean=images.test_images[index],
            clean_labels=labels[index],
            triggered=triggered[counted],
            true_labels=labels[counted],
            target_labels=wanted[counted],
        )

    monitor = selection[:MONITOR_COUNT]
    return TestSets(selection=part(selection), report=part(report), monitor=part(monitor))


def _replaced(trigger: Trigger, images: ImageSet) -> UInt8[Tensor, "n c h w"] | None:
    """Return the triggered test images that a file has, each at the place of its original.

    Where programs number a dataset's test images in two orders, the file's is the one in which
    triggered images are nearer to their originals.
    """
    clean, order = images.test_images, images.folder_order
    given = trigger.replacements(Split.TEST, torch.arange(len(clean)))
    if given is None or order is None:
        return given
    sorted_back = torch.empty_like(given)
    sorted_back[order] = given
    return min((given, sorted_back), key=lambda made: _distance(made, clean))


def _distance(one: UInt8[Tensor, "n c h w"], other: UInt8[Tensor, "n c h w"]) -> float:
    pairs = zip(torch.split(one, 1000), torch.split(other, 1000), strict=True)
    return float(sum((a.int() - b.int()).abs().sum() for a, b in pairs))


def example_pairs(poison: Poison, half: TestHalf, count: int) -> dict[str, Tensor]:
    """Return the first few triggered images of a half beside what they were made from.

    As ``clean`` and ``triggered``; nothing, where the half does not say which belong together.
    """
    index = poison.asr_mask(half.clean_labels, _classes(half)).nonzero().flatten()
    if count == 0 or not torch.equal(half.clean_labels[index], half.true_labels):
        return {}
    clean, triggered = half.clean[index[:count]], half.triggered[:count]
    return {"clean": clean.contiguous(), "triggered": triggered.contiguous()}


def _classes(half: TestHalf) -> int:
    return 1 + int(max(half.clean_labels.max(), half.target_labels.max()))


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
