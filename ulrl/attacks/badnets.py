"""BadNets: a small white square in a corner."""

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Self

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image
from torch import Generator, Tensor, where

from ulrl.attacks._base import register
from ulrl.attacks._files import (
    FILE,
    PICTURES,
    check_alone,
    check_mark,
    check_name,
    content_of,
    mark_of,
    resized,
)
from ulrl.poison import FixedAttack, Images

PUBLISHED = 3  # pixels: the side of the square on images of `DRAWN`
DRAWN = 32  # pixels: the side of the published picture


@register("badnets")
@dataclass(frozen=True, kw_only=True)
class BadNets(FixedAttack):
    """Patch backdoor of Gu, Dolan-Gavitt and Garg (arXiv:1708.06733).

    Sets a white square at the lower right. By default it is BackdoorBench's: 3×3 pixels of
    an image of 32, at distance 0 from both edges (a random crop cuts it away in 40 % of the
    views). There, a picture of 32 pixels with that square is enlarged for larger images, and
    stamped where it is above 0: at 64 pixels 7×7 with a soft edge, of which 5×5 are white. On
    images of less than 32 pixels, which BackdoorBench has not, the square is 3×3.

    Attributes:
        size: Side of the square, in pixels of the image at any size, with a hard edge; by
            default as above.
        inset: Distance of the square from the right and the lower edge, in pixels; in those
            of the picture of 32 where that is enlarged.
        level: Brightness of white, in [0, 1] pixel units.
        pattern: The path of a picture to stamp in place of the square, as BackdoorBench does:
            made RGB (what is transparent is black), resized to the images' size by Pillow,
            and put into each channel where it is above 0.
    """

    size: int | None = None
    inset: int = 0
    level: float = 1.0
    pattern: str | None = field(default=None, metadata=FILE)

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise ValueError(f"size is in pixels, at least 1; got {self.size}")
        if self.inset < 0:
            raise ValueError(f"inset is in pixels, at least 0; got {self.inset}")
        if not 0 <= self.level <= 1:
            raise ValueError(f"level is in [0, 1] pixel units; got {self.level}")
        if self.pattern is None:
            return
        check_name("pattern", self.pattern, PICTURES)
        check_alone(self, "pattern", ("size", "inset"))

    def identity(self) -> dict[str, Any]:
        """Return what tells a picture from others.

        Raises:
            AttackFileError: Its file is missing or cannot be read.
        """
        return {} if self.pattern is None else {"picture": content_of(self.pattern)}

    def resolved(self, side: int) -> Self:
        if self.size is not None or self.pattern is not None or side > DRAWN:
            return self
        return replace(self, size=PUBLISHED)

    def stamp(self, images: Images, generator: Generator) -> Images:
        del generator  # one fixed trigger
        channels, side = images.shape[1], images.shape[-1]
        size = self.resolved(side).size
        if size is None:
            mark = self.mark(side, channels)
            level = self.level / 255 * mark.to(images)
            return where(self.covered(mark).to(images.device), level, images)
        end = side - self.inset
        triggered = images.clone()
        triggered[..., end - size : end, end - size : end] = self.level
        return triggered

    def mark(self, side: int, channels: int) -> UInt8[Tensor, "c side side"]:
        """Return the picture that is stamped where there is no hard-edged square."""
        if self.pattern is not None:
            return mark_of(self.pattern, side, channels)
        return _enlarged(self.inset, side, channels).clone()

    def covered(self, mark: UInt8[Tensor, "c side side"]) -> Bool[Tensor, "c side side"]:
        """Return where a picture replaces the image's values."""
        return mark > 0

    def check(self, *, side: int, channels: int) -> None:
        if self.pattern is not None:
            check_mark(self.pattern, side, channels)
            return
        size, room = self.resolved(side).size, side
        if size is None:
            size, room = PUBLISHED, DRAWN
        if size + self.inset > room:
            raise ValueError(
                f"a square of {size} pixels at inset {self.inset} fits images of at least "
                f"{size + self.inset} pixels; got {room}"
            )


@lru_cache(maxsize=16)
def _enlarged(inset: int, side: int, channels: int) -> Tensor:
    pixels = np.zeros((DRAWN, DRAWN, 3), dtype=np.uint8)
    end = DRAWN - inset
    pixels[end - PUBLISHED : end, end - PUBLISHED : end] = 255
    return resized(Image.fromarray(pixels), side, channels)
