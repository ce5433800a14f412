"""Random crop and flip of whole batches, as tensor arithmetic."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Generator, Tensor
from torch.nn.functional import pad

from ulrl.datasets import Preprocessing


@dataclass(frozen=True, kw_only=True, eq=False)
class Views:
    """How each image of a set is seen in one epoch."""

    top: Int64[Tensor, " n"]  # first row of the crop in the padded image
    left: Int64[Tensor, " n"]
    mirrored: Bool[Tensor, " n"]

    def of(self, index: Int64[Tensor, " b"]) -> "Views":
        """Return the views of some of the images."""
        return Views(top=self.top[index], left=self.left[index], mirrored=self.mirrored[index])

    def become(self, others: "Views") -> None:
        """Take the values of as many other views, in place."""
        self.top.copy_(others.top)
        self.left.copy_(others.left)
        self.mirrored.copy_(others.mirrored)


def draw_views(
    count: int, preprocessing: Preprocessing, source: Generator, device: torch.device
) -> Views:
    """Draw a view for each of `count` images, uniformly over crops and reflections."""
    places = 2 * preprocessing.padding + 1
    offsets = torch.randint(places, (2, count), generator=source)
    coins = torch.rand(count, generator=source)
    mirrored = coins < (0.5 if preprocessing.flip else 0.0)
    return Views(
        top=offsets[0].to(device), left=offsets[1].to(device), mirrored=mirrored.to(device)
    )


def apply_views(
    images: UInt8[Tensor, "b c h w"], views: Views, preprocessing: Preprocessing
) -> UInt8[Tensor, "b c h w"]:
    """Return the images as `views` show them; the border of the crop is black."""
    height, width = images.shape[-2:]
    device = images.device
    padded = pad(images, [preprocessing.padding] * 4)
    rows = views.top[:, None] + torch.arange(height, device=device)
    forward = torch.arange(width, device=device)
    order = torch.where(views.mirrored[:, None], forward.flip(0), forward)
    columns = views.left[:, None] + order
    batch = torch.arange(len(images), device=device)[:, None, None]
    seen = padded.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]]
    return seen.permute(0, 3, 1, 2)
