"""WaNet's field and its noise mode, against a second implementation in NumPy and SciPy."""

from math import floor

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor

from tests.ulrl_tests.attack_tools import source
from ulrl.attacks.wanet import WaNet
from ulrl.randomness import generator

Array = npt.NDArray[np.float64]


def cubic(distance: float) -> float:
    """Keys' convolution kernel with a = -0.75, as image libraries have it."""
    d, a = abs(distance), -0.75
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def enlarged(points: Array, side: int) -> Array:
    """Bicubic interpolation in which the corners of both grids coincide."""
    count = len(points)
    weights = np.zeros((side, count))
    for place in range(side):
        at = place * (count - 1) / (side - 1)
        for tap in range(floor(at) - 1, floor(at) + 3):
            weights[place, min(max(tap, 0), count - 1)] += cubic(at - tap)
    return weights @ points @ weights.T


def displacement(seed: int, attack: WaNet, side: int) -> Array:
    """The field in pixels, x before y."""
    drawn = torch.rand(1, 2, attack.grid, attack.grid, generator=generator(seed, "wanet"))
    points = 2 * drawn[0].double().numpy() - 1
    points *= attack.strength / np.abs(points).mean()
    fields = np.stack([enlarged(one, side) for one in points])
    return fields / side * (side - 1) / 2  # the grid is in [-1, 1] from pixel 0 to the last


@pytest.mark.parametrize("side", [16, 32, 64])
@pytest.mark.parametrize(
    "attack", [WaNet(), WaNet(grid=8, strength=2.0)], ids=["default", "finer, stronger"]
)
def test_images_are_sampled_where_the_field_says(side: int, attack: WaNet) -> None:
    images = torch.rand(2, 3, side, side, generator=source())
    ours = attack.trigger(5, {}).stamp(images, source())
    along_x, along_y = displacement(5, attack, side)
    rows, columns = np.mgrid[:side, :side].astype(float)
    places = np.clip([rows + along_y, columns + along_x], 0, side - 1)
    expected = [
        [map_coordinates(channel, places, order=1) for channel in image]
        for image in images.double().numpy()
    ]
    np.testing.assert_allclose(ours.numpy(), expected, atol=2e-4)


def ramps(side: int) -> Tensor:
    """An image whose pixels say where they are: x in the first channel, y in the second."""
    axis = torch.linspace(0, 1, side)
    x, y = axis.expand(side, side), axis[:, None].expand(side, side)
    return torch.stack([x, y, x])[None]


def moved(images: Tensor, warped: Tensor) -> Tensor:
    """How far each inner pixel moved, in pixels, along x and y."""
    side = images.shape[-1]
    return ((warped - images) * (side - 1))[:, :2, 4:-4, 4:-4]


def test_the_field_is_smooth_and_of_its_strength() -> None:
    images = ramps(32)
    shifts = [
        moved(images, WaNet(strength=s).trigger(1, {}).stamp(images, source())) for s in (0.5, 1.0)
    ]
    assert torch.allclose(2 * shifts[0], shifts[1], atol=1e-3)
    assert 0.1 < float(shifts[0].abs().mean()) < 0.5, "half of half a pixel, on average"
    steps = shifts[0].diff(dim=-1).abs().max()
    assert float(steps) < 0.15, "neighbours move together"


def test_scenarios_have_fields_of_their_own() -> None:
    images = ramps(32)
    first, again, other = (WaNet().trigger(seed, {}).stamp(images, source()) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_noise_mode_adds_up_to_half_a_pixel_of_its_own_to_each() -> None:
    images = ramps(32).repeat(2, 1, 1, 1)
    images[1] = images[1] * 0.999
    trigger = WaNet().trigger(1, {})
    noise = moved(images, trigger.stamp_cover(images, source())) - moved(
        images, trigger.stamp(images, source())
    )
    limit = 31 / 64  # 1 / height of the grid's unit, which is 31 / 2 pixels
    assert float(noise.abs().max()) <= limit + 1e-3
    assert float(noise.abs().max()) > 0.9 * limit
    assert abs(float(noise.mean())) < 0.02
    # Uniform in ±limit: its standard deviation is limit / √3.
    assert float(noise[0].std()) == pytest.approx(limit / 3**0.5, rel=0.1)
    assert float((noise[0] - noise[1]).abs().max()) > 0.1, "each image has its own"
