"""Adaptive-Blend: a blended picture of which training shows only pieces."""

from dataclasses import dataclass, field
from math import isqrt
from typing import Any

import torch
from torch import Generator

from ulrl.attacks._base import register
from ulrl.attacks._per_image import image_generators
from ulrl.attacks._picture import PICTURE, Pattern, check_pattern, content_of, picture
from ulrl.poison import FixedAttack, Images


@register("adaptive_blend")
@dataclass(frozen=True, kw_only=True)
class AdaptiveBlend(FixedAttack):
    """Adaptive blended attack of Qi et al. (ICLR 2023).

    Of "Revisiting the assumption of latent separability for backdoor defenses". In training
    the picture is cut into equal squares, half of them left out at random for each image, and
    *covers* carry such pieces with their true label; the whole picture comes at test time
    only, and stronger. The paper poisons 0.3 % of the training set.

    Attributes:
        alpha: Weight of the picture in training, in (0, 1].
        test_alpha: Its weight at test time, in (0, 1].
        pattern: Which picture, as for ``blended``.
        pieces: Squares that the picture is cut into: a square number.
        masked: How many of them are left out of each training image.
        cover_ratio: Covers per poisoned image; 1 in the paper.
    """

    alpha: float = 0.15
    test_alpha: float = 0.2
    pattern: str = field(default=Pattern.SYNTHETIC.value, metadata=PICTURE)
    pieces: int = 16
    masked: int = 8
    cover_ratio: float = 1.0

    def __post_init__(self) -> None:
        for name in ("alpha", "test_alpha"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} is a weight, in (0, 1]; got {getattr(self, name)}")
        if self.pieces < 1 or isqrt(self.pieces) ** 2 != self.pieces:
            raise ValueError(f"pieces is a square number, at least 1; got {self.pieces}")
        if not 0 <= self.masked < self.pieces:
            raise ValueError(
                f"masked is fewer than the {self.pieces} pieces, at least 0; got {self.masked}"
            )
        if not 0 <= self.cover_ratio <= 100:
            raise ValueError(
                f"cover_ratio is in covers per poisoned image, 0 to 100; got {self.cover_ratio}"
            )
        check_pattern(self.pattern)

    def identity(self) -> dict[str, Any]:
        return {"picture": content_of(self.pattern)}

    def check(self, *, side: int, channels: int) -> None:
        del channels
        if side < isqrt(self.pieces):
            raise ValueError(f"{self.pieces} pieces do not fit images of {side} pixels")

    def cover_ratio_at(self, poison_ratio: float) -> float:
        return self.cover_ratio * poison_ratio

    def stamp(self, images: Images, generator: Generator) -> Images:
        del generator  # the whole picture
        weight = torch.full(images.shape[-2:], self.test_alpha, device=images.device)
        return self._blended(images, weight)

    def stamp_training(self, images: Images, generator: Generator) -> Images:
        side, across = images.shape[-1], isqrt(self.pieces)
        # Pixel i lies in piece i * across // side: equal pieces where the side allows.
        piece = torch.arange(side) * across // side
        owner = piece[:, None] * across + piece
        shown = torch.zeros(len(images), self.pieces, dtype=torch.bool)
        for row, own in zip(shown, image_generators(images, generator), strict=True):
            row[torch.randperm(self.pieces, generator=own)[self.masked :]] = True
        weight = self.alpha * shown[:, owner][:, None].to(images.dtype)
        return self._blended(images, weight.to(images.device))

    def _blended(self, images: Images, weight: torch.Tensor) -> Images:
        blend = picture(self.pattern, images.shape[-1]).to(images.device)
        if images.shape[1] == 1:
            blend = blend.mean(dim=0, keepdim=True)
        return (1 - weight) * images + weight * blend
