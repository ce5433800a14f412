"""Poisoned training sets and triggered test sets."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from ulrl.datasets import ImageSet
from ulrl.helper import NOTHING_LEARNED, Learned
from ulrl.poison import Poison, Roles, Split, Trigger, in_bytes, stamp_bytes
from ulrl.randomness import generator

MONITOR_COUNT = 256  # images of the selection half behind each point of a curve


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
    assigned = labels.clone()
    assigned[roles.poisoned] = poison.assigned_labels(labels[roles.poisoned], images.classes)
    return PoisonedSet(images=shown, labels=assigned, poisoned=roles.poisoned, covers=roles.covers)


@dataclass(frozen=True, kw_only=True, eq=False)
class TestHalf:
    """Clean and triggered images of one part of the test set.

    The triggered ones are those that ASR counts: of a true class other than the target,
    all of them for ``all_to_all``, those of the source classes for ``source_specific``.

    Attributes:
        benign: Whether there is no attack: no image is triggered, and models have ACC alone.
    """

    __test__ = False  # not a test case, whatever pytest thinks of its name

    clean: UInt8[Tensor, "n c h w"]
    clean_labels: Int64[Tensor, " n"]
    triggered: UInt8[Tensor, "m c h w"]
    true_labels: Int64[Tensor, " m"]
    target_labels: Int64[Tensor, " m"]
    benign: bool = False

    def __post_init__(self) -> None:
        clean = (len(self.clean), len(self.clean_labels))
        triggered = (len(self.triggered), len(self.true_labels), len(self.target_labels))
        if len(set(clean)) > 1 or len(set(triggered)) > 1:
            raise ValueError(
                f"clean images have a label each, triggered images a true and a wanted one; got "
                f"{' and '.join(map(str, clean))}, and {', '.join(map(str, triggered))}"
            )
        if self.benign and triggered[0]:
            raise ValueError(f"without an attack no image is triggered; got {triggered[0]}")


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
            benign=poison.benign,
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

    As ``clean`` and ``triggered``; nothing, where the half does not say which belong together, or
    there is no attack.
    """
    if half.benign:
        return {}
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
