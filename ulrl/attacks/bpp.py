"""BPP: fewer colours than an image should have."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, Tensor

from ulrl.attacks._base import register
from ulrl.poison import FixedAttack, Images

_SPREAD = ((0, 1, 7 / 16), (1, -1, 3 / 16), (1, 0, 5 / 16), (1, 1, 1 / 16))  # row, column, share


@register("bpp")
@dataclass(frozen=True, kw_only=True)
class BPP(FixedAttack):
    """Backdoor through image quantisation and dithering, of Wang et al. (arXiv:2205.13383).

    Each channel is rounded to few levels. The attacker controls the training: each epoch
    poisons other images, and *negatives*, clean images with the rounding error of another
    image on top and their true label, teach the victim that the levels matter, not noise
    of that size.

    Attributes:
        levels: Levels per channel; 8 in BackdoorBench.
        dither: Whether the rounding error goes on to the pixels to the right and below
            (Floyd and Steinberg), as in the paper; BackdoorBench leaves it out. Where it is
            asked for it there, a third to a half of the values are one grey level off, since
            BackdoorBench rounds what it truncates without.
        negative_ratio: Negatives per poisoned image; 1 in the published code.
    """

    redrawn: ClassVar[bool] = True

    levels: int = 8
    dither: bool = False
    negative_ratio: float = 1.0

    def __post_init__(self) -> None:
        if not 2 <= self.levels <= 128:
            raise ValueError(f"levels is per channel, 2 to 128; got {self.levels}")
        if not 0 <= self.negative_ratio <= 100:
            raise ValueError(
                f"negative_ratio is in images per poisoned image, 0 to 100; "
                f"got {self.negative_ratio}"
            )

    def stamp(self, images: Images, generator: Generator) -> Images:
        del generator  # what is rounded is the image itself
        return self._dithered(images) if self.dither else self._rounded(images)

    def stamp_cover(self, images: Images, generator: Generator) -> Images:
        """Return negatives: the errors go round, each image gets that of another one.

        Of a single image the other is its mirror image.
        """
        others = images.roll(1, dims=0) if len(images) > 1 else images.flip(-1)
        return (images + self.stamp(others, generator) - others).clamp(0, 1)

    def cover_ratio_at(self, poison_ratio: float) -> float:
        return self.negative_ratio * poison_ratio

    def _rounded(self, images: Tensor) -> Tensor:
        steps = self.levels - 1
        # Halves go up, as on a ruler; torch's own rounding would take them to even levels.
        return (images * steps + 0.5).floor() / steps

    def _dithered(self, images: Images) -> Images:
        height, width = images.shape[-2:]
        work = images.clone()
        for row in range(height):
            for column in range(width):
                wanted = work[..., row, column]
                given = self._rounded(wanted).clamp(0, 1)
                error = wanted - given
                work[..., row, column] = given
                for down, right, share in _SPREAD:
                    if row + down < height and 0 <= column + right < width:
                        work[..., row + down, column + right] += error * share
        return work
