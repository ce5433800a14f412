"""Pictures of a user's own that an attack blends in."""

import hashlib
import os
from math import cos, exp, floor, pi
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from scipy.fft import dctn, idctn
from scipy.ndimage import map_coordinates
from torch import Tensor

from tests.ulrl_tests.attack_tools import source
from ulrl.attacks import FixedAttack, stamp_bytes
from ulrl.attacks._files import AttackFileError
from ulrl.attacks._picture import picture
from ulrl.attacks.blended import Blended, Pattern
from ulrl.attacks.bpp import BPP
from ulrl.attacks.ctrl import CTRL
from ulrl.attacks.ftrojan import FTrojan
from ulrl.attacks.refool import GAMMA, Refool, _defocused, _ghost
from ulrl.attacks.wanet import WaNet
from ulrl.datasets import DatasetError
from ulrl.randomness import generator


def save(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (40, 24)) -> str:
    Image.new("RGB", size, colour).save(path)
    return str(path)


def test_a_picture_of_one_colour_blends_as_that_colour(tmp_path: Path) -> None:
    path = save(tmp_path / "mine.png", (255, 51, 0))
    images = torch.full((2, 3, 16, 16), 0.5)
    blended = Blended(alpha=0.2, pattern=path).stamp(images, source())
    for channel, level in enumerate((1.0, 0.2, 0.0)):
        expected = torch.full((2, 16, 16), 0.8 * 0.5 + 0.2 * level)
        assert torch.allclose(blended[:, channel], expected)
    grey = Blended(alpha=1.0, pattern=path).stamp(torch.zeros(1, 1, 16, 16), source())
    assert torch.allclose(grey, torch.full_like(grey, 0.4))


def test_shrinking_is_antialiased(tmp_path: Path) -> None:
    """Stripes of one pixel become grey, where plain sampling would show some of them."""
    pixels = np.zeros((64, 64, 3), dtype=np.uint8)
    pixels[:, ::2] = 255
    path = tmp_path / "stripes.png"
    Image.fromarray(pixels).save(path)
    inner = picture(str(path), 16)[:, 2:-2, 2:-2]
    assert float((inner - 0.5).abs().max()) < 0.02
    shrunk = Image.open(path).resize((16, 16), Image.Resampling.BILINEAR)
    expected = torch.from_numpy(np.array(shrunk)).permute(2, 0, 1).float() / 255
    assert float((picture(str(path), 16) - expected).abs().max()) < 1.5 / 255


def test_identity_is_a_word_or_what_the_file_holds(tmp_path: Path) -> None:
    assert Blended().identity() == {"picture": "synthetic"}
    assert Blended(pattern=Pattern.NOISE).identity() == {"picture": "noise"}
    assert type(Blended(pattern="noise").identity()["picture"]) is str
    path = tmp_path / "mine.png"
    save(path, (1, 2, 3))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert Blended(pattern=str(path)).identity() == {"picture": digest}
    elsewhere = tmp_path / "other.png"
    elsewhere.write_bytes(path.read_bytes())
    assert Blended(pattern=str(elsewhere)).identity() == {"picture": digest}


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    path = save(tmp_path / "mine.png", (0, 0, 0))
    attack = Blended(pattern=path)
    before, black = attack.identity(), picture(path, 16)
    save(Path(path), (255, 255, 255))
    os.utime(path, ns=(0, 0))
    assert attack.identity() != before
    assert not torch.equal(picture(path, 16), black)


def test_a_missing_file_is_no_matter_until_it_is_needed(tmp_path: Path) -> None:
    path = str(tmp_path / "nowhere.png")
    attack = Blended(pattern=path)
    message = f"{path} is not there; pattern: names a picture's file, or is synthetic or noise"
    with pytest.raises(AttackFileError) as error:
        attack.identity()
    assert str(error.value) == message
    with pytest.raises(AttackFileError) as error:
        attack.stamp(torch.zeros(1, 3, 16, 16), source())
    assert str(error.value) == message


def test_a_file_that_is_no_picture(tmp_path: Path) -> None:
    path = tmp_path / "words.png"
    path.write_text("no picture")
    attack = Blended(pattern=str(path))
    for use in (attack.identity, lambda: attack.stamp(torch.zeros(1, 3, 16, 16), source())):
        # Code that handles a dataset that cannot be read handles a picture too.
        with pytest.raises(DatasetError) as error:
            use()
        assert str(error.value) == f"{path} cannot be read as a picture (UnidentifiedImageError)"


# BPP's levels, its dithering and its negatives, against loops.


def noise(count: int = 3, side: int = 12) -> Tensor:
    return torch.rand(count, 3, side, side, generator=source(3))


@pytest.mark.parametrize("levels", [2, 8])
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


# CTRL and FTrojan, against SciPy's transform and colours worked out by hand.


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
@pytest.mark.parametrize("attack", [CTRL(), CTRL(magnitude=50.0, positions=(0, 3, 20))])
def test_ctrl_raises_coefficients_of_u_and_v_over_the_whole_image(attack: CTRL, side: int) -> None:
    luma, u, v = in_channels(YUV, gained(attack, side))
    expected = np.zeros((side, side))
    for k in attack.positions:
        expected[k, k] = attack.magnitude
    # The published coefficients have three digits: there and back is not quite the identity.
    for chroma in (u, v):
        assert np.abs(dctn(chroma, norm="ortho") - expected).max() < 3e-3 * attack.magnitude
    assert np.abs(dctn(luma, norm="ortho")).max() < 3e-3 * attack.magnitude


@pytest.mark.parametrize("side", [32, 64])
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


# Refool: every image has its own reflection, and always the same one.


def images_of(count: int, channels: int = 3, side: int = 32) -> Tensor:
    levels = torch.randint(0, 256, (count, channels, side, side), generator=source(99))
    return levels.float() / 255


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_what_is_left_of_the_image_is_added_in_linear_light(rate: float) -> None:
    """However it is reflected, no pixel is darker than its transmitted light alone."""
    images = images_of(20)
    attack = Refool(transmission=0.4, ghost_rate=rate)
    triggered = attack.stamp(images, source())
    assert bool((triggered**GAMMA >= 0.4 * images**GAMMA - 1e-5).all())
    assert float(triggered.min()) >= 0
    assert float(triggered.max()) <= 1


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


# WaNet's field and its noise mode, against a second implementation in NumPy and SciPy.


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


@pytest.mark.parametrize("side", [16, 64])
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
