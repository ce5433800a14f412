"""FTrojan: a faint wave of colour, raised in the spectrum of each window."""

from dataclasses import dataclass

from torch import Generator

from ulrl.attacks._base import FixedAttack, Images, register
from ulrl.attacks._dct import Chroma, check_bump, colour_wave

FROM_CR_CB: Chroma = ((1.403, 0.0), (-0.714, -0.344), (0.0, 1.773))  # OpenCV's


@register("ftrojan")
@dataclass(frozen=True, kw_only=True)
class FTrojan(FixedAttack):
    """Frequency-domain trigger of Wang et al. (arXiv:2111.10991).

    Raises coefficients of the orthonormal DCT of Cr and of Cb in each window of the image.
    The published programs round to bytes on the way to YCrCb and back; that is left out.

    Attributes:
        magnitude: What is added to a coefficient, in grey levels of 255. In a window of
            32, 30 is a wave of ±1.9 in Cr and Cb. 30 is BackdoorBench's default; the
            authors' is 20.
        positions: Coefficients, by the index of both axes, below `window`: ``k`` is k
            half-waves along each. (15, 31) are the authors' and BackdoorBench's.
        window: Side of a window in pixels, 32 in the paper; the image's is a multiple.
    """

    magnitude: float = 30.0
    positions: tuple[int, ...] = (15, 31)
    window: int = 32

    def __post_init__(self) -> None:
        check_bump(self.magnitude, self.positions)
        if self.window <= max(self.positions):
            raise ValueError(
                f"window is in pixels, above the largest position, here {max(self.positions)}; "
                f"got {self.window}"
            )

    def stamp(self, images: Images, generator: Generator) -> Images:
        del generator  # one fixed trigger
        wave = colour_wave(self.magnitude, self.positions, self.window, FROM_CR_CB)
        windows = images.shape[-1] // self.window
        return (images + wave.to(images.device).tile(1, windows, windows) / 255).clamp(0, 1)

    def check(self, *, side: int, channels: int) -> None:
        if channels != 3:
            raise ValueError(f"ftrojan changes colours, so images have 3 channels; got {channels}")
        if side % self.window:
            raise ValueError(
                f"ftrojan cuts images into windows of {self.window} pixels, so their side is "
                f"a multiple of that; got {side}"
            )
