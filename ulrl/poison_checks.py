"""Whether a dataset can supply the poisoned images and covers that an attack wants."""

from fractions import Fraction

import torch
from torch import Tensor

from ulrl.datasets import DatasetInfo
from ulrl.messages import at_least, at_most
from ulrl.poison import Attack, LabelRule, Poison
from ulrl.randomness import generator


def check_poison(poison: Poison, info: DatasetInfo) -> None:
    """Raise ``ValueError`` where a dataset cannot supply what is asked of it."""
    _check_classes(poison, info)
    poison.attack.check(side=info.side, channels=info.channels)
    poison.attack.check_info(info)
    count, total = poison.count(info.train_count), info.train_count
    if count < 1:
        raise ValueError(
            f"poison_ratio {poison.poison_ratio} of {total} training images is no image; "
            f"the smallest value is {at_least(Fraction(1, 2 * total))}"
        )
    poisonable_classes = poison.poisonable_classes(info.classes)
    supply = sum(info.train_counts[label] for label in poisonable_classes)
    if count > supply:
        classes = "class" if len(poisonable_classes) == 1 else "classes"
        named = ", ".join(map(str, poisonable_classes))
        raise ValueError(
            f"poison_ratio counts against all {total} training images, and {poison.labels} "
            f"takes them from {classes} {named}, which has {supply}: at most "
            f"{at_most(Fraction(supply, total))}; got {poison.poison_ratio}"
        )
    _check_covers(poison, info, count)
    _check_test_halves(poison, info)


def check_trigger(poison: Poison, *, side: int, channels: int) -> None:
    """Raise ``ValueError`` where an attack does not stamp an image of this shape as it should.

    One that trains something first has no trigger yet, and passes.
    """
    attack = poison.attack
    trained = type(attack).training_hooks is not Attack.training_hooks
    if trained or attack.helper(poison) is not None:
        return
    shape = [1, channels, side, side]
    images = torch.full(shape, 0.5)
    try:
        triggered = attack.trigger(0, {}).stamp(images.clone(), generator(0, "trial"))
        if not isinstance(triggered, Tensor):
            raise TypeError(f"stamp returns {type(triggered).__name__}")  # noqa: TRY301
        if triggered.shape != images.shape or not triggered.is_floating_point():
            kind = str(triggered.dtype).removeprefix("torch.")
            raise ValueError(f"stamp returns {kind} {list(triggered.shape)}")  # noqa: TRY301
        if not bool(triggered.isfinite().all()):
            raise ValueError("stamp returns NaN or infinity")  # noqa: TRY301
    except Exception as error:
        text = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise ValueError(
            f"{attack.name} does not stamp an image, float32 {shape} in [0, 1] ({text}); stamp "
            f"returns a triggered copy of the same shape"
        ) from error


def _check_test_halves(poison: Poison, info: DatasetInfo) -> None:
    """Each half of the test set needs an image whose triggered copy can betray the backdoor."""
    if info.test_counts is None:
        return
    labels = torch.repeat_interleave(torch.tensor(info.test_counts))
    counted = poison.asr_mask(labels, info.classes)
    # As `split_halves` does: of all images in the order of their classes, every second one.
    for half, first in (("selection", 0), ("report", 1)):
        if not bool(counted[first::2].any()):
            raise ValueError(
                f"ASR counts test images {_whose(poison)}, and the {half} half of the "
                f"{len(labels)} test images has none; add some"
            )


def _whose(poison: Poison) -> str:
    if poison.labels is LabelRule.SOURCE_SPECIFIC:
        return f"of class {', '.join(map(str, poison.source))}"
    if poison.labels is LabelRule.ALL_TO_ALL:
        return "of all classes"
    return f"of other classes than the target, {poison.target_label}"


def _check_classes(poison: Poison, info: DatasetInfo) -> None:
    last = info.classes - 1
    target_counts = poison.labels is not LabelRule.ALL_TO_ALL
    if target_counts and not 0 <= poison.target_label <= last:
        raise ValueError(
            f"target_label is one of the {info.classes} classes, 0 to {last}; "
            f"got {poison.target_label}"
        )
    for label in poison.source:
        if not 0 <= label <= last:
            raise ValueError(f"source is of the {info.classes} classes, 0 to {last}; got {label}")
    if poison.target_label in poison.source:
        raise ValueError(
            f"source names classes other than the target, which is {poison.target_label}; "
            f"got {list(poison.source)}"
        )


def _check_covers(poison: Poison, info: DatasetInfo, count: int) -> None:
    """Covers are never poisoned images, so both must fit where their classes overlap."""
    covers = poison.cover_count(info.train_count)
    if covers == 0:
        return
    named = poison.attack.cover_sources(info.classes)
    givers = set(named or range(info.classes))
    poisonable_classes = set(poison.poisonable_classes(info.classes))
    _check_cover_classes(poison, named)
    counts = info.train_counts
    # At worst all poisoned images come from classes that give covers.
    taken = min(count, sum(counts[label] for label in poisonable_classes & givers))
    supply = sum(counts[label] for label in givers) - taken
    if covers > supply:
        raise ValueError(
            f"{poison.attack.name} wants {covers} covers beside {count} poisoned images, and "
            f"their classes have {max(supply, 0)} to give; lower poison_ratio, or the share of "
            f"covers"
        )


def _check_cover_classes(poison: Poison, named: tuple[int, ...]) -> None:
    """Covers teach that the trigger alone means nothing: neither source nor target can."""
    if poison.labels is not LabelRule.SOURCE_SPECIFIC:
        return
    for role, classes in (("target", (poison.target_label,)), ("source", poison.source)):
        for label in classes:
            if label in named:
                raise ValueError(
                    f"cover_classes are neither source nor target, and {label} is the {role}; "
                    f"name others: got {list(named)}"
                )
