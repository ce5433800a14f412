"""Images drawn by the program: coloured shapes in ten classes, for pictures of triggers."""

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn.functional import interpolate

from ulrl.datasets import ImageSet
from ulrl.randomness import generator

CLASSES, SIDE = 10, 32
_KINDS = 5  # of shape, each in warm and in cold colours


def shapes(training: int, test: int, seed: int) -> ImageSet:
    """Return images of 32 × 32 pixels: a shape on a sloping, cloudy ground.

    The class is the kind of the shape (disc, ring, square, cross, stripes) and whether it is
    warm or cold; place, size, shade and ground are random.

    Args:
        training: Number of training images.
        test: Number of test images.
        seed: Other seeds, other images.
    """
    source = generator(seed, "shapes")
    labels = torch.arange(training + test) % CLASSES
    images = torch.stack([_drawn(int(label), source) for label in labels])
    stored = (images.clamp(0, 1) * 255).round().to(torch.uint8)
    return ImageSet(
        train_images=stored[:training],
        train_labels=labels[:training],
        test_images=stored[training:],
        test_labels=labels[training:],
        classes=CLASSES,
    )


def _drawn(label: int, source: Generator) -> Float[Tensor, "3 side side"]:
    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=source)

    axis = torch.linspace(-1, 1, SIDE)
    slope = uniform(-0.2, 0.2, 3, 2)
    ground = uniform(0.25, 0.75, 3)[:, None, None] + (
        slope[:, :1, None] * axis[:, None] + slope[:, 1:, None] * axis
    )
    clouds = interpolate(uniform(-0.15, 0.15, 1, 3, 6, 6), size=SIDE, mode="bicubic")[0]
    row, column = (axis - place for place in uniform(-0.3, 0.3, 2))
    size = float(uniform(0.35, 0.65, 1))
    inside = _inside(label % _KINDS, row[:, None] / size, column[None] / size)
    warm = label < _KINDS
    main, other = float(uniform(0.75, 1, 1)), float(uniform(0, 0.45, 1))
    colour = torch.tensor([main, other, 0.1] if warm else [0.1, other, main])
    grain = uniform(-0.03, 0.03, 3, SIDE, SIDE)
    return torch.where(inside, colour[:, None, None] + clouds / 2, ground + clouds) + grain


def _inside(kind: int, row: Tensor, column: Tensor) -> Tensor:
    """Return where a shape is, in coordinates in which it reaches from -1 to 1."""
    radius = row**2 + column**2
    square = (row.abs() < 0.8) & (column.abs() < 0.8)
    arms = (row.abs() < 0.3) | (column.abs() < 0.3)
    return (
        radius < 1,
        (radius < 1) & (radius > 0.35),
        square,
        square & arms,
        square & ((row * 2.5).floor() % 2 == 0),
    )[kind]
