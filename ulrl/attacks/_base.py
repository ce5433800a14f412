"""The interface of an attack, and the registry."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Generator, Tensor

from ulrl.datasets import DatasetInfo
from ulrl.registry import registrar

if TYPE_CHECKING:
    from ulrl.attacks._helper import AttackContext, Helper
    from ulrl.attacks._hooks import StampingHooks
    from ulrl.poisoning import Poison

Images: TypeAlias = Float[Tensor, "n c h w"]  # pixels in [0, 1], before normalisation
Learned: TypeAlias = Mapping[str, Tensor]  # what an attack was trained to do, on the CPU
NOTHING_LEARNED: Learned = MappingProxyType({})
ATTACKS: dict[str, type["Attack"]] = {}
register = registrar("attack", ATTACKS)


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

    def helper(self, poison: "Poison") -> "Helper | None":
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

    def training_hooks(self, poison: "Poison", context: "AttackContext") -> "StampingHooks | None":
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
