"""What an attacker does: the interface of attacks, whom they poison, and how they stamp batches."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from enum import StrEnum
from typing import Any, ClassVar, Self, TypeAlias

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Generator, Tensor

from ulrl.datasets import DatasetInfo
from ulrl.helper import AttackContext, Helper, Learned
from ulrl.models import Classifier
from ulrl.randomness import generator
from ulrl.training_hooks import TrainingHooks

Images: TypeAlias = Float[Tensor, "n c h w"]  # pixels in [0, 1], before normalisation


class LabelRule(StrEnum):
    """Which images are poisoned, and what label they get."""

    ALL_TO_ONE = "all_to_one"  # images of any class, labelled as the target
    ALL_TO_ALL = "all_to_all"  # images of any class y, labelled y + 1 (mod K)
    CLEAN_LABEL = "clean_label"  # images of the target class, label left alone
    SOURCE_SPECIFIC = "source_specific"  # images of the source classes, labelled as the target


DIRTY_LABELS = (LabelRule.ALL_TO_ONE, LabelRule.ALL_TO_ALL, LabelRule.SOURCE_SPECIFIC)


class Stamp(StrEnum):
    """When the trigger meets a training image."""

    BEFORE_AUGMENTATION = "before_augmentation"  # BackdoorBench: a crop may cut it away
    AFTER_AUGMENTATION = "after_augmentation"  # every view carries the whole trigger


class Split(StrEnum):
    """Which images of a dataset."""

    TRAINING = "training"
    TEST = "test"


class Trigger(ABC):
    """A pure function of images. One image alone and in any batch gets the same trigger."""

    @abstractmethod
    def stamp(self, images: Images, generator: Generator) -> Images:
        """Return triggered copies of test images; the argument is left as it was.

        Args:
            images: On any device.
            generator: Of the CPU; a trigger that is random per image takes one draw of it,
                see `image_generators`. A fixed trigger takes none.
        """

    def stamp_training(self, images: Images, generator: Generator) -> Images:
        """Return triggered copies of training images, where they differ from test images."""
        return self.stamp(images, generator)

    def stamp_cover(self, images: Images, generator: Generator) -> Images:
        """Return covers: training images with a trigger of sorts that keep their true label."""
        return self.stamp_training(images, generator)

    def replacements(
        self, split: Split, index: Int64[Tensor, " n"]
    ) -> UInt8[Tensor, "n c h w"] | None:
        """Return the triggered copies of a dataset's own images, where a file has them.

        None, as for most triggers, says that they are stamped.

        Args:
            split: Which images of the dataset.
            index: Their places there.
        """
        del split, index
        return None


class Attack(ABC):
    """An attack with its hyperparameters; each subclass is a final frozen dataclass.

    Attributes:
        label_rules: The rules that make sense for this attack, its own default first.
        default_stamp: When it stamps, unless a study says otherwise.
        default_source: Its source classes under ``source_specific`` where none are given.
        benign: Whether there is no attack. The victim is then a benign model: what `start` returns,
            not trained any further, and no test image is triggered.
        redrawn: Whether each epoch poisons other images, as an attacker can who controls the
            training, and not only the training set.
        version: Raised when the same options make other victims than before: stored ones of
            this attack are then trained again, and no others.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    label_rules: ClassVar[tuple[LabelRule, ...]] = DIRTY_LABELS
    default_stamp: ClassVar[Stamp] = Stamp.BEFORE_AUGMENTATION
    default_source: ClassVar[tuple[int, ...]] = ()
    redrawn: ClassVar[bool] = False
    benign: ClassVar[bool] = False

    @property
    def stamps(self) -> tuple[Stamp, ...]:
        """When it can stamp."""
        return tuple(Stamp)

    @abstractmethod
    def trigger(self, seed: int, learned: Learned) -> Trigger:
        """Return the trigger of a scenario.

        Args:
            seed: The scenario's; a trigger that is drawn once draws from a generator of it.
            learned: Results of `helper`, with those of `training_hooks` once a victim is trained.
        """

    def resolved(self, side: int) -> Self:
        """Return the attack with what its defaults mean for images of `side` × `side` pixels.

        Equal triggers of one size then have equal options, and so one key.
        """
        del side
        return self

    def check(self, *, side: int, channels: int) -> None:
        """Raise ``ValueError`` if images of `side` × `side` cannot carry the trigger."""
        del side, channels  # most triggers fit anything

    def check_info(self, info: DatasetInfo) -> None:
        """Raise ``ValueError`` if the attack's files are of another dataset."""
        del info  # most attacks have none

    def cover_ratio_at(self, poison_ratio: float) -> float:
        """Return the share of the whole training set that is stamped and keeps its label."""
        del poison_ratio
        return 0.0

    def cover_sources(self, classes: int) -> tuple[int, ...]:
        """Return the classes that covers are taken from; none given is all.

        Raises:
            ValueError: A class that was asked for is not one of the `classes`.
        """
        del classes
        return ()

    def identity(self) -> dict[str, Any]:
        """Return plain values that fix what options only point to (the bytes of a file)."""
        return {}

    def helper(self, poison: "Poison") -> Helper | None:
        """Return what has to be trained before the trigger exists, or None."""
        del poison
        return None

    def prepared(
        self,
        images: UInt8[Tensor, "n c h w"],
        index: Int64[Tensor, " n"],
        learned: Learned,
    ) -> UInt8[Tensor, "n c h w"]:
        """Return the images that stand for poisoned ones before any trigger is stamped.

        Args:
            images: Clean training images that will be poisoned.
            index: Their places in the training set.
            learned: Results of `helper`.
        """
        del index, learned
        return images

    def start(self, learned: Learned) -> Mapping[str, Tensor] | None:
        """Return the state that the victim's training starts from; None is a random one."""
        del learned
        return None

    def training_hooks(self, poison: "Poison", context: AttackContext) -> "StampingHooks | None":
        """Return how the attacker meddles with the training itself; None is not at all."""
        del poison, context
        return None


class FixedAttack(Attack, Trigger):
    """An attack whose options are all there is to its trigger: write `stamp`, and no more."""

    def trigger(self, seed: int, learned: Learned) -> Trigger:
        del seed, learned
        return self


def stamp_bytes(
    trigger: Trigger, images: UInt8[Tensor, "n c h w"], generator: Generator
) -> UInt8[Tensor, "n c h w"]:
    """Return triggered copies of stored test images, as a program that saves files would."""
    return in_bytes(trigger.stamp, images, generator)


def in_bytes(
    stamp: Callable[[Images, Generator], Images],
    images: UInt8[Tensor, "n c h w"],
    generator: Generator,
) -> UInt8[Tensor, "n c h w"]:
    """Return stored images as `stamp` alters them.

    Grey levels are truncated, as BackdoorBench's are; the thousandth added first keeps
    an untouched pixel what it was in spite of rounding in float32.
    """
    if len(images) == 0:
        return images.clone()
    triggered = stamp(images.float() / 255, generator)
    return (triggered.clamp(0, 1) * 255 + 1e-3).floor().to(torch.uint8)


@dataclass(frozen=True, kw_only=True, eq=False)
class Roles:
    """What each image of the training set is to the attacker."""

    poisoned: Bool[Tensor, " n"]
    covers: Bool[Tensor, " n"]


@dataclass(frozen=True, kw_only=True)
class Poison:
    """What the attacker does to the training set.

    Attributes:
        attack: Whose trigger it is.
        labels: Which images are poisoned and how they are labelled.
        poison_ratio: Poisoned images as a fraction of the *whole* training set, for
            clean-label attacks too; 0 without an attack.
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
        if self.benign:
            if self.poison_ratio != 0:
                raise ValueError(
                    f"poison_ratio is 0 without an attack, which poisons nothing; "
                    f"got {self.poison_ratio}"
                )
        elif not 0 < self.poison_ratio <= 0.5:
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
    def benign(self) -> bool:
        """Whether there is no attack."""
        return self.attack.benign

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

        They are not of the wanted class; source-specific, they are of a source class. Without an
        attack there are none.
        """
        if self.benign:
            return torch.zeros_like(labels, dtype=torch.bool)
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


def _rounded(ratio: float, total: int) -> int:
    return int((Decimal(str(ratio)) * total).quantize(Decimal(1), rounding=ROUND_HALF_UP))


def _drawn(candidates: Bool[Tensor, " n"], count: int, source: Generator) -> Bool[Tensor, " n"]:
    places = candidates.nonzero().flatten()
    chosen = torch.zeros(len(candidates), dtype=torch.bool)
    if count:
        chosen[places[torch.randperm(len(places), generator=source)[:count]]] = True
    return chosen


class StampingHooks(TrainingHooks):
    """Stamps poisoned images and covers as they come.

    With `Attack.redrawn` every epoch poisons as many images as asked, but other ones.
    Subclasses train networks along, in `shown`, and tell in `learned` what became of them.

    Attributes:
        stamped: Which images of the batch that `alter` made last are stamped and labelled as
            poisoned, on the CPU.
    """

    def __init__(
        self,
        poison: Poison,
        trigger: Trigger,
        labels: Int64[Tensor, " n"],
        *,
        classes: int,
        seed: int,
    ) -> None:
        self.poison = poison
        self.trigger = trigger
        self.late = poison.stamp is Stamp.AFTER_AUGMENTATION
        self.source = generator(seed, "training triggers")
        self.classes = classes
        self._labels = labels
        self._seed = seed
        self.roles = poison.roles(labels, seed)
        self.stamped: Bool[Tensor, " b"] = torch.zeros(0, dtype=torch.bool)

    def start_epoch(self, number: int) -> None:
        if self.poison.attack.redrawn:
            self.roles = self.poison.roles(self._labels, self._seed, epoch=number)

    def alter(
        self, images: Tensor, labels: Tensor, chosen: Int64[Tensor, " b"], classifier: Classifier
    ) -> tuple[Tensor, Tensor]:
        marked = self.roles.poisoned[chosen]
        poisoned = marked.nonzero().flatten().to(images.device)
        covers = self.roles.covers[chosen].nonzero().flatten().to(images.device)
        self.stamped = torch.zeros_like(marked)
        if len(poisoned) + len(covers) == 0:
            return images, labels
        shown = self.shown(images, poisoned, covers, classifier)
        if shown is None:
            return images, labels
        self.stamped = marked
        assigned = labels.clone()
        assigned[poisoned] = self.poison.assigned_labels(labels[poisoned], self.classes)
        return shown, assigned

    def shown(
        self, images: Tensor, poisoned: Tensor, covers: Tensor, classifier: Classifier
    ) -> Tensor | None:
        """Return a batch with its poisoned images and covers stamped.

        None says that this batch cannot carry the trigger. It then keeps its labels too: an
        image is labelled as poisoned only where it is stamped.

        Args:
            images: uint8, ``b c h w``, all clean.
            poisoned: Places of the poisoned images in the batch.
            covers: Places of the covers.
            classifier: As in `alter`.
        """
        del classifier
        altered = images.clone()
        altered[poisoned] = in_bytes(self.trigger.stamp_training, images[poisoned], self.source)
        altered[covers] = in_bytes(self.trigger.stamp_cover, images[covers], self.source)
        return altered

    def learned(self) -> Learned:
        """Return what the trigger is made of now, on the CPU, beyond the helper's results."""
        return {}
