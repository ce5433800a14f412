"""The picture that an attack blends in: made here, or a user's own."""

from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from ulrl.attacks._files import (
    FILE,
    PICTURES,
    State,
    check_name,
    digest_of,
    read_picture,
    state_of,
)
from ulrl.randomness import generator as named_generator


class Pattern(StrEnum):
    """The pictures that are made here."""

    SYNTHETIC = "synthetic"  # coloured ellipses on a gradient
    NOISE = "noise"  # independent uniform pixels, as in the paper's random pattern


PICTURE: Mapping[str, Any] = {**FILE, "words": tuple(word.value for word in Pattern)}


def picture(pattern: str, side: int) -> Float[Tensor, "3 side side"]:
    """Return a picture of `side` × `side` pixels in [0, 1], on the CPU.

    A file is resized bilinearly, antialiased where it shrinks, whatever its proportions.

    Args:
        pattern: A word of `Pattern`, or the path of a file.
        side: In pixels.

    Raises:
        AttackFileError: The file is missing or holds no picture.
    """
    return _drawn(pattern, side, _state(pattern)).clone()  # the cached one stays as it is


def content_of(pattern: str) -> str:
    """Return what tells a picture from others, wherever it lies: its word, or its SHA-256.

    Raises:
        AttackFileError: The file is missing or holds no picture.
    """
    if pattern in set(Pattern):
        return pattern
    _read(pattern, _state(pattern))  # what is no picture is said before anything is computed
    return digest_of(pattern, _state(pattern))


def check_pattern(pattern: str) -> None:
    """Raise ``ValueError`` unless `pattern` can name a picture; no file is looked at."""
    if pattern not in set(Pattern):
        check_name("pattern", pattern, PICTURES, f"{', '.join(Pattern)} or ")


def _state(pattern: str) -> State:
    words = f"a picture's file, or is {' or '.join(Pattern)}"
    return (0, 0) if pattern in set(Pattern) else state_of(pattern, "pattern", words)


@lru_cache(maxsize=16)
def _drawn(pattern: str, side: int, state: State) -> Tensor:
    if pattern == Pattern.NOISE:
        return torch.rand(3, side, side, generator=named_generator(0, "blended", "noise"))
    full = _synthetic() if pattern == Pattern.SYNTHETIC else _read(pattern, state)
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


@lru_cache(maxsize=4)
def _read(path: str, state: State) -> Tensor:
    del state
    return torch.from_numpy(np.array(read_picture(path))).permute(2, 0, 1).float() / 255
