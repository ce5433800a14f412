"""BadNets, TaCT and TrojanNN at every size, and with pictures of a user's own.

What is expected is the arithmetic of BackdoorBench and of backdoor-toolbox, written again in
NumPy and Pillow.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.steps import finished
from tests.ulrl_tests.attack_tools import context_of, source
from ulrl.attacks import Attack, AttackContext, stamp_bytes
from ulrl.attacks._benign import BenignModel, benign_classifier
from ulrl.attacks._files import AttackFileError
from ulrl.attacks.badnets import BadNets
from ulrl.attacks.tact import TaCT
from ulrl.attacks.trojannn import TrojanNN, head_inputs, heaviest_inputs, shape
from ulrl.datasets import ImageSet
from ulrl.models import ModelSpec
from ulrl.poison import Poison

Bytes = npt.NDArray[np.uint8]
SIZES = pytest.mark.parametrize("side", [16, 48])


def random_bytes(count: int, side: int, channels: int = 3) -> Bytes:
    return np.random.default_rng(side).integers(0, 256, (count, side, side, channels), np.uint8)


def stamped(attack: Attack, images: Bytes, learned: dict[str, Tensor] | None = None) -> Bytes:
    """Return what an attack makes of images ``[N, H, W, C]``."""
    trigger = attack.trigger(0, learned or {})
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2)
    made: Bytes = stamp_bytes(trigger, tensor, source()).permute(0, 2, 3, 1).numpy()
    return made


def resized(picture: Image.Image, side: int) -> npt.NDArray[Any]:
    pixels = np.array(picture.resize((side, side), Image.Resampling.BILINEAR))
    return np.asarray(pixels, dtype=np.int64)


def by_backdoorbench(images: Bytes, picture: Image.Image) -> npt.NDArray[Any]:
    """Where a channel of the resized picture is 0 the image stays, else the picture is shown."""
    trigger = resized(picture, images.shape[1])
    return np.asarray(images.astype(int) * (trigger == 0) + trigger * (trigger > 0))


def by_toolbox(images: Bytes, picture: Image.Image) -> npt.NDArray[Any]:
    """The picture replaces each pixel that is not black in it, in floats from 0 to 1."""
    trigger = resized(picture, images.shape[1]) / 255
    mask = (trigger > 0).any(axis=-1, keepdims=True).astype(float)
    floats = images / 255
    blended = floats + mask * (trigger - floats)
    return np.asarray((blended * 255).round().astype(int))


def a_picture(path: Path, size: tuple[int, int] = (40, 24)) -> Image.Image:
    """Save and return a picture that is black in places, some of them in one channel only."""
    rng = np.random.default_rng(7)
    pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    pixels[: size[1] // 2] = 0
    pixels[-6:, :, 1] = 0
    Image.fromarray(pixels).save(path)
    return Image.fromarray(pixels)


# BadNets.


def corner(level: int = 255, inset: int = 0) -> Image.Image:
    pixels = np.zeros((32, 32, 3), dtype=np.uint8)
    pixels[29 - inset : 32 - inset, 29 - inset : 32 - inset] = level
    return Image.fromarray(pixels)


@pytest.mark.parametrize("side", [32, 64, 224])
def test_badnets_is_backdoorbench_s_from_32_pixels_on(side: int) -> None:
    images = random_bytes(3, side)
    assert (stamped(BadNets(), images) == by_backdoorbench(images, corner())).all()
    assert (stamped(BadNets(inset=4), images) == by_backdoorbench(images, corner(inset=4))).all()


@SIZES
def test_a_size_that_is_given_is_a_hard_square(side: int) -> None:
    assert BadNets(size=3).resolved(side) == BadNets(size=3)
    images = random_bytes(2, side)
    expected = images.copy()
    expected[:, side - 6 : side - 1, side - 6 : side - 1] = 255
    assert (stamped(BadNets(size=5, inset=1), images) == expected).all()


@SIZES
@pytest.mark.parametrize("size", [(32, 32), (40, 24)])
def test_badnets_with_a_picture_is_backdoorbench_s(
    side: int, size: tuple[int, int], tmp_path: Path
) -> None:
    path = tmp_path / "mine.png"
    picture = a_picture(path, size)
    images = random_bytes(4, side)
    ours = stamped(BadNets(pattern=str(path)), images)
    assert (ours == by_backdoorbench(images, picture)).all()
    assert (ours != images).any()


def test_what_is_transparent_in_a_picture_is_not_stamped(tmp_path: Path) -> None:
    pixels = np.full((16, 16, 4), 200, dtype=np.uint8)
    pixels[..., 3] = 0
    pixels[10:, 10:, 3] = 255
    Image.fromarray(pixels, "RGBA").save(tmp_path / "sticker.png")
    images = random_bytes(2, 16)
    expected = images.copy()
    expected[:, 10:, 10:] = 200
    for attack in (BadNets, TaCT):
        made = stamped(attack(pattern=str(tmp_path / "sticker.png")), images)
        assert (made == expected).all()


# TaCT.


def test_tact_covers_rows_and_columns_21_to_28_in_colours() -> None:
    images = random_bytes(3, 32)
    made = stamped(TaCT(), images)
    square = (slice(None), slice(21, 29), slice(21, 29))
    assert (made[square] == made[:1][square]).all(), "the same one on every image"
    assert len(np.unique(made[0][21:29, 21:29].reshape(-1, 3), axis=0)) == 64
    made[square] = images[square]
    assert (made == images).all()


@SIZES
@pytest.mark.parametrize("size", [(32, 32), (40, 24)])
def test_tact_with_a_picture_is_the_toolbox_s(
    side: int, size: tuple[int, int], tmp_path: Path
) -> None:
    path = tmp_path / "mine.png"
    picture = a_picture(path, size)
    images = random_bytes(4, side)
    ours = stamped(TaCT(pattern=str(path)), images)
    assert (ours == by_toolbox(images, picture)).all()
    assert (ours != by_backdoorbench(images, picture)).any(), "pixels, not single channels"


# TrojanNN.


@pytest.mark.parametrize(("side", "area"), [(32, 117), (64, 375)])
def test_the_shape_covers_the_published_area(side: int, area: int) -> None:
    for channels in (1, 3):
        made = shape(side, channels)
        assert made.shape == (channels, side, side)
        assert (made > 0).sum(dim=(1, 2)).tolist() == [area] * channels


def test_the_shape_lies_where_the_published_one_does() -> None:
    made = shape(224, 3)[0]
    assert abs(int((made > 0).sum()) - 3524) <= 2
    assert set(made.flatten().tolist()) == {0, 255}
    rows, columns = made.nonzero(as_tuple=True)
    assert (int(rows.min()), int(rows.max())) == (120, 203)
    assert (int(columns.min()), int(columns.max())) == (128, 194)


def poison_of(attack: Any) -> Poison:
    return Poison(attack=attack, labels=attack.label_rules[0])


@pytest.fixture(scope="module")
def benign(pictures: ImageSet, model_spec: ModelSpec) -> AttackContext:
    """A scene with a clean model."""
    bare = context_of(pictures, model_spec, epochs=1, batch_size=32)
    return replace(bare, learned=finished(BenignModel().train(bare))[1])


@pytest.mark.parametrize("steps", [1, 7])
def test_the_patch_is_found_as_backdoorbench_finds_it(
    benign: AttackContext, steps: int, tmp_path: Path
) -> None:
    """Signed gradient steps on what is above 0 in the picture; kept in bytes."""
    path = tmp_path / "mine.png"
    start = resized(a_picture(path), 16).transpose(2, 0, 1) / 255
    attack = TrojanNN(steps=steps, step_size=0.02, reach=0.05, pattern=str(path))
    patch = finished(attack.helper(poison_of(attack)).train(benign))[1]["patch"]
    classifier = benign_classifier(benign)
    wanted = heaviest_inputs(classifier.head, 2)
    begun = torch.from_numpy(start).float()
    keep, now = begun > 0, begun
    for _ in range(steps):
        seen = now.clone().requires_grad_()
        loss = ((head_inputs(classifier, (seen * keep)[None])[0, wanted] - 100) ** 2).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        assert seen.grad is not None
        change = (now - 0.02 * seen.grad.sign() - begun).clamp(-0.05, 0.05)
        now = (begun + change).clamp(0, 1)
    levels = patch * 255
    assert float((levels - levels.round()).abs().max()) < 1e-4
    assert float((levels - (now * 255)).abs().max()) < 1.001
    assert not patch[~keep].any()
    assert float((now - begun).abs().max()) > 0.01


@SIZES
def test_sums_wrap_as_backdoorbench_s(side: int) -> None:
    rng = np.random.default_rng(3)
    patch = rng.integers(0, 256, (side, side, 3)) * (rng.random((side, side, 1)) < 0.3)
    learned = {"patch": torch.from_numpy(patch).permute(2, 0, 1).float() / 255}
    images = random_bytes(4, side)
    sums = images.astype(int) + patch
    assert (stamped(TrojanNN(wrap=True), images, learned) == sums % 256).all()
    assert (stamped(TrojanNN(), images, learned) == sums.clip(0, 255)).all()


# Refusals.


@pytest.mark.parametrize("attack", [BadNets, TaCT, TrojanNN])
def test_a_pattern_is_a_picture_s_file(attack: type[Any], tmp_path: Path) -> None:
    message = "pattern is a file that ends in .png, .jpg, .jpeg, .bmp or .webp; got 'mine.npy'"
    with pytest.raises(ValueError, match="pattern") as error:
        attack(pattern="folder/mine.npy")
    assert str(error.value) == message
    path = tmp_path / "nowhere.png"
    missing = attack(pattern=str(path))
    missing.check(side=32, channels=3)  # a plan can do without
    with pytest.raises(AttackFileError) as gone:
        missing.identity()
    assert str(gone.value) == f"{path} is not there; pattern: names a picture's file"
    path.write_text("no picture")
    with pytest.raises(AttackFileError, match="cannot be read as a picture"):
        missing.identity()
    Image.new("RGB", (9, 9)).save(path)
    with pytest.raises(ValueError, match="pattern") as black:
        missing.check(side=32, channels=3)
    assert str(black.value) == (
        "pattern stamps what is above 0 in its picture; nowhere.png is black at 32 pixels: take "
        "another picture"
    )


@pytest.mark.parametrize("attack", [BadNets, TaCT, TrojanNN])
def test_identity_is_what_the_file_holds(attack: type[Any], tmp_path: Path) -> None:
    assert attack().identity() == {}
    first, copy, other = (str(tmp_path / f"{name}.png") for name in "abc")
    a_picture(Path(first))
    Path(copy).write_bytes(Path(first).read_bytes())
    a_picture(Path(other), (32, 32))
    identities = [attack(pattern=path).identity() for path in (first, copy, other)]
    assert identities[0] == identities[1] != identities[2]
