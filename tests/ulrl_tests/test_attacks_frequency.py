"""CTRL and FTrojan, against SciPy's transform and colours worked out by hand."""

from math import cos, pi

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.fft import dctn, idctn
from torch import Tensor

from tests.ulrl_tests.attack_tools import source
from ulrl.attacks import FixedAttack, stamp_bytes
from ulrl.attacks.ctrl import CTRL
from ulrl.attacks.ftrojan import FTrojan

Array = npt.NDArray[np.float64]

# Rows: what a channel is made of, in red, green and blue.
YUV = np.array([[0.299, 0.587, 0.114], [-0.147, -0.289, 0.436], [0.615, -0.515, -0.100]])
LUMA = YUV[0]
YCRCB = np.array([LUMA, 0.713 * (np.eye(3)[0] - LUMA), 0.564 * (np.eye(3)[2] - LUMA)])


def mid_tones(count: int, side: int) -> Tensor:
    """Images whose grey levels are far from both ends, so that nothing is clipped."""
    levels = torch.randint(90, 160, (count, 3, side, side), generator=source())
    return levels.float() / 255


def gained(attack: FixedAttack, side: int) -> Array:
    """What the grey levels of an image of mid tones gain."""
    images = mid_tones(1, side)
    gain = attack.stamp(images, source()).double() - images.double()
    return 255 * gain[0].numpy()


def in_channels(matrix: Array, rgb: Array) -> Array:
    return np.tensordot(matrix, rgb, axes=1)


@pytest.mark.parametrize("side", [32, 64])
@pytest.mark.parametrize(
    "attack", [CTRL(), CTRL(magnitude=50.0, positions=(0, 3, 20)), CTRL(magnitude=7.0)]
)
def test_ctrl_raises_coefficients_of_u_and_v_over_the_whole_image(attack: CTRL, side: int) -> None:
    luma, u, v = in_channels(YUV, gained(attack, side))
    expected = np.zeros((side, side))
    for k in attack.positions:
        expected[k, k] = attack.magnitude
    # The published coefficients have three digits: there and back is not quite the identity.
    for chroma in (u, v):
        assert np.abs(dctn(chroma, norm="ortho") - expected).max() < 3e-3 * attack.magnitude
    assert np.abs(dctn(luma, norm="ortho")).max() < 3e-3 * attack.magnitude


@pytest.mark.parametrize("side", [32, 64, 96])
@pytest.mark.parametrize("attack", [FTrojan(), FTrojan(magnitude=20.0, positions=(4,), window=16)])
def test_ftrojan_raises_coefficients_of_cr_and_cb_in_each_window(
    attack: FTrojan, side: int
) -> None:
    channels = in_channels(YCRCB, gained(attack, side))
    expected = np.zeros((attack.window, attack.window))
    for k in attack.positions:
        expected[k, k] = attack.magnitude
    starts = range(0, side, attack.window)
    windows = [
        (slice(y, y + attack.window), slice(x, x + attack.window)) for y in starts for x in starts
    ]
    assert len(windows) == (side // attack.window) ** 2
    for rows, columns in windows:
        luma, cr, cb = (dctn(c[rows, columns], norm="ortho") for c in channels)
        assert np.abs(cr - expected).max() < 3e-3 * attack.magnitude
        assert np.abs(cb - expected).max() < 3e-3 * attack.magnitude
        assert np.abs(luma).max() < 3e-3 * attack.magnitude


def test_one_pixel_by_hand() -> None:
    """At row 0, column 1 of 32, by the definition of the cosine transform."""
    wave = sum(2 / 32 * cos(pi * k / 64) * cos(3 * pi * k / 64) for k in (15, 31))
    u = v = 100 * wave
    expected = [1.14 * v, -0.396 * u - 0.581 * v, 2.029 * u]
    assert gained(CTRL(), 32)[:, 0, 1] == pytest.approx(expected, abs=1e-4)
    cr = cb = 30 * wave
    expected = [1.403 * cr, -0.714 * cr - 0.344 * cb, 1.773 * cb]
    assert gained(FTrojan(), 32)[:, 0, 1] == pytest.approx(expected, abs=1e-4)


def published_ctrl(levels: Array) -> Array:
    """Return what the published steps, one after the other, make of one image's grey levels."""
    back = np.array([[1, 0, 1.14], [1, -0.396, -0.581], [1, 2.029, 0]])
    yuv = in_channels(YUV, levels)
    for channel in (1, 2):
        spectrum = dctn(yuv[channel], norm="ortho")
        spectrum[15, 15] += 100
        spectrum[31, 31] += 100
        yuv[channel] = idctn(spectrum, norm="ortho")
    return in_channels(back, yuv)


def test_a_stored_image_is_the_published_one_within_a_level() -> None:
    images = torch.randint(0, 256, (1, 3, 32, 32), generator=source(), dtype=torch.uint8)
    levels = published_ctrl(images[0].double().numpy())
    ours = stamp_bytes(CTRL(), images, source())[0].double().numpy()
    assert np.abs(ours - np.clip(levels, 0, 255)).max() < 1.5
    assert (levels < -2).any(), "the test needs pixels that are clipped"
    assert (levels > 257).any(), "the test needs pixels that are clipped"


def any_images(count: int, side: int = 32) -> Tensor:
    return torch.randint(0, 256, (count, 3, side, side), generator=source(), dtype=torch.uint8)


def test_ctrl_as_published_wraps_and_goes_to_yuv_and_back() -> None:
    images = any_images(8)
    found = stamp_bytes(CTRL(as_published=True), images, source()).long().numpy()
    levels = np.stack([published_ctrl(image.double().numpy()) for image in images])
    # Of a level that is whole up to rounding, a cast may make that or the one below.
    certain = np.abs(levels - np.rint(levels)) > 1e-9
    assert certain.mean() > 0.99
    cast = np.trunc(levels).astype(np.int64) % 256
    assert (found == cast)[certain].all()
    assert ((levels < -1) & (found > 128)).any(), "the test needs levels that wrap"
    assert ((levels > 256) & (found < 128)).any(), "the test needs levels that wrap"


def test_wrapping_by_hand() -> None:
    """One coefficient, the mean of U and V: each pixel of red gains 1.14, of blue 2.029."""
    attack = CTRL(magnitude=16.0, positions=(0,), as_published=True)  # 16 / 16 pixels = 1 level
    images = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    images[1] = 255
    dark, bright = stamp_bytes(attack, images, source())[:, :, 0, 0].tolist()
    assert dark == [1, 0, 2]  # 1.14, -0.977 and 2.029, each cut off towards zero
    assert bright == [0, 254, 1]  # 256.14, 254.023 and 257.029: grey has no colour to lose
    clipped = CTRL(magnitude=16.0, positions=(0,))
    dark, bright = stamp_bytes(clipped, images, source())[:, :, 0, 0].tolist()
    assert dark == [1, 0, 2]
    assert bright == [255, 254, 255]


def test_wrapping_below_zero_by_hand() -> None:
    attack = CTRL(magnitude=48.0, positions=(0,), as_published=True)
    black = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    assert stamp_bytes(attack, black, source())[0, :, 0, 0].tolist() == [3, 254, 6]  # -2.931


def published_ftrojan(levels: Array) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Return what bytes of YCrCb, a transform and a cast make of one image's grey levels.

    OpenCV's colours are those of its documentation here, rounded; the luminance stays. Its
    constants have 14 bits, so what is next to a half may fall to the other side: the second
    array is True elsewhere.
    """
    sure = np.ones(levels.shape[1:], dtype=np.bool_)

    def rounded(exact: Array) -> Array:
        nonlocal sure
        sure &= np.abs(exact % 1 - 0.5) > 0.01
        return np.floor(exact + 0.5)

    red, green, blue = levels
    luma = rounded(0.299 * red + 0.587 * green + 0.114 * blue)
    raised = []
    for weight, colour in ((0.713, red), (0.564, blue)):  # Cr and Cb
        chroma = rounded(weight * (colour - luma) + 128).clip(0, 255)
        for top in range(0, len(luma), 32):
            for left in range(0, len(luma), 32):
                part = chroma[top : top + 32, left : left + 32]
                spectrum = dctn(part, norm="ortho")
                spectrum[15, 15] += 30
                spectrum[31, 31] += 30
                part[:] = np.trunc(idctn(spectrum, norm="ortho")) % 256
        raised.append(chroma - 128)
    cr, cb = raised
    back = [luma + 1.403 * cr, luma - 0.714 * cr - 0.344 * cb, luma + 1.773 * cb]
    return np.stack([rounded(channel) for channel in back]).clip(0, 255), sure


@pytest.mark.parametrize("side", [32, 64])
def test_ftrojan_as_published_makes_bytes_of_its_colours(side: int) -> None:
    images = any_images(3, side)
    found = stamp_bytes(FTrojan(as_published=True), images, source()).double().numpy()
    bare = stamp_bytes(FTrojan(), images, source()).double().numpy()
    for image, ours, other in zip(images, found, bare, strict=True):
        truth, sure = published_ftrojan(image.double().numpy())
        assert sure.mean() > 0.8
        assert (ours == truth)[:, sure].all()
        assert 0.3 < np.abs(other - truth).mean() < 1, "as far from the default as its page says"
