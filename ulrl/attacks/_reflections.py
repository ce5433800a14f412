"""Pictures of rooms and streets that a pane of glass could reflect, made by formula."""

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn.functional import interpolate

from ulrl.randomness import generator as named_generator

COUNT = 128
DRAWN = 96  # side in pixels at which a picture is drawn before it is resized
_WALLS, _WINDOWS, _LAMPS = 2, 3, 4


@lru_cache(maxsize=4)
def reflections(side: int) -> Float[Tensor, "count 3 side side"]:
    """Return the stock of pictures, in [0, 1], on the CPU: to be read, not written to.

    Each is a gradient with walls that cut it, windows with bars, and lamps; every size
    shows the same ones.
    """
    source = named_generator(0, "refool", "reflections")
    stock = torch.stack([_scene(source) for _ in range(COUNT)])
    return interpolate(stock, size=(side, side), mode="bilinear", antialias=True).clamp(0, 1)


def _scene(source: Generator) -> Tensor:
    axis = torch.linspace(0, 1, DRAWN)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    from_colour, to_colour = 0.7 * torch.rand(2, 3, 1, 1, generator=source)
    ramp = _along(x, y, source)
    scene: Tensor = from_colour + (to_colour - from_colour) * ramp
    for _ in range(_WALLS):
        shade, cut = torch.rand(2, generator=source).tolist()
        beyond = _along(x, y, source) > 0.2 + 0.6 * cut
        scene = torch.where(beyond, scene * (0.3 + 1.2 * shade), scene)
    for _ in range(_WINDOWS):
        left, top, wide, high, *colour = torch.rand(7, generator=source).tolist()
        u = (x - 0.8 * left) / (0.1 + 0.3 * wide)
        v = (y - 0.8 * top) / (0.1 + 0.4 * high)
        pane = (u > 0) & (u < 1) & (v > 0) & (v < 1)
        pane &= ((u - 0.5).abs() > 0.08) & ((v - 0.5).abs() > 0.06)
        scene = torch.where(pane, 0.3 + 0.7 * torch.tensor(colour)[:, None, None], scene)
    for _ in range(_LAMPS):
        cx, cy, width, *colour = torch.rand(6, generator=source).tolist()
        glow = (-((x - cx) ** 2 + (y - cy) ** 2) / (2 * (0.03 + 0.12 * width) ** 2)).exp()
        scene = scene + glow * torch.tensor(colour)[:, None, None]
    return scene.clamp(0, 1)


def _along(x: Tensor, y: Tensor, source: Generator) -> Tensor:
    """Return how far each pixel lies in a random direction, from 0 to 1 across the picture."""
    angle = 2 * torch.pi * torch.rand((), generator=source)
    way = (x - 0.5) * angle.cos() + (y - 0.5) * angle.sin()
    return (way - way.min()) / (way.max() - way.min())
