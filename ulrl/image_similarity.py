"""How little a trigger changes an image, as eyes see it: PSNR and SSIM."""

import torch
from jaxtyping import Float
from torch import Tensor

WINDOW, SIGMA = 11, 1.5  # pixels
K1, K2 = 0.01, 0.03
_BATCH = 500  # images whose maps are in memory at a time


def psnr(images: Float[Tensor, "n c h w"], others: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
    """Return the peak signal-to-noise ratio of each pair in dB, infinite where they are equal.

    Args:
        images: Pixels in [0, 1].
        others: As many, likewise.
    """
    error = (images.double() - others.double()).square().flatten(1).mean(dim=1)
    return (-10 * error.log10()).float()


def ssim(images: Float[Tensor, "n c h w"], others: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
    """Return the structural similarity of each pair, at most 1, the mean over channels.

    As Wang, Bovik, Sheikh and Simoncelli (IEEE TIP 13(4), 2004) have it: an 11 × 11 Gaussian
    window of standard deviation 1.5, wherever it lies wholly inside the image.

    Args:
        images: Pixels in [0, 1], of at least 11 × 11.
        others: As many, likewise.

    Raises:
        ValueError: The images are smaller than the window.
    """
    height, width = images.shape[-2:]
    if min(height, width) < WINDOW:
        raise ValueError(
            f"the window of SSIM has {WINDOW} pixels, so images have at least as many along "
            f"each side; got {height} × {width}"
        )
    batches = zip(torch.split(images, _BATCH), torch.split(others, _BATCH), strict=True)
    return torch.cat([_similarity(*pair) for pair in batches])


def _similarity(images: Tensor, others: Tensor) -> Tensor:
    x, y = images.double(), others.double()  # variances are small differences
    down, along = (_weights(size).to(x) for size in x.shape[-2:])

    def local_mean(values: Tensor) -> Tensor:
        return down @ values @ along.T

    mean_x, mean_y = local_mean(x), local_mean(y)
    variances = local_mean(x * x) - mean_x**2 + local_mean(y * y) - mean_y**2
    covariance = local_mean(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + K1**2) / (mean_x**2 + mean_y**2 + K1**2)
    structure = (2 * covariance + K2**2) / (variances + K2**2)
    return (luminance * structure).flatten(1).mean(dim=1).float()


def _weights(size: int) -> Float[Tensor, "places size"]:
    """Return a row of weights for each place of the window along a side."""
    offsets = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    window = (-(offsets**2) / (2 * SIGMA**2)).exp()
    rows = torch.zeros(size - WINDOW + 1, size, dtype=torch.float64)
    for place, row in enumerate(rows):
        row[place : place + WINDOW] = window / window.sum()
    return rows
