"""Adaptive-Patch: marks of which training shows one at a time, faintly."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from ulrl.attacks._base import register
from ulrl.attacks._per_image import image_generators
from ulrl.poison import FixedAttack, Images

MARKS = 4


@register("adaptive_patch")
@dataclass(frozen=True, kw_only=True)
class AdaptivePatch(FixedAttack):
    """Adaptive patch attack of Qi et al. (ICLR 2023).

    Of "Revisiting the assumption of latent separability for backdoor defenses". Each
    training image, poisoned or *cover* (which keeps its true label), carries one of four
    marks, drawn with equal chance, at that mark's opacity; test images carry two at full
    opacity. The paper's marks are pictures that are not free to ship; these are made here: a
    ring, a cross, a chequerboard and a stripe, a corner each, clockwise from the upper left.
    The paper poisons 0.3 % of the training set, with 0.6 % of covers.

    Attributes:
        opacities: Of the four marks in training, in (0, 1].
        test_marks: The marks of a test image, from 0.
        size: Side of a mark, in pixels.
        cover_ratio: Covers per poisoned image; 2 in the paper.
    """

    opacities: tuple[float, ...] = (0.5, 0.2, 0.5, 0.3)
    test_marks: tuple[int, ...] = (0, 2)
    size: int = 6
    cover_ratio: float = 2.0

    def __post_init__(self) -> None:
        if len(self.opacities) != MARKS or not all(0 < one <= 1 for one in self.opacities):
            raise ValueError(f"opacities is {MARKS} numbers in (0, 1]; got {list(self.opacities)}")
        marks = self.test_marks
        if not marks or len(set(marks)) < len(marks) or not set(marks) <= set(range(MARKS)):
            raise ValueError(
                f"test_marks is different numbers of 0 to {MARKS - 1}; got {list(marks)}"
            )
        if self.size < 3:
            raise ValueError(f"size is in pixels, at least 3; got {self.size}")
        if not 0 <= self.cover_ratio <= 100:
            raise ValueError(
                f"cover_ratio is in covers per poisoned image, 0 to 100; got {self.cover_ratio}"
            )

    def check(self, *, side: int, channels: int) -> None:
        del channels
        if side < 2 * self.size:
            raise ValueError(
                f"marks of {self.size} pixels in the corners want images of at least "
                f"{2 * self.size}; got {side}"
            )

    def cover_ratio_at(self, poison_ratio: float) -> float:
        return self.cover_ratio * poison_ratio

    def stamp(self, images: Images, generator: Generator) -> Images:
        del generator  # always the same marks
        opacity = torch.zeros(MARKS)
        opacity[list(self.test_marks)] = 1
        return self._marked(images, opacity.expand(len(images), -1))

    def stamp_training(self, images: Images, generator: Generator) -> Images:
        drawn = [
            int(torch.randint(MARKS, (), generator=own))
            for own in image_generators(images, generator)
        ]
        opacity = torch.diag(torch.tensor(self.opacities))[drawn]
        return self._marked(images, opacity)

    def _marked(self, images: Images, opacity: Float[Tensor, "n marks"]) -> Images:
        """Return images with each mark in its corner, as opaque as `opacity` says."""
        marked = images.clone()
        near, far = slice(0, self.size), slice(images.shape[-1] - self.size, None)
        corners = ((near, near), (near, far), (far, far), (far, near))
        for number, (rows, columns) in enumerate(corners):
            mask, colour = _mark(number, self.size)
            tint = colour[:, None, None] if images.shape[1] == 3 else colour.mean()
            tint = tint.to(images)
            weight = opacity[:, number, None, None, None].to(images) * mask.to(images)
            place = images[..., rows, columns]
            marked[..., rows, columns] = (1 - weight) * place + weight * tint
        return marked


def _mark(number: int, size: int) -> tuple[Float[Tensor, "size size"], Float[Tensor, " 3"]]:
    """Return where a mark is, 1 or 0, and its colour."""
    axis = torch.arange(size)
    row, column = axis[:, None], axis[None, :]
    edge = (row == 0) | (row == size - 1) | (column == 0) | (column == size - 1)
    shapes = (
        edge,
        (row == column) | (row + column == size - 1),
        (row + column) % 2 == 0,
        (row // 2 % 2 == 0) & (column >= 0),
    )
    colours = ((1.0, 0.9, 0.1), (0.9, 0.1, 0.6), (0.1, 0.9, 0.3), (0.1, 0.5, 1.0))
    return shapes[number].float(), torch.tensor(colours[number])
