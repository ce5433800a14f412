"""BPP's levels, its dithering and its negatives, against loops."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.ulrl_tests.attack_tools import source
from ulrl.attacks import stamp_bytes
from ulrl.attacks.bpp import BPP


def noise(count: int = 3, side: int = 12) -> Tensor:
    return torch.rand(count, 3, side, side, generator=source(3))


@pytest.mark.parametrize("levels", [2, 4, 8, 32])
def test_each_channel_has_its_levels_alone(levels: int) -> None:
    triggered = BPP(levels=levels).stamp(noise(), source())
    on_steps = triggered * (levels - 1)
    assert torch.allclose(on_steps, on_steps.round(), atol=1e-5)
    assert float((triggered - noise()).abs().max()) <= 0.5 / (levels - 1) + 1e-6


def test_every_grey_level_goes_to_the_nearest_of_eight() -> None:
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    ours = stamp_bytes(BPP(), images, source()).flatten().tolist()
    # The published programs' formula, as numbers: round(x / 255 · 7) / 7 · 255, cut to bytes.
    expected = [int(np.floor(x / 255 * 7 + 0.5) / 7 * 255 + 1e-3) for x in range(256)]
    assert ours == expected
    assert sorted(set(ours)) == [0, 36, 72, 109, 145, 182, 218, 255]


def dithered(image: np.ndarray, levels: int) -> np.ndarray:
    """Floyd and Steinberg's, pixel by pixel, of one channel."""
    work = image.astype(float).copy()
    height, width = work.shape
    for row in range(height):
        for column in range(width):
            old = work[row, column]
            new = min(max(np.floor(old * (levels - 1) + 0.5) / (levels - 1), 0), 1)
            work[row, column] = new
            error = old - new
            for down, right, share in ((0, 1, 7), (1, -1, 3), (1, 0, 5), (1, 1, 1)):
                if row + down < height and 0 <= column + right < width:
                    work[row + down, column + right] += error * share / 16
    return work


def test_dithering_passes_errors_on() -> None:
    images = noise(2)
    ours = BPP(levels=4, dither=True).stamp(images.double(), source())
    expected = [[dithered(one, 4) for one in image] for image in images.double().numpy()]
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-9)
    means = [BPP(levels=2, dither=d).stamp(images, source()).mean() for d in (True, False)]
    assert abs(float(means[0] - images.mean())) < 0.02, "errors go on, so the mean stays"


def test_negatives_are_true_images_with_another_ones_error() -> None:
    images = 0.25 + 0.5 * noise()  # nothing to clip
    attack = BPP()
    negatives = attack.stamp_cover(images, source())
    errors = attack.stamp(images, source()) - images
    assert torch.allclose(negatives - images, errors.roll(1, dims=0), atol=1e-6)
    alone = attack.stamp_cover(images[:1], source())
    assert torch.allclose(alone - images[:1], errors[:1].flip(-1), atol=1e-6)
