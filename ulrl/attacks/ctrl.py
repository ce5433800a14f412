"""CTRL: a faint wave of colour, raised in the spectrum of the whole image."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator

from ulrl.attacks._base import register
from ulrl.attacks._dct import Chroma, cast_to_bytes, check_bump, colour_wave
from ulrl.poison import DIRTY_LABELS, FixedAttack, Images, LabelRule

FROM_UV: Chroma = ((0.0, 1.14), (-0.396, -0.581), (2.029, 0.0))
_TO_YUV = ((0.299, 0.587, 0.114), (-0.147, -0.289, 0.436), (0.615, -0.515, -0.100))
_FROM_YUV = tuple((1.0, *chroma) for chroma in FROM_UV)


@register("ctrl")
@dataclass(frozen=True, kw_only=True)
class CTRL(FixedAttack):
    """Spectral trigger of Li et al. (arXiv:2210.07346).

    Raises coefficients of the orthonormal DCT of U and of V over the whole image. The
    paper leaves labels alone, which is the default here too; its victims are trained
    without labels, BackdoorBench's with.

    Attributes:
        magnitude: What is added to a coefficient, in grey levels of 255. At side 32, 100
            is a wave of ±6.25 in U and V. 100 is BackdoorBench's default.
        positions: Coefficients, by the index of both axes: ``k`` is k half-waves along
            each. (15, 31) are BackdoorBench's; images need a side above the largest.
        as_published: Whether bytes are made as in BackdoorBench: grey levels beyond 0 and 255
            wrap around to the other end, and the image goes to YUV and back. By default they
            are clipped. On CIFAR-10 the two differ in 2.5 % of values, by up to 255 levels:
            wrapping makes the trigger twice as visible (a mean change of 8.9 levels, not 5.0).
    """

    label_rules: ClassVar[tuple[LabelRule, ...]] = (
        LabelRule.CLEAN_LABEL,
        *DIRTY_LABELS,
    )

    magnitude: float = 100.0
    positions: tuple[int, ...] = (15, 31)
    as_published: bool = False

    def __post_init__(self) -> None:
        check_bump(self.magnitude, self.positions)

    def stamp(self, images: Images, generator: Generator) -> Images:
        del generator  # one fixed trigger
        wave = colour_wave(self.magnitude, self.positions, images.shape[-1], FROM_UV)
        wave = wave.to(images.device)
        if not self.as_published:
            return (images + wave / 255).clamp(0, 1)
        to_yuv, from_yuv = (torch.tensor(m, dtype=torch.float64) for m in (_TO_YUV, _FROM_YUV))
        way = (from_yuv @ to_yuv).to(images.device)  # not quite the identity
        levels = (images * 255).round().double()
        gone = (way[:, :, None, None] * levels[:, None]).sum(dim=2)
        return (cast_to_bytes(gone + wave) / 255).to(images)

    def check(self, *, side: int, channels: int) -> None:
        if channels != 3:
            raise ValueError(f"ctrl changes colours, so images have 3 channels; got {channels}")
        if max(self.positions) >= side:
            raise ValueError(
                f"position {max(self.positions)} is there in images of at least "
                f"{max(self.positions) + 1} pixels; got {side}"
            )
