"""PNG files in folders by class, as benchmarks save triggered images."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from ulrl.interchange._refusal import ImportRefused, inside_file, reason_of, shown

MODES = {"RGB": 3, "L": 1}  # Pillow's names of the pixels that are read


@dataclass(frozen=True, kw_only=True)
class Form:
    """What every picture of a set has to be."""

    channels: int
    side: int

    def __str__(self) -> str:
        return f"{self.side}×{self.side} {'RGB' if self.channels == 3 else 'L'}"


def read_pngs(
    root: Path, folder: str, places: Sequence[tuple[int, int]], form: Form | None = None
) -> UInt8[Tensor, "n c h w"]:
    """Return the pictures ``root/folder/<label>/<index>.png``, in the order of `places`.

    Without a `form`, all have to be like the first one.

    Raises:
        ImportRefused: One is missing, damaged, of another form, or outside of `root`.
    """
    pictures = []
    with warnings.catch_warnings(action="ignore"):  # about large pictures: `form` decides
        for label, index in places:
            name = f"{folder}/{label}/{index}.png" if folder else f"{label}/{index}.png"
            picture = _read_png(inside_file(root, name), root / name, form)
            form = form or Form(channels=picture.shape[2], side=picture.shape[0])
            pictures.append(picture)
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def _read_png(real: Path, path: Path, form: Form | None) -> npt.NDArray[np.uint8]:
    try:
        with Image.open(real, formats=("PNG",)) as image:
            # Before a pixel is unpacked: a small file may claim a picture of gigabytes.
            _check_form(image, path, form)
            pixels = np.array(image, dtype=np.uint8)
    except ImportRefused:
        raise
    except Exception as error:  # a damaged picture raises anything
        raise ImportRefused(
            f"{path} cannot be read as PNG ({reason_of(error)}); copy it again"
        ) from error
    return pixels.reshape(*pixels.shape[:2], -1)


def _check_form(image: Image.Image, path: Path, form: Form | None) -> None:
    width, height = image.size
    channels = MODES.get(image.mode)
    sound = width == height and channels is not None
    if not sound or (form and (channels, width) != (form.channels, form.side)):
        raise ImportRefused(
            f"{path} is {width}×{height} {shown(image.mode)[1:-1]}, not "
            f"{form or 'a square picture in RGB or L'}; all triggered images have the form of "
            f"the dataset's"
        )
