"""The attack behind a victim from outside, whose trigger is known by its images alone."""

from dataclasses import dataclass

from torch import Generator

from ulrl.attacks._base import register
from ulrl.poison import DIRTY_LABELS, FixedAttack, Images, LabelRule


@register("imported")
@dataclass(frozen=True, kw_only=True)
class Imported(FixedAttack):
    """A trigger that cannot be stamped here: the triggered test images come with the victim.

    For victims that were attacked in a way that has no name here.

    Attributes:
        of: What the attack is called, to tell several apart.
    """

    label_rules = (*DIRTY_LABELS, LabelRule.CLEAN_LABEL)

    of: str = "unknown"

    def stamp(self, images: Images, generator: Generator) -> Images:
        del images, generator
        raise ValueError(
            "an imported attack has no trigger of its own; its victims and their triggered "
            "images are named under victim.import"
        )
