"""The two networks of the input-aware attack, and what they are trained for."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

MOMENTUM = 0.05  # of BatchNorm's running statistics, as in the published networks


class AutoEncoder(nn.Module):
    """An encoder and decoder with outputs in [0, 1]: a pattern, or a mask, for each image.

    Three stages of two convolutions and a pooling, one convolution in the middle, and three
    stages back, as in the authors' release. Each convolution has its BatchNorm, the last one
    too. At width 32 and three channels: 723,273 parameters for patterns, 722,691 for masks.
    """

    def __init__(self, channels: int, outputs: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = channels
        for after in (width, 2 * width, 4 * width):
            layers += [*_block(before, after), *_block(after, after), nn.MaxPool2d(2)]
            before = after
        layers += _block(before, before)
        for after in (2 * width, width, outputs):
            layers += [nn.Upsample(scale_factor=2, mode="bilinear"), *_block(before, before)]
            layers += _block(before, after)
            before = after
        self.layers = nn.Sequential(*layers[:-1])  # tanh takes the place of the last ReLU

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n outputs h w"]:
        """Return one output per image of the same height and width."""
        values: Tensor = self.layers(images)
        return values.tanh() / 2 + 0.5


def _block(before: int, after: int) -> list[nn.Module]:
    return [
        nn.Conv2d(before, after, 3, padding=1),
        nn.BatchNorm2d(after, momentum=MOMENTUM),
        nn.ReLU(inplace=True),
    ]


def sharpened(mask: Tensor) -> Tensor:
    """Return a mask pulled towards 0 and 1, as the published code does."""
    return (20 * mask - 10).tanh() / 2 + 0.5


def diversity(images: Tensor, others: Tensor, made: Tensor, made_of_others: Tensor) -> Tensor:
    """Return how much more images differ than what was made of them, on average.

    The loss term of Nguyen and Tran (arXiv:2010.08138, equation 8): distances are root mean
    squares over each image. As published, images and patterns are standardised, and masks
    are sharpened.
    """
    apart = (images - others).square().flatten(1).mean(dim=1).sqrt()
    made_apart = (made - made_of_others).square().flatten(1).mean(dim=1).clamp_min(1e-12).sqrt()
    return (apart / (made_apart + 1e-7)).mean()


def density_loss(mask: Tensor, density: float) -> Tensor:
    """Return by how much masks are larger than `density`, on average over pixels."""
    return (mask - density).relu().mean()


def standardised(images: Tensor, statistics: Tensor) -> Tensor:
    """Return images in [0, 1] as the victim sees them.

    Args:
        images: Shape ``n c h w``.
        statistics: Means and standard deviations of the channels, shape ``2 c``.
    """
    mean, std = statistics.to(images)[:, None, :, None, None]
    standard: Tensor = (images - mean) / std
    return standard


def statistics_of(mean: tuple[float, ...], std: tuple[float, ...]) -> Float[Tensor, "2 c"]:
    """Return the form in which `standardised` takes them."""
    return torch.tensor([mean, std])
