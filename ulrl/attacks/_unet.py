"""A U-Net: the network that hides something in an image."""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate

FINEST = 16  # sides are multiples of it: images are halved four times


class UNet(nn.Module):
    """Four halvings and four doublings, with what was before each halving joined in again.

    After Ronneberger et al. (arXiv:1505.04597). What is given goes in once more beside the
    last features.

    Args:
        given: Channels that go in.
        made: Channels that come out.
        width: Channels of the first features.
    """

    def __init__(self, given: int, made: int, width: int) -> None:
        super().__init__()
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        self.first = nn.Conv2d(given, widths[0], 3, padding=1)
        self.down = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=2, padding=1) for before, after in pairwise(widths)
        )
        back = list(reversed(widths))
        self.up = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1) for before, after in pairwise(back)
        )
        self.joined = nn.ModuleList(nn.Conv2d(2 * one, one, 3, padding=1) for one in back[1:])
        self.last = nn.Conv2d(widths[0] + given, made, 1)

    def transformed(self, given: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h w"]:
        """Return what it makes of `given`, of any range; the sides are multiples of `FINEST`."""
        value = self.first(given).relu()
        passed = [value]
        for layer in self.down:
            value = layer(value).relu()
            passed.append(value)
        passed.pop()
        for layer, joined in zip(self.up, self.joined, strict=True):
            skip = passed.pop()
            grown = layer(interpolate(value, size=skip.shape[-2:], mode="nearest")).relu()
            value = joined(torch.cat([skip, grown], dim=1)).relu()
        made: Tensor = self.last(torch.cat([value, given], dim=1))
        return made
