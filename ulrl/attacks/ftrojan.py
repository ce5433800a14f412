"""FTrojan: a faint wave of colour, raised in the spectrum of each window."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ulrl.attacks._base import register
from ulrl.attacks._dct import Chroma, cast_to_bytes, channel_wave, check_bump, colour_wave
from ulrl.poison import FixedAttack, Images

FROM_CR_CB: Chroma = ((1.403, 0.0), (-0.714, -0.344), (0.0, 1.773))  # OpenCV's


@register("ftrojan")
@dataclass(frozen=True, kw_only=True)
class FTrojan(FixedAttack):
    """Frequency-domain trigger of Wang et al. (arXiv:2111.10991).

    Raises coefficients of the orthonormal DCT of Cr and of Cb in each window of the image.

    Attributes:
        magnitude: What is added to a coefficient, in grey levels of 255. In a window of
            32, 30 is a wave of ±1.9 in Cr and Cb. 30 is BackdoorBench's default; the
            authors' is 20.
        positions: Coefficients, by the index of both axes, below `window`: ``k`` is k
            half-waves along each. (15, 31) are the authors' and BackdoorBench's.
        window: Side of a window in pixels, 32 in the paper; the image's is a multiple.
        as_published: Whether YCrCb is rounded to bytes before the transform and truncated to
            bytes after it, as in BackdoorBench. By default no bytes are made on the way.
            On CIFAR-10 63 % of values differ between this default and
            BackdoorBench, by up to 3 levels and 0.70 on average, where the trigger itself
            changes a value by 1.7. With `as_published` 11 % do, by 1 level: there OpenCV's
            transform returns 127.99... for some luminances of 128, which is then truncated.
    """

    magnitude: float = 30.0
    positions: tuple[int, ...] = (15, 31)
    window: int = 32
    as_published: bool = False

    def __post_init__(self) -> None:
        check_bump(self.magnitude, self.positions)
        if self.window <= max(self.positions):
            raise ValueError(
                f"window is in pixels, above the largest position, here {max(self.positions)}; "
                f"got {self.window}"
            )

    def stamp(self, images: Images, generator: Generator) -> Images:
        del generator  # one fixed trigger
        windows = images.shape[-1] // self.window
        if self.as_published:
            rise = channel_wave(self.magnitude, self.positions, self.window)
            return _through_bytes(images, rise.to(images.device).tile(windows, windows))
        wave = colour_wave(self.magnitude, self.positions, self.window, FROM_CR_CB)
        return (images + wave.to(images.device).tile(1, windows, windows) / 255).clamp(0, 1)

    def check(self, *, side: int, channels: int) -> None:
        if channels != 3:
            raise ValueError(f"ftrojan changes colours, so images have 3 channels; got {channels}")
        if side % self.window:
            raise ValueError(
                f"ftrojan cuts images into windows of {self.window} pixels, so their side is "
                f"a multiple of that; got {side}"
            )


def _through_bytes(images: Images, rise: Tensor) -> Images:
    """Return images whose Cr and Cb gain `rise`, each of Y, Cr and Cb a byte throughout.

    That is OpenCV's change of colours for bytes, in its fixed-point numbers.
    """
    red, green, blue = (images * 255).round().long().unbind(dim=1)
    luma = _scaled(0.299, red) + _scaled(0.587, green) + _scaled(0.114, blue)
    luma = _rounded(luma)
    cr, cb = (
        (_rounded(_scaled(weight, colour - luma)) + 128).clamp(0, 255)
        for weight, colour in ((0.713, red), (0.564, blue))
    )
    cr, cb = (cast_to_bytes(chroma + rise).long() - 128 for chroma in (cr, cb))
    gains = [_rounded(_scaled(of_cr, cr) + _scaled(of_cb, cb)) for of_cr, of_cb in FROM_CR_CB]
    levels = torch.stack([luma + gain for gain in gains], dim=1)
    return (levels.clamp(0, 255) / 255).to(images)


def _scaled(weight: float, values: Tensor) -> Tensor:
    return round(weight * 2**14) * values


def _rounded(scaled: Tensor) -> Tensor:
    """Return whole numbers of what `_scaled` made; halves go up."""
    return (scaled + 2**13) >> 14
