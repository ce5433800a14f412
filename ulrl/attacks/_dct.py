"""What a bump in the discrete cosine transform of an image's colour looks like in its pixels.

The transform and the change of colour space are linear, so to raise a coefficient is to add
one fixed picture: the image itself needs no transform, and its bits no rounding of one.
"""

from math import inf, pi, sqrt
from typing import TypeAlias

import torch
from jaxtyping import Float, Float64
from torch import Tensor

# What red, green and blue gain per unit of each of the two chroma channels.
Chroma: TypeAlias = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]


def colour_wave(
    magnitude: float, positions: tuple[int, ...], size: int, chroma: Chroma
) -> Float[Tensor, "3 size size"]:
    """Return what is added to RGB where coefficients of both chroma channels are raised.

    Args:
        magnitude: What is added to each coefficient; the result is in its units.
        positions: Indices ``k`` of the coefficients ``(k, k)`` of an orthonormal DCT-II.
        size: Side of the transformed window, in pixels.
        chroma: How RGB is made of the two channels.
    """
    weights = torch.tensor(chroma, dtype=torch.float64).sum(dim=1)
    return (weights[:, None, None] * channel_wave(magnitude, positions, size)).float()


def channel_wave(
    magnitude: float, positions: tuple[int, ...], size: int
) -> Float64[Tensor, "size size"]:
    """Return what is added to a channel whose coefficients are raised; see `colour_wave`."""
    places = torch.arange(size, dtype=torch.float64)
    waves = [(pi * k * (2 * places + 1) / (2 * size)).cos() * _norm(k, size) for k in positions]
    return magnitude * torch.stack([wave[:, None] * wave for wave in waves]).sum(dim=0)


def cast_to_bytes(levels: Tensor) -> Tensor:
    """Return grey levels as a cast to bytes makes them: truncated, and round the circle of 256."""
    return levels.trunc().remainder(256)


def check_bump(magnitude: float, positions: tuple[int, ...]) -> None:
    """Raise ``ValueError`` where options of a bump are out of range."""
    if not 0 < magnitude < inf:
        raise ValueError(f"magnitude is in grey levels of 255, above 0; got {magnitude}")
    if not positions or min(positions) < 0 or len(set(positions)) < len(positions):
        raise ValueError(
            f"positions are indices of coefficients, each at least 0 and once; "
            f"got {list(positions)}"
        )


def _norm(k: int, size: int) -> float:
    return sqrt((1 if k == 0 else 2) / size)
