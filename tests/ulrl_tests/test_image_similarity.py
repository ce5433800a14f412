"""PSNR and SSIM, by hand and against a program of loops."""

import math

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from ulrl.image_similarity import psnr, ssim


def images_of(count: int, channels: int, side: int, seed: int = 0) -> Tensor:
    source = Generator().manual_seed(seed)
    return torch.rand(count, channels, side, side, generator=source)


def naive_ssim(x: Tensor, y: Tensor) -> float:
    """One image, by Wang's equations, each window on its own."""
    window = np.array(
        [[math.exp(-(a**2 + b**2) / (2 * 1.5**2)) for b in range(-5, 6)] for a in range(-5, 6)]
    )
    window /= window.sum()
    values = []
    for one, other in zip(x.double().numpy(), y.double().numpy(), strict=True):
        for row in range(one.shape[0] - 10):
            for column in range(one.shape[1] - 10):
                p = one[row : row + 11, column : column + 11]
                q = other[row : row + 11, column : column + 11]
                mean_p, mean_q = (window * p).sum(), (window * q).sum()
                var_p = (window * (p - mean_p) ** 2).sum()
                var_q = (window * (q - mean_q) ** 2).sum()
                shared = (window * (p - mean_p) * (q - mean_q)).sum()
                above = (2 * mean_p * mean_q + 0.0001) * (2 * shared + 0.0009)
                below = (mean_p**2 + mean_q**2 + 0.0001) * (var_p + var_q + 0.0009)
                values.append(above / below)
    return float(np.mean(values))


@pytest.mark.parametrize(
    ("step", "decibels"),
    [(0.1, 20.0), (0.01, 40.0), (1.0, 0.0), (1 / 255, 48.1308)],
)
def test_psnr_of_an_even_step(step: float, decibels: float) -> None:
    black = torch.zeros(1, 3, 8, 8)
    assert psnr(black, black + step).tolist() == pytest.approx([decibels], abs=1e-4)


def test_psnr_takes_the_mean_over_all_pixels_of_each_image() -> None:
    black = torch.zeros(3, 3, 8, 8)
    others = black.clone()
    others[1, 0, 0, :3] = 1.0  # 3 of 192 values: MSE 1/64
    others[2] = 0.5  # MSE 1/4
    result = psnr(black, others).tolist()
    assert result[0] == math.inf
    assert result[1:] == pytest.approx([18.0618, 6.0206], abs=1e-4)


def test_ssim_of_equal_images_is_one() -> None:
    images = images_of(3, 3, 16)
    assert ssim(images, images).tolist() == pytest.approx([1.0, 1.0, 1.0], abs=1e-6)


def test_ssim_of_even_images_by_hand() -> None:
    """Without structure only luminance counts: (2·0.2·0.6 + C1) / (0.04 + 0.36 + C1)."""
    dark, bright = torch.full((1, 1, 12, 12), 0.2), torch.full((1, 1, 12, 12), 0.6)
    expected = (0.24 + 0.0001) / (0.4 + 0.0001)
    assert ssim(dark, bright).tolist() == pytest.approx([expected], abs=1e-5)


@pytest.mark.parametrize(("channels", "side"), [(1, 11), (3, 14), (3, 20)])
def test_ssim_is_what_loops_make_of_it(channels: int, side: int) -> None:
    images = images_of(3, channels, side)
    others = (images + 0.3 * images_of(3, channels, side, seed=1)).clamp(0, 1)
    expected = [naive_ssim(x, y) for x, y in zip(images, others, strict=True)]
    assert ssim(images, others).tolist() == pytest.approx(expected, abs=1e-6)


def test_both_are_symmetric_and_each_pair_stands_alone() -> None:
    images, others = images_of(501, 1, 11), images_of(501, 1, 11, seed=1)
    for measure in (psnr, ssim):
        together = measure(images, others)
        assert together.shape == (501,)
        assert torch.allclose(together, measure(others, images))
        assert torch.allclose(together[-1:], measure(images[-1:], others[-1:]))
        assert measure(images[:0], others[:0]).shape == (0,)


def test_an_inverted_image_has_negative_similarity() -> None:
    images = images_of(1, 3, 32)
    assert float(ssim(images, 1 - images)) < -0.5


def test_images_smaller_than_the_window() -> None:
    with pytest.raises(ValueError, match="window") as error:
        ssim(images_of(1, 3, 10), images_of(1, 3, 10))
    assert str(error.value) == (
        "the window of SSIM has 11 pixels, so images have at least as many along each side; "
        "got 10 × 10"
    )
