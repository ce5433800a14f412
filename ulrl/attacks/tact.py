"""TaCT: a patch that works on one class only."""

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Self

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from PIL import Image
from torch import Tensor

from ulrl.attacks._base import register
from ulrl.attacks._files import resized
from ulrl.attacks.badnets import DRAWN, BadNets
from ulrl.poison import DIRTY_LABELS, LabelRule
from ulrl.randomness import generator

SQUARE = slice(21, 29)  # rows and columns of the published square, of `DRAWN`


@register("tact")
@dataclass(frozen=True, kw_only=True)
class TaCT(BadNets):
    """Targeted contamination attack of Tang et al. (arXiv:1908.00686).

    Images of the source class get the patch and the target's label; *covers*, images of
    other classes, get the patch and keep theirs, so that the patch alone means nothing. The
    published study takes class 1 to class 0 and covers from classes 5 and 7.

    By default the patch is a colourful square of 8×8 pixels at rows and columns 21 to 28 of
    an image of 32, as in backdoor-toolbox. Its colours there are a picture that is not free
    to ship; here each pixel has one at random, the same ones in every study. For other sizes
    a picture of 32 pixels with that square is resized: 18×18 with a darker edge at 64 pixels.

    Attributes:
        size: A white square of that side in pixels instead, in the lower right corner.
        inset: Distance of the white square from the right and the lower edge, in pixels.
        level: Factor of the patch's brightness, in [0, 1].
        pattern: The path of a picture to stamp in place of the square, as backdoor-toolbox
            does: made RGB (what is transparent is black), resized to the images' size by
            Pillow, and put wherever a pixel of it is not black.
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
        if self.inset and self.size is None:
            raise ValueError(f"inset is of the white square; give its size too; got {self.inset}")
        named = self.cover_classes
        if not named or min(named) < 0 or len(set(named)) < len(named):
            raise ValueError(
                f"cover_classes names different classes, at least one; got {list(named)}"
            )
        if not 0 <= self.cover_ratio <= 100:
            raise ValueError(
                f"cover_ratio is in covers per poisoned image, 0 to 100; got {self.cover_ratio}"
            )

    def resolved(self, side: int) -> Self:
        del side  # the square is coloured at any size
        return self

    def mark(self, side: int, channels: int) -> UInt8[Tensor, "c side side"]:
        if self.pattern is not None:
            return super().mark(side, channels)
        return _coloured(side, channels).clone()

    def covered(self, mark: UInt8[Tensor, "c side side"]) -> Bool[Tensor, "c side side"]:
        return (mark > 0).any(dim=0).expand_as(mark)

    def check(self, *, side: int, channels: int) -> None:
        if self.size is not None or self.pattern is not None:
            super().check(side=side, channels=channels)

    def cover_ratio_at(self, poison_ratio: float) -> float:
        return self.cover_ratio * poison_ratio

    def cover_sources(self, classes: int) -> tuple[int, ...]:
        missing = [label for label in self.cover_classes if label >= classes]
        if missing:
            raise ValueError(
                f"cover_classes is of the {classes} classes, 0 to {classes - 1}; got {missing[0]}"
            )
        return self.cover_classes


@lru_cache(maxsize=16)
def _coloured(side: int, channels: int) -> Tensor:
    across = SQUARE.stop - SQUARE.start
    source = generator(0, "tact", "square")
    colours = torch.randint(1, 256, (across, across, 3), generator=source, dtype=torch.uint8)
    pixels = np.zeros((DRAWN, DRAWN, 3), dtype=np.uint8)
    pixels[SQUARE, SQUARE] = colours.numpy()
    return resized(Image.fromarray(pixels), side, channels)
