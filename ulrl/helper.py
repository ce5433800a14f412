"""What an attack has trained before there is a trigger: a stage of its own, cached."""

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, TypeAlias

import torch
from torch import Tensor

from ulrl.datasets import ImageSet
from ulrl.errors import raise_unless_finite
from ulrl.models import ModelSpec
from ulrl.supervised import VictimConfig

Learned: TypeAlias = Mapping[str, Tensor]  # what an attack was trained to do, on the CPU
NOTHING_LEARNED: Learned = MappingProxyType({})

HELPER_VERSION = 1  # of all helpers; a change to one of them raises that one's `version`


class Step(NamedTuple):
    """How far a helper's training is."""

    done: int
    total: int


@dataclass(frozen=True, kw_only=True, eq=False)
class AttackContext:
    """What an attacker has at hand.

    Attributes:
        model_spec: Of the victim.
        recipe: How victims are trained.
        images: Clean; an attacker looks at the training images only.
        seed: The scenario's.
        device: Where to compute.
        learned: Results of the helper that was needed first.
    """

    model_spec: ModelSpec
    recipe: VictimConfig
    images: ImageSet
    seed: int
    device: torch.device
    learned: Learned


class Helper(ABC):
    """A model or a picture that an attack makes first; each subclass is a frozen dataclass.

    Scenarios whose helpers have equal fields share one, for equal dataset and seed, and, where
    the helper looks at the victim's kind, equal architecture and recipe.

    Attributes:
        of_victim: Whether it depends on the victim's architecture and recipe.
        plain: Whether its steps are those of a victim without an attack's hand in them, which
            a GPU replays.
        version: Raised when the same fields give another result than before.
    """

    version: ClassVar[int] = 1
    of_victim: ClassVar[bool] = True
    plain: ClassVar[bool] = False

    @property
    def needs(self) -> "Helper | None":
        """The helper whose result this one starts from."""
        return None

    def identity(self) -> dict[str, Any]:
        """Return plain values that fix what fields only point to (the bytes of a file)."""
        return {}

    def cost(self, recipe: VictimConfig) -> float:
        """Return about how many passes of the victim over its training set this costs."""
        return float(recipe.epochs)

    @abstractmethod
    def train(self, context: AttackContext) -> Generator[Step, None, dict[str, Tensor]]:
        """Train, yield after each part, and return the result as tensors on the CPU.

        The result depends on the fields, on `context` and on the device's arithmetic alone.
        """

    def trained(self, context: AttackContext) -> Generator[Step, None, dict[str, Tensor]]:
        """Do what `train` does, and check the result.

        Raises:
            DivergedError: A tensor of the result is not finite.
        """
        tensors = yield from self.train(context)
        raise_unless_finite(
            tensors,
            f"the training of {type(self).__name__}",
            "; smaller rates or weights of the attack may help",
        )
        return tensors
