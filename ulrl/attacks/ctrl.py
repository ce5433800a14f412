"""CTRL: a faint wave of colour, raised in the spectrum of the whole image."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Generator

from ulrl.attacks._base import DIRTY_LABELS, FixedAttack, Images, LabelRule, register
from ulrl.attacks._dct import Chroma, check_bump, colour_wave

FROM_UV: Chroma = ((0.0, 1.14), (-0.396, -0.581), (2.029, 0.0))


@register("ctrl")
@dataclass(frozen=True, kw_only=True)
class CTRL(FixedAttack):
    """Spectral trigger of Li et al. (arXiv:2210.07346), as BackdoorBench has it.

    Raises coefficients of the orthonormal DCT of U and of V over the whole image. The
    paper leaves labels alone, which is the default here too; its victims are trained
    without labels, BackdoorBench's with. The images' own way to YUV and back, which in
    BackdoorBench shifts colours by a fraction of a grey level, is left out.

    Attributes:
        magnitude: What is added to a coefficient, in grey levels of 255. At side 32, 100
            is a wave of ±6.25 in U and V. 100 is BackdoorBench's default.
        positions: Coefficients, by the index of both axes: ``k`` is k half-waves along
            each. (15, 31) are BackdoorBench's; images need a side above the largest.
        wrap: Whether grey levels beyond 0 and 255 come out at the other end, as in
            BackdoorBench, instead of being clipped.
    """

    label_rules: ClassVar[tuple[LabelRule, ...]] = (
        LabelRule.CLEAN_LABEL,
        *DIRTY_LABELS,
    )

    magnitude: float = 100.0
    positions: tuple[int, ...] = (15, 31)
    wrap: bool = False

    def __post_init__(self) -> None:
        check_bump(self.magnitude, self.positions)

    def stamp(self, images: Images, generator: Generator) -> Images:
        del generator  # one fixed trigger
        wave = colour_wave(self.magnitude, self.positions, images.shape[-1], FROM_UV)
        wave = wave.to(images.device)
        if not self.wrap:
            return (images + wave / 255).clamp(0, 1)
        # The thousandth keeps a whole level what it is in spite of rounding in float32.
        levels = (images * 255 + wave + 1e-3).trunc()
        return levels.remainder(256) / 255

    def check(self, *, side: int, channels: int) -> None:
        if channels != 3:
            raise ValueError(f"ctrl changes colours, so images have 3 channels; got {channels}")
        if max(self.positions) >= side:
            raise ValueError(
                f"position {max(self.positions)} is there in images of at least "
                f"{max(self.positions) + 1} pixels; got {side}"
            )
