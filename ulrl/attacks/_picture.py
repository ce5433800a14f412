"""The picture that an attack blends in: made here, or a user's own."""

import hashlib
from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from ulrl.datasets import DatasetError
from ulrl.randomness import generator as named_generator


class Pattern(StrEnum):
    """The pictures that are made here."""

    SYNTHETIC = "synthetic"  # coloured ellipses on a gradient
    NOISE = "noise"  # independent uniform pixels, as in the paper's random pattern


SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
# What makes a field's value a place: it is in no key, and a study's reader makes it absolute.
PICTURE: Mapping[str, Any] = {"runtime": True, "words": tuple(word.value for word in Pattern)}

_DAMAGE = (OSError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning)


class PictureError(DatasetError):
    """A user's picture cannot be had; the message says which file."""


def picture(pattern: str, side: int) -> Float[Tensor, "3 side side"]:
    """Return a picture of `side` × `side` pixels in [0, 1], on the CPU.

    A file is resized bilinearly, antialiased where it shrinks, whatever its proportions.

    Args:
        pattern: A word of `Pattern`, or the path of a file.
        side: In pixels.

    Raises:
        PictureError: The file is missing or holds no picture.
    """
    return _drawn(pattern, side, _state(pattern)).clone()  # the cached one stays as it is


def content_of(pattern: str) -> str:
    """Return what tells a picture from others, wherever it lies: its word, or its SHA-256.

    Raises:
        PictureError: The file is missing or holds no picture.
    """
    return pattern if pattern in set(Pattern) else _digest(pattern, _state(pattern))


def check_pattern(pattern: str) -> None:
    """Raise ``ValueError`` unless `pattern` can name a picture; no file is looked at."""
    if pattern not in set(Pattern) and not pattern.lower().endswith(SUFFIXES):
        *most, last = SUFFIXES
        raise ValueError(
            f"pattern is {', '.join(Pattern)} or a file that ends in {', '.join(most)} or {last}; "
            f"got {Path(pattern).name!r}"
        )


def _state(pattern: str) -> tuple[int, int]:
    """Return what tells two states of a file apart, so that no cached picture is a stale one."""
    if pattern in set(Pattern):
        return (0, 0)
    try:
        state = Path(pattern).stat()
    except OSError as error:
        raise _unreadable(pattern, error) from error
    return (state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=16)
def _digest(path: str, state: tuple[int, int]) -> str:
    del state
    _read(path)  # what is no picture is said before anything is computed with it
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


@lru_cache(maxsize=16)
def _drawn(pattern: str, side: int, state: tuple[int, int]) -> Tensor:
    del state
    if pattern == Pattern.NOISE:
        return torch.rand(3, side, side, generator=named_generator(0, "blended", "noise"))
    full = _synthetic() if pattern == Pattern.SYNTHETIC else _read(pattern)
    size = (side, side)
    return interpolate(full[None], size=size, mode="bilinear", antialias=True)[0].clamp(0, 1)


def _synthetic() -> Tensor:
    """Draw the picture at 256 pixels; it is shrunk, so that every size shows the same one."""
    source = named_generator(0, "blended", "synthetic")
    axis = torch.linspace(0, 1, 256)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    drawn = torch.stack([0.2 + 0.6 * x, 0.8 - 0.5 * y, 0.3 + 0.4 * (x + y) / 2])
    for _ in range(12):
        cy, cx, ry, rx, turn, *colour = torch.rand(8, generator=source).tolist()
        angle = torch.tensor(turn * torch.pi)
        u = (x - cx) * angle.cos() + (y - cy) * angle.sin()
        v = (y - cy) * angle.cos() - (x - cx) * angle.sin()
        inside = (u / (0.06 + 0.2 * rx)) ** 2 + (v / (0.06 + 0.2 * ry)) ** 2 <= 1
        drawn = torch.where(inside, torch.tensor(colour)[:, None, None], drawn)
    return drawn


def _read(path: str) -> Tensor:
    try:
        with Image.open(path) as image:
            pixels = np.array(image.convert("RGB"))
    except _DAMAGE as error:
        raise _unreadable(path, error) from error
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def _unreadable(path: str, error: BaseException) -> PictureError:
    if not Path(path).is_file():
        words = " or ".join(Pattern)
        return PictureError(f"{path} is not there; pattern: names a picture's file, or is {words}")
    return PictureError(f"{path} cannot be read as a picture ({type(error).__name__})")
