"""No attack: a benign model, for what a repair costs where nothing was wrong."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, Tensor

from ulrl.attacks._base import register
from ulrl.attacks._benign import BenignModel, benign_state
from ulrl.helper import Helper, Learned
from ulrl.poison import FixedAttack, Images, LabelRule, Poison


@register("none")
@dataclass(frozen=True, kw_only=True)
class NoAttack(FixedAttack):
    """A model that is trained on the clean training set.

    It is the clean model that other attacks look into, with the same weights: whichever needs it
    first trains it, for all.
    """

    label_rules: ClassVar[tuple[LabelRule, ...]] = (LabelRule.ALL_TO_ONE,)
    benign: ClassVar[bool] = True

    def helper(self, poison: Poison) -> Helper | None:
        del poison
        return BenignModel()

    def start(self, learned: Learned) -> Mapping[str, Tensor] | None:
        return benign_state(learned)

    def stamp(self, images: Images, generator: Generator) -> Images:
        del generator
        return images.clone()
