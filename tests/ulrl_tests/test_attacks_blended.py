"""Pictures of a user's own that an attack blends in."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.ulrl_tests.attack_tools import source
from ulrl.attacks._files import AttackFileError
from ulrl.attacks._picture import picture
from ulrl.attacks.blended import Blended, Pattern
from ulrl.datasets import DatasetError


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


def test_a_picture_of_the_images_size_is_left_as_it_is(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    path = tmp_path / "mine.PNG"
    Image.fromarray(pixels).save(path)
    expected = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    assert torch.allclose(picture(str(path), 16), expected, atol=1e-6)


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


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_other_kinds_of_picture_are_made_rgb(mode: str, tmp_path: Path) -> None:
    suffix = "jpg" if mode == "CMYK" else "png"
    path = tmp_path / f"mine.{suffix}"
    Image.new("RGB", (20, 20), (153, 153, 153)).convert(mode).save(path)
    drawn = picture(str(path), 16)
    assert drawn.shape == (3, 16, 16)
    assert float((drawn - 0.6).abs().max()) < 0.02


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
        # Whoever handles a dataset that cannot be read handles a picture too.
        with pytest.raises(DatasetError) as error:
            use()
        assert str(error.value) == f"{path} cannot be read as a picture (UnidentifiedImageError)"
