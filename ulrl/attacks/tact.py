"""TaCT: a patch that works on one class only."""

from dataclasses import dataclass
from typing import ClassVar

from ulrl.attacks._base import DIRTY_LABELS, LabelRule, register
from ulrl.attacks.badnets import BadNets


@register("tact")
@dataclass(frozen=True, kw_only=True)
class TaCT(BadNets):
    """Targeted contamination attack of Tang et al. (arXiv:1908.00686).

    Images of the source class get the patch and the target's label; *covers*, images of
    other classes, get the patch and keep theirs, so that the patch alone means nothing. The
    published study takes class 1 to class 0 and covers from classes 5 and 7.

    Attributes:
        size: As for ``badnets``, like the next two.
        inset: See there.
        level: See there.
        cover_classes: Classes that covers are taken from, neither source nor target.
        cover_ratio: Covers per poisoned image.
    """

    label_rules: ClassVar[tuple[LabelRule, ...]] = (
        LabelRule.SOURCE_SPECIFIC,
        *(rule for rule in DIRTY_LABELS if rule is not LabelRule.SOURCE_SPECIFIC),
    )
    default_source: ClassVar[tuple[int, ...]] = (1,)

    cover_classes: tuple[int, ...] = (5, 7)
    cover_ratio: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        named = self.cover_classes
        if not named or min(named) < 0 or len(set(named)) < len(named):
            raise ValueError(
                f"cover_classes names different classes, at least one; got {list(named)}"
            )
        if not 0 <= self.cover_ratio <= 100:
            raise ValueError(
                f"cover_ratio is in covers per poisoned image, 0 to 100; got {self.cover_ratio}"
            )

    def cover_ratio_at(self, poison_ratio: float) -> float:
        return self.cover_ratio * poison_ratio

    def covers_of(self, classes: int) -> tuple[int, ...]:
        missing = [label for label in self.cover_classes if label >= classes]
        if missing:
            raise ValueError(
                f"cover_classes is of the {classes} classes, 0 to {classes - 1}; got {missing[0]}"
            )
        return self.cover_classes
