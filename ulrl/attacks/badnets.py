"""BadNets: a small white square in a corner."""

from dataclasses import dataclass

from torch import Generator

from ulrl.attacks._base import FixedAttack, Images, register


@register("badnets")
@dataclass(frozen=True, kw_only=True)
class BadNets(FixedAttack):
    """Patch backdoor of Gu, Dolan-Gavitt and Garg (arXiv:1708.06733).

    Sets the square at the lower right to one grey level. BackdoorBench's is white, 3×3,
    at distance 0 from both edges; there a random crop cuts it away in 40 % of the views.

    Attributes:
        size: Side of the square, in pixels.
        inset: Distance of the square from the right and the lower edge, in pixels.
        level: Brightness of the square, in [0, 1] pixel units.
    """

    size: int = 3
    inset: int = 0
    level: float = 1.0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size is in pixels, at least 1; got {self.size}")
        if self.inset < 0:
            raise ValueError(f"inset is in pixels, at least 0; got {self.inset}")
        if not 0 <= self.level <= 1:
            raise ValueError(f"level is in [0, 1] pixel units; got {self.level}")

    def stamp(self, images: Images, generator: Generator) -> Images:
        del generator  # one fixed trigger
        height, width = images.shape[-2:]
        bottom, right = height - self.inset, width - self.inset
        triggered = images.clone()
        triggered[..., bottom - self.size : bottom, right - self.size : right] = self.level
        return triggered

    def check(self, *, side: int, channels: int) -> None:
        del channels
        if self.size + self.inset > side:
            raise ValueError(
                f"a square of {self.size} pixels at inset {self.inset} fits images of at least "
                f"{self.size + self.inset} pixels; got {side}"
            )
