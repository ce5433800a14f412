"""Blended: a faint picture over the whole image."""

from dataclasses import dataclass, field
from typing import Any

from torch import Generator

from ulrl.attacks._base import register
from ulrl.attacks._picture import PICTURE, Pattern, check_pattern, content_of, picture
from ulrl.poison import FixedAttack, Images

__all__ = ["Blended", "Pattern"]


@register("blended")
@dataclass(frozen=True, kw_only=True)
class Blended(FixedAttack):
    """Blended injection of Chen et al. (arXiv:1712.05526): ``(1 - alpha) x + alpha t``.

    BackdoorBench blends in a photograph that is not free to ship, so its numbers and
    these are not the same attack to the letter; the pictures here are made by formula.
    If you have that photograph, name its file as the `pattern`; 7 to 8 % of values are then
    one grey level off, since BackdoorBench rounds the resized picture to bytes.

    Attributes:
        alpha: Weight of the picture, in (0, 1]; 0.2 is BackdoorBench's.
        pattern: Which picture: ``synthetic``, coloured ellipses on a gradient; ``noise``,
            the paper's random pattern; or the path of a picture, which is made RGB and
            resized to the images' size. Grey images get the mean of its channels.
    """

    alpha: float = 0.2
    pattern: str = field(default=Pattern.SYNTHETIC.value, metadata=PICTURE)

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 1:
            raise ValueError(f"alpha is a weight, so 0 < alpha <= 1; got {self.alpha}")
        check_pattern(self.pattern)

    def identity(self) -> dict[str, Any]:
        """Return what tells the picture from others.

        Raises:
            AttackFileError: Its file is missing or cannot be read.
        """
        return {"picture": content_of(self.pattern)}

    def stamp(self, images: Images, generator: Generator) -> Images:
        del generator  # one fixed trigger
        channels, side = images.shape[1], images.shape[-1]
        blend = picture(self.pattern, side).to(images.device)
        if channels == 1:
            blend = blend.mean(dim=0, keepdim=True)
        return (1 - self.alpha) * images + self.alpha * blend
