"""Edges of images, filled with a colour; and the networks that hide such a picture and read it."""

from math import floor, pi

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn
from torch.nn.functional import interpolate, pad

from ulrl.attacks._unet import UNet

LUMA = (299, 587, 114)  # thousandths of red, green and blue in the luminance
BLANK = 1.0  # what is no edge, and all of what is read from a clean image: white
ROTATION = 15.0  # degrees, at most, to either side
CROP = 7 / 8  # side of a crop, which is enlarged to the image's side


def edges_of(images: Float[Tensor, "n c h w"], threshold: float) -> Bool[Tensor, "n 1 h w"]:
    """Return where Sobel's magnitude of the luminance is above a threshold: where edges are.

    Scaled and bordered as scikit-image's: a step of height 1 between two columns has the
    magnitude 1 / √2, and the outermost pixels go on beyond the border. Everything is computed
    on grey levels in whole numbers, so that each device finds the same edges.

    Args:
        images: In [0, 1], of three channels or one.
        threshold: In grey levels of 255.
    """
    levels = (images.detach() * 255).round().long()
    parts = levels.new_tensor(LUMA if levels.shape[1] == 3 else (sum(LUMA),))
    luma = (parts[:, None, None] * levels).sum(dim=1, keepdim=True)
    padded = pad(luma.float(), [1, 1, 1, 1], mode="replicate").long()
    across = padded[..., 2:] - padded[..., :-2]
    down = padded[..., 2:, :] - padded[..., :-2, :]
    across = across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]
    down = down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]
    # Four thousand times the two derivatives; the magnitude is the root of their mean square.
    return across.square() + down.square() > floor(2 * (4000 * threshold) ** 2)


def ink_picture(
    edges: Bool[Tensor, "n 1 h w"], colour: tuple[int, ...], channels: int
) -> Float[Tensor, "n c h w"]:
    """Return pictures in [0, 1]: edges in a colour, all else blank.

    Args:
        edges: Where.
        colour: Red, green and blue in grey levels of 255; of one channel, their luminance.
        channels: Three or one.
    """
    grey = sum(part * level for part, level in zip(LUMA, colour, strict=True)) / 1000
    values = torch.tensor(colour if channels == 3 else (grey,), device=edges.device) / 255
    return torch.where(edges, values[:, None, None], BLANK)


class Injector(UNet):
    """A U-Net from an image and its ink picture to the image with the picture hidden in it.

    It gives the change of the image, so that an untrained one is near to leaving images alone.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(2 * channels, channels, width)

    def forward(
        self, images: Float[Tensor, "n c h w"], ink: Float[Tensor, "n c h w"]
    ) -> Float[Tensor, "n c h w"]:
        """Return images that carry their ink pictures, not yet clipped to [0, 1]."""
        change = self.transformed(torch.cat([images - 0.5, ink - BLANK], dim=1))
        return images + change


class Extractor(nn.Module):
    """Seven residual blocks of dilated convolutions, at half the size, from images to ink."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            _convolution(channels, width), _convolution(width, width), _convolution(width, width, 2)
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(
                _convolution(width, width, dilation=dilation),
                *_convolution(width, width, dilation=dilation)[:2],
            )
            for dilation in (2, 2, 2, 4, 4, 4, 1)
        )
        self.grown = _convolution(width, width)
        self.last = nn.Sequential(_convolution(width, width), nn.Conv2d(width, channels, 1))

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Return what it reads: an ink picture, or a blank one."""
        value = self.first(images - 0.5)
        for block in self.blocks:
            value = (value + block(value)).relu()
        read: Tensor = self.last(self.grown(interpolate(value, scale_factor=2, mode="nearest")))
        return BLANK + read


class Adversary(nn.Module):
    """A PatchGAN (Isola et al., arXiv:1611.07004) that tells clean patches from triggered ones."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = channels
        for number in range(4):
            after = width << number
            layers.append(nn.Conv2d(before, after, 3, stride=2, padding=1))
            if number in {1, 2}:  # the last has one place only, of an image of 16 pixels
                layers.append(nn.InstanceNorm2d(after))
            layers.append(nn.LeakyReLU(0.2))
            before = after
        self.layers = nn.Sequential(*layers, nn.Conv2d(before, 1, 3, padding=1))

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 1 p p"]:
        """Return a number for each patch: 1 for clean, 0 for triggered, as it is taught."""
        found: Tensor = self.layers(images - 0.5)
        return found


def draw_motions(
    count: int, side: int, source: Generator, *, crop: bool, flip: bool
) -> Float[Tensor, "n 2 3"]:
    """Draw transforms: a rotation, in half of them a crop that is enlarged, in half a reflection.

    Returns:
        Of each, the affine map from places in the result to places in the image, both from
        the middle, in pixels: ``(x, y)`` comes from ``motion @ (x, y, 1)``.
    """
    angles = (2 * torch.rand(count, generator=source) - 1) * (ROTATION * pi / 180)
    crops = (torch.rand(count, generator=source) < 0.5) & crop
    mirrored = (torch.rand(count, generator=source) < 0.5) & flip
    offsets = (torch.rand(count, 2, generator=source) - 0.5) * ((1 - CROP) * side)
    scale = torch.where(crops, CROP, 1.0)
    offsets = torch.where(crops[:, None], offsets, 0.0)
    cosine, sine = angles.cos(), angles.sin()
    turn = torch.stack([torch.stack([cosine, -sine], 1), torch.stack([sine, cosine], 1)], 1)
    shrink = torch.stack([scale * torch.where(mirrored, -1.0, 1.0), scale], 1)
    return torch.cat([turn * shrink[:, None, :], turn @ offsets[:, :, None]], dim=2)


def moved(
    images: Float[Tensor, "n c s s"], motions: Float[Tensor, "n 2 3"]
) -> Float[Tensor, "n c s s"]:
    """Return images under affine maps (`draw_motions`); what comes from outside is black.

    They are interpolated along the rows, then along the columns (Catmull and Smith, SIGGRAPH
    1980), by products of matrices, which have the same gradient to the bit each time; that of
    `grid_sample` differs from run to run on a GPU.
    """
    side = images.shape[-1]
    places = torch.arange(side, device=images.device) - (side - 1) / 2
    across, down = places, places[:, None]
    a, b, c, d, e, f = motions.flatten(1)[:, :, None, None].unbind(1)
    # Column x of the result, at row v of the image: y is where that row comes to lie.
    y = (down - d * across - f) / e
    columns = _between(a * across + b * y + c, places)
    rows = _between(d * across + e * down + f, places)
    halfway = torch.einsum("nvxu,ncvu->ncvx", columns, images)
    return torch.einsum("nyxv,ncvx->ncyx", rows, halfway)


def _between(wanted: Tensor, places: Tensor) -> Tensor:
    """Return weights of linear interpolation; none where a place is outside."""
    return (1 - (wanted[..., None] - places).abs()).clamp_min(0)


def _convolution(before: int, after: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(before, after, 3, stride, dilation, dilation, bias=False)
    return nn.Sequential(layer, nn.InstanceNorm2d(after, affine=True), nn.ReLU())
