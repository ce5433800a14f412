"""WaNet: a smooth warp of the whole image."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor
from torch.nn.functional import grid_sample, interpolate

from ulrl.attacks._base import register
from ulrl.attacks._per_image import image_generators
from ulrl.helper import Learned
from ulrl.poison import Attack, Images, Trigger
from ulrl.randomness import generator as named_generator


@register("wanet")
@dataclass(frozen=True, kw_only=True)
class WaNet(Attack):
    """Warping-based backdoor of Nguyen and Tran (arXiv:2102.10369).

    One smooth displacement field per scenario moves pixels by about half a pixel. The
    attacker controls the training: each epoch poisons other images, and its *noise mode*
    warps further ones by the same field with noise on top and leaves their labels alone, so
    that the victim learns the exact field and not any warp.

    The published code warps normalised images; warping and normalising commute, because the
    clamped grid never leaves the image, so here it is pixels that are warped. Truncation on the
    way back leaves 0.3 to 0.7 % of BackdoorBench's values one grey level off from these.

    Attributes:
        grid: Control points of the field along each side, ``k`` in the paper.
        strength: Scale of the field, ``s`` in the paper: the mean displacement along each
            axis in units of half a pixel.
        cross_ratio: Images in noise mode per poisoned image; 2 in the published code.
    """

    redrawn: ClassVar[bool] = True

    grid: int = 4
    strength: float = 0.5
    cross_ratio: float = 2.0

    def __post_init__(self) -> None:
        if not 2 <= self.grid <= 32:
            raise ValueError(f"grid is in control points, 2 to 32; got {self.grid}")
        if not 0 < self.strength <= 10:
            raise ValueError(f"strength is a scale, above 0 and at most 10; got {self.strength}")
        if not 0 <= self.cross_ratio <= 100:
            raise ValueError(
                f"cross_ratio is in images per poisoned image, 0 to 100; got {self.cross_ratio}"
            )

    def trigger(self, seed: int, learned: Learned) -> Trigger:
        del learned
        points = torch.rand(1, 2, self.grid, self.grid, generator=named_generator(seed, "wanet"))
        field = 2 * points - 1
        return _Warp(self.strength * field / field.abs().mean())

    def cover_ratio_at(self, poison_ratio: float) -> float:
        return self.cross_ratio * poison_ratio


class _Warp(Trigger):
    """The displacement that control points stand for, at any size of image."""

    def __init__(self, points: Tensor) -> None:
        self._points = points

    def stamp(self, images: Images, generator: Generator) -> Images:
        del generator  # one fixed field
        return _sampled(images, self._grid(images))

    def stamp_cover(self, images: Images, generator: Generator) -> Images:
        height, width = images.shape[-2:]
        noise = torch.stack(
            [
                2 * torch.rand(height, width, 2, generator=own) - 1
                for own in image_generators(images, generator)
            ]
        )
        return _sampled(images, self._grid(images) + noise.to(images.device) / height)

    def _grid(self, images: Images) -> Tensor:
        """Return where each pixel is taken from, in [-1, 1], shape ``1 h w 2``: x before y."""
        height, width = images.shape[-2:]
        field = interpolate(self._points, size=(height, width), mode="bicubic", align_corners=True)
        y, x = torch.meshgrid(
            torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij"
        )
        identity = torch.stack([x, y], dim=-1)[None]
        moved = identity + field.permute(0, 2, 3, 1) / height
        return moved.to(images.device)


def _sampled(images: Images, grid: Tensor) -> Images:
    return grid_sample(
        images,
        grid.clamp(-1, 1).expand(len(images), -1, -1, -1),
        mode="bilinear",
        align_corners=True,
    ).clamp(0, 1)
