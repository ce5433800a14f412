"""Pictures of triggers: clean, triggered, what was changed, and its spectrum."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ulrl.image_similarity import WINDOW, psnr, ssim

RESIDUAL_GAIN = 5
GREY = 128  # what a residual of 0 shows as
PANEL = 84  # pixels that a panel is enlarged to, at least
# Letters that Pillow's own font has: it knows no multiplication sign.
HEADINGS = ("clean", "triggered", f"residual x {RESIDUAL_GAIN}", "spectrum")

_GAP, _BETWEEN, _MARGIN, _NAMES, _HEAD, _FOOT = 4, 18, 14, 150, 34, 24
_INK, _QUIET, _PAPER = (24, 24, 27), (113, 113, 122), (255, 255, 255)
# Dark blue over grey to yellow: distinct to colour-blind eyes, and in print.
_RAMP = (
    (0, 34, 78),
    (53, 69, 108),
    (102, 105, 112),
    (148, 142, 119),
    (200, 184, 102),
    (254, 232, 56),
)

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, eq=False)
class TriggerExample:
    """Images of one attack, each clean and with the trigger.

    Attributes:
        name: What stands beside them.
        clean: Stored images, 1 or 3 channels.
        triggered: The same with the trigger.
    """

    name: str
    clean: UInt8[Tensor, "n c h w"]
    triggered: UInt8[Tensor, "n c h w"]


def draw_gallery(examples: Sequence[TriggerExample], note: str = "") -> Image.Image:
    """Return a picture with a row per attack: for each image four panels side by side.

    A residual shows as grey level 128 + 5 × (triggered - clean), clipped. A spectrum is the
    magnitude of the residual's discrete Fourier transform on a logarithmic scale, the mean over
    channels, frequency 0 in the middle, bright for its own largest value; a single frequency in
    it stands out at its place, however faint in the image.

    Args:
        examples: At least one, all with as many images of one size.
        note: A line below.
    """
    images = max(len(example.clean) for example in examples)
    side = examples[0].clean.shape[-1]
    panel = side * max(1, -(-PANEL // side))
    block = len(HEADINGS) * (panel + _GAP) - _GAP
    width = 2 * _MARGIN + _NAMES + images * (block + _BETWEEN) - _BETWEEN
    height = _MARGIN + _HEAD + len(examples) * (panel + _GAP) + (_FOOT if note else _MARGIN)
    canvas = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(canvas)
    large, small = ImageFont.load_default(size=15), ImageFont.load_default(size=12)
    left = _MARGIN + _NAMES
    for number in range(images):
        for place, heading in enumerate(HEADINGS):
            x = left + number * (block + _BETWEEN) + place * (panel + _GAP)
            pen.text((x + panel / 2, _MARGIN + _HEAD - 8), heading, _QUIET, small, anchor="ms")
    for row, example in enumerate(examples):
        top = _MARGIN + _HEAD + row * (panel + _GAP)
        pen.text((_MARGIN, top + 4), _fitted(example.name, large), _INK, large)
        for line, text in enumerate(_alike(example)):
            pen.text((_MARGIN, top + 26 + 16 * line), text, _QUIET, small)
        for number, panels in enumerate(panels_of(example)):
            for place, shown in enumerate(panels):
                x = left + number * (block + _BETWEEN) + place * (panel + _GAP)
                picture = Image.fromarray(shown).resize((panel, panel), Image.Resampling.NEAREST)
                canvas.paste(picture, (x, top))
    if note:
        pen.text((_MARGIN, height - 8), note, _QUIET, small, anchor="ls")
    return canvas


def panels_of(example: TriggerExample) -> Iterator[tuple[Pixels, Pixels, Pixels, Pixels]]:
    """Yield for each image its panels at their own size, ``h w 3``: those of `HEADINGS`."""
    for clean, triggered in zip(example.clean.cpu(), example.triggered.cpu(), strict=True):
        residual = triggered.int() - clean.int()
        shown = (GREY + RESIDUAL_GAIN * residual).clamp(0, 255).to(torch.uint8)
        yield _coloured(clean), _coloured(triggered), _coloured(shown), _spectrum(residual)


def png_bytes(picture: Image.Image) -> bytes:
    """Return a picture as a PNG file: the same bytes for the same picture."""
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _coloured(image: Tensor) -> Pixels:
    return image.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()


def _spectrum(residual: Tensor) -> Pixels:
    magnitude = torch.fft.fft2(residual.double()).abs().mean(dim=0)
    scaled = torch.fft.fftshift(magnitude).log1p()
    value = (scaled / scaled.max().clamp_min(1e-12)).numpy() * (len(_RAMP) - 1)
    stops = np.arange(len(_RAMP))
    ramp = np.asarray(_RAMP, dtype=float)
    channels = [np.interp(value, stops, ramp[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def _alike(example: TriggerExample) -> list[str]:
    clean, triggered = (images.float() / 255 for images in (example.clean, example.triggered))
    noise = float(psnr(clean, triggered).mean())
    lines = ["unchanged" if noise == float("inf") else f"PSNR {noise:.1f} dB"]
    if min(clean.shape[-2:]) >= WINDOW:
        lines.append(f"SSIM {float(ssim(clean, triggered).mean()):.3f}")
    return lines


def _fitted(name: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Return as much of a name as there is room for."""
    room = _NAMES - 10
    if font.getlength(name) <= room:
        return name
    while name and font.getlength(f"{name}...") > room:
        name = name[:-1]
    return f"{name}..."
