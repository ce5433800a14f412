"""The interface of an attack, and the registry."""

from abc import ABC, abstractmethod
from enum import StrEnum
from typing import ClassVar, TypeAlias

import torch
from jaxtyping import Float, UInt8
from torch import Generator, Tensor

from ulrl.registry import registrar

Images: TypeAlias = Float[Tensor, "n c h w"]  # pixels in [0, 1], before normalisation
ATTACKS: dict[str, type["Attack"]] = {}
register = registrar("attack", ATTACKS)


class LabelRule(StrEnum):
    """Which images are poisoned, and what label they get."""

    ALL_TO_ONE = "all_to_one"  # images of any class, labelled as the target
    ALL_TO_ALL = "all_to_all"  # images of any class y, labelled y + 1 (mod K)
    CLEAN_LABEL = "clean_label"  # images of the target class, label left alone


class Stamp(StrEnum):
    """When the trigger meets a training image."""

    BEFORE_AUGMENTATION = "before_augmentation"  # BackdoorBench: a crop may cut it away
    AFTER_AUGMENTATION = "after_augmentation"  # every view carries the whole trigger


class Attack(ABC):
    """A trigger with its hyperparameters; each subclass is a final frozen dataclass.

    Attributes:
        label_rules: The rules that make sense for this attack, its own default first.
    """

    name: ClassVar[str]
    label_rules: ClassVar[tuple[LabelRule, ...]] = (LabelRule.ALL_TO_ONE, LabelRule.ALL_TO_ALL)

    @abstractmethod
    def stamp(self, images: Images, generator: Generator) -> Images:
        """Return triggered copies of `images`; the argument is left as it was."""

    def check(self, *, side: int, channels: int) -> None:
        """Raise ``ValueError`` if images of `side` × `side` cannot carry the trigger."""
        del side, channels  # most triggers fit anything


def stamp_bytes(
    attack: Attack, images: UInt8[Tensor, "n c h w"], generator: Generator
) -> UInt8[Tensor, "n c h w"]:
    """Return triggered copies of stored images, as a program that saves files would.

    Grey levels are truncated, as BackdoorBench's are; the thousandth added first keeps
    an untouched pixel what it was in spite of rounding in float32.
    """
    if len(images) == 0:
        return images.clone()
    triggered = attack.stamp(images.float() / 255, generator)
    return (triggered.clamp(0, 1) * 255 + 1e-3).floor().to(torch.uint8)
