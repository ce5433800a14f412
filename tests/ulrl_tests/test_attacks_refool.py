"""Refool: every image has its own reflection, and always the same one."""

from math import exp

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.ulrl_tests.attack_tools import source
from ulrl.attacks._reflections import reflections
from ulrl.attacks.refool import GAMMA, Refool, _defocused, _ghost


def images_of(count: int, channels: int = 3, side: int = 32) -> Tensor:
    levels = torch.randint(0, 256, (count, channels, side, side), generator=source(99))
    return levels.float() / 255


def test_reflections_differ_among_images_and_draws() -> None:
    images = torch.full((8, 3, 32, 32), 0.5)
    images[:, :, 0, 0] = torch.arange(8)[:, None] / 255  # no two are the same picture
    once = Refool().stamp(images, source(0))
    again = Refool().stamp(images, source(1))
    assert float((once - again).abs().mean()) > 0.02
    for first in range(8):
        for second in range(first):
            assert float((once[first] - once[second]).abs().mean()) > 0.02


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_what_is_left_of_the_image_is_added_in_linear_light(rate: float) -> None:
    """However it is reflected, no pixel is darker than its transmitted light alone."""
    images = images_of(20)
    attack = Refool(transmission=0.4, ghost_rate=rate)
    triggered = attack.stamp(images, source())
    assert bool((triggered**GAMMA >= 0.4 * images**GAMMA - 1e-5).all())
    assert float(triggered.min()) >= 0
    assert float(triggered.max()) <= 1


def test_with_little_reflected_the_image_is_left() -> None:
    images = images_of(5)
    faint = Refool(transmission=0.999, ghost_rate=1.0).stamp(images, source())
    assert float((faint**GAMMA - images**GAMMA).abs().max()) < 2e-3


def test_the_ghost_rate_decides_what_is_sharp() -> None:
    """Out of focus, a reflection on black has no edges; a ghost has."""
    black = torch.zeros(40, 3, 32, 32)
    black[:, 0, 0, 0] = torch.arange(40) / 255
    steps = {}
    for rate in (0.0, 0.49, 1.0):
        light = Refool(ghost_rate=rate).stamp(black, source()) ** GAMMA
        jumps = (light[..., 1:, 1:] - light[..., 1:, :-1]).abs().flatten(1)
        steps[rate] = jumps.quantile(0.98, dim=1)
    blurred, mixed, ghosts = steps[0.0], steps[0.49], steps[1.0]
    assert float(ghosts.median()) > 2 * float(blurred.median())
    # Each image is one or the other, by its own draw, and both occur.
    is_ghost = mixed == ghosts
    assert bool((is_ghost | (mixed == blurred)).all())
    assert 10 < int(is_ghost.sum()) < 30


def test_a_ghost_is_two_copies_of_one_scene() -> None:
    scene = torch.zeros(1, 24, 24)
    scene[0, 15, 12] = 1.0  # one lamp, in a scene 8 pixels wider than the image
    # Offsets of 3 to 8 are drawn in six equal parts: 0.99 is 8 along x, 0.3 is 4 along y.
    # The fainter copy's weight is 0.15 + 0.35 / 2 = 0.325, and it is the first one.
    ghost = _ghost(scene, [0.99, 0.3, 0.5, 0.2])
    expected = torch.zeros(1, 16, 16)
    expected[0, 15, 12] = 0.325
    expected[0, 11, 4] = 0.675
    assert torch.allclose(ghost, expected)
    ghost = _ghost(scene, [0.0, 0.0, 0.0, 0.8])  # 3 along both; here the first is the stronger
    expected = torch.zeros(1, 16, 16)
    expected[0, 15, 12] = 0.85
    expected[0, 12, 9] = 0.15
    assert torch.allclose(ghost, expected)


def test_an_even_scene_out_of_focus_by_hand() -> None:
    """Blur leaves an even scene as it is; what is over white is taken off; borders fade."""
    side = 16
    scene = torch.full((1, side + 8, side + 8), 0.5)
    light = torch.full((1, side, side), 0.8)
    reflected = _defocused(scene, light, [0.5, 0.5, 0.5, 0.5])
    # 0.5 + 0.8 is 0.3 over white; 1.13 times that is taken off.
    even = 0.5 - 1.13 * 0.3
    for row, column in ((0, 0), (7, 8), (3, 12)):
        apart = (row - 7.5) ** 2 + (column - 7.5) ** 2  # from the centre, where it is brightest
        expected = even * exp(-apart / (2 * 8.0**2))
        assert float(reflected[0, row, column]) == pytest.approx(expected, rel=1e-5)


def test_a_lamp_out_of_focus_is_a_bell() -> None:
    """Softness 0.25 of the way from 1 to 5 is a standard deviation of 2 pixels."""
    scene = torch.zeros(1, 40, 40)
    scene[0, 16, 16] = 1.0
    reflected = _defocused(scene, torch.zeros(1, 32, 32), [0.25, 0.0, 0.5, 0.5])
    vignette = np.exp(-((np.arange(32) - 15.5) ** 2) / (2 * 16.0**2))
    bell = reflected[0].double().numpy() / vignette[:, None] / vignette
    distance = np.arange(-6, 7)
    expected = np.exp(-(distance**2) / 8) / np.sqrt(2 * np.pi * 4)
    assert np.allclose(bell[16, 10:23], expected * expected[6], rtol=1e-3)
    assert np.allclose(bell[10:23, 16], expected * expected[6], rtol=1e-3)


def test_the_stock_is_one_at_every_size_and_varied() -> None:
    small, large = reflections(24), reflections(72)
    assert small.shape == (128, 3, 24, 24)
    coarse = [torch.nn.functional.adaptive_avg_pool2d(stock, 4) for stock in (small, large)]
    assert float((coarse[0] - coarse[1]).abs().max()) < 0.05
    assert float(small.min()) >= 0
    assert float(small.max()) <= 1
    flat = coarse[0].flatten(1)
    apart = torch.cdist(flat, flat) + 100 * torch.eye(len(flat))
    assert float(apart.min()) > 0.3, "two scenes look alike"
    assert float(small.flatten(1).std(dim=1).min()) > 0.03, "a scene is empty"


def test_grey_images_reflect_grey_scenes() -> None:
    images = images_of(4, channels=1)
    triggered = Refool().stamp(images, source())
    assert triggered.shape == images.shape
    assert bool((triggered != images).flatten(1).any(dim=1).all())
