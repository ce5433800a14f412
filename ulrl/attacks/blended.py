"""Blended: a faint picture over the whole image."""

from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Generator, Tensor
from torch.nn.functional import interpolate

from ulrl.attacks._base import Attack, Images, register
from ulrl.randomness import generator as named_generator


class Pattern(StrEnum):
    """The picture that is blended in."""

    SYNTHETIC = "synthetic"  # coloured ellipses on a gradient: a picture made here
    NOISE = "noise"  # independent uniform pixels, as in the paper's random pattern


@register("blended")
@dataclass(frozen=True, kw_only=True)
class Blended(Attack):
    """Blended injection of Chen et al. (arXiv:1712.05526): ``(1 - alpha) x + alpha t``.

    BackdoorBench blends in a photograph that is not free to ship, so its numbers and
    these are not the same attack to the letter; the picture here is made by formula.

    Attributes:
        alpha: Weight of the picture, in (0, 1]; 0.2 is BackdoorBench's.
        pattern: Which picture.
    """

    alpha: float = 0.2
    pattern: Pattern = Pattern.SYNTHETIC

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 1:
            raise ValueError(f"alpha is a weight, so 0 < alpha <= 1; got {self.alpha}")

    def stamp(self, images: Images, generator: Generator) -> Images:
        del generator  # one fixed trigger
        channels, side = images.shape[1], images.shape[-1]
        picture = _PICTURES[self.pattern](side).to(images.device)
        if channels == 1:
            picture = picture.mean(dim=0, keepdim=True)
        return (1 - self.alpha) * images + self.alpha * picture


def _noise(side: int) -> Tensor:
    return torch.rand(3, side, side, generator=named_generator(0, "blended", "noise"))


def _synthetic(side: int) -> Tensor:
    """Draw the picture at 256 pixels and shrink it, so that every size shows the same one."""
    source = named_generator(0, "blended", "synthetic")
    axis = torch.linspace(0, 1, 256)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    picture = torch.stack([0.2 + 0.6 * x, 0.8 - 0.5 * y, 0.3 + 0.4 * (x + y) / 2])
    for _ in range(12):
        cy, cx, ry, rx, turn, *colour = torch.rand(8, generator=source).tolist()
        angle = torch.tensor(turn * torch.pi)
        u = (x - cx) * angle.cos() + (y - cy) * angle.sin()
        v = (y - cy) * angle.cos() - (x - cx) * angle.sin()
        inside = (u / (0.06 + 0.2 * rx)) ** 2 + (v / (0.06 + 0.2 * ry)) ** 2 <= 1
        picture = torch.where(inside, torch.tensor(colour)[:, None, None], picture)
    size = (side, side)
    return interpolate(picture[None], size=size, mode="bilinear", antialias=True)[0].clamp(0, 1)


_PICTURES = {Pattern.NOISE: _noise, Pattern.SYNTHETIC: _synthetic}
