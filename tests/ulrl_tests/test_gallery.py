"""Pictures of triggers: what each panel shows, and what the command refuses."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ulrl import gallery
from ulrl.attacks import ATTACKS, FixedAttack
from ulrl.gallery_figure import HEADINGS, PANEL, TriggerExample, draw_gallery, panels_of, png_bytes


def specimen_of(residual: torch.Tensor, name: str = "some") -> TriggerExample:
    """Grey images with `residual` on top, in grey levels."""
    clean = torch.full((1, 3, *residual.shape), 100, dtype=torch.uint8)
    return TriggerExample(
        name=name, clean=clean, triggered=(clean.int() + residual).to(torch.uint8)
    )


def test_a_residual_shows_five_times_as_strong_around_mid_grey() -> None:
    residual = torch.zeros(8, 8, dtype=torch.int32)
    residual[1, 2], residual[3, 4], residual[5, 6] = 10, -10, 100
    clean, triggered, shown, _ = next(panels_of(specimen_of(residual)))
    assert (clean == 100).all()
    assert triggered[1, 2].tolist() == [110, 110, 110]
    assert shown[1, 2].tolist() == [178, 178, 178]
    assert shown[3, 4].tolist() == [78, 78, 78]
    assert shown[5, 6].tolist() == [255, 255, 255]
    assert int((shown == 128).all(axis=-1).sum()) == 61


@pytest.mark.parametrize(("across", "down"), [(4, 0), (0, 3), (5, 2)])
def test_a_wave_is_two_bright_points_at_its_frequency(across: int, down: int) -> None:
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    wave = 40 * torch.cos(2 * torch.pi * (across * x + down * y) / 32)
    spectrum = next(panels_of(specimen_of(wave.round().int())))[3].sum(axis=-1)
    bright = np.argwhere(spectrum == spectrum.max())
    assert sorted(bright.tolist()) == sorted(
        [[16 + down, 16 + across], [16 - down, 16 - across]]
    ), "frequency 0 is in the middle"


def test_an_unchanged_image_is_said_to_be_unchanged() -> None:
    flat = specimen_of(torch.zeros(8, 8, dtype=torch.int32))
    _, _, shown, spectrum = next(panels_of(flat))
    assert (shown == 128).all()
    assert (spectrum == spectrum[0, 0]).all()
    draw_gallery([flat])


def test_panels_stand_where_their_columns_are_and_bytes_repeat() -> None:
    examples = [
        specimen_of(torch.full((32, 32), level, dtype=torch.int32), f"attack {level}")
        for level in (5, 20)
    ]
    picture = draw_gallery(examples, note="a line below")
    pixels = np.asarray(picture)
    side = 32 * -(-PANEL // 32)
    for level in (5, 20):
        # Somewhere in the picture is a whole panel of the triggered grey level.
        row_of = (pixels == 100 + level).all(axis=-1)
        assert row_of.sum() == pytest.approx(side**2, rel=0.02)
    assert picture.width > len(HEADINGS) * side
    assert png_bytes(picture) == png_bytes(draw_gallery(examples, note="a line below"))


# The command.


def test_it_draws_what_is_asked_for(tmp_path: Path) -> None:
    out = tmp_path / "some.png"
    arguments = [str(out), "--attack", "badnets", "--attack", "wanet"]
    assert gallery.main(arguments) == 0
    first = out.read_bytes()
    with Image.open(out) as picture:
        assert picture.height < 4 * 100, "two rows"
    assert gallery.main(arguments) == 0
    assert out.read_bytes() == first
    assert gallery.main([*arguments, "--seed", "1"]) == 0
    assert out.read_bytes() != first


def arrays(path: Path, channels: int) -> str:
    generator = np.random.default_rng(0)
    np.savez(
        path,
        train_images=generator.integers(0, 256, (40, 16, 16, channels), dtype=np.uint8),
        train_labels=np.arange(40) % 4,
        test_images=generator.integers(0, 256, (20, 16, 16, channels), dtype=np.uint8),
        test_labels=np.arange(20) % 4,
    )
    return str(path)


def test_a_trigger_that_is_not_learned_needs_no_victim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The victim of `blind` diverged on so few images, and ended the whole gallery."""
    monkeypatch.setattr("ulrl.trigger_training.train_victim", None)
    fixed = [n for n in gallery.NAMES if issubclass(ATTACKS[n], FixedAttack)]
    assert {"badnets", "blind", "bpp"} <= set(fixed)
    only = [word for name in fixed for word in ("--attack", name)]
    assert gallery.main([str(tmp_path / "fixed.png"), *only]) == 0


def test_it_draws_on_a_file_of_ones_own(tmp_path: Path) -> None:
    data = arrays(tmp_path / "own.npz", 3)
    out = tmp_path / "own.png"
    assert gallery.main([str(out), "--dataset", data, "--attack", "blended"]) == 0
    assert out.exists()


REFUSED = {
    "x.png --attack badnest": "--attack: no attack is called 'badnest'; did you mean 'badnets'?",
    "nonsense.jpg": "OUT.png: a picture in the PNG format, so a name in .png; got {}/nonsense.jpg",
    "absent/x.png": "OUT.png: its folder is not there; make {}/absent first",
    "x.png --root here": "--root: goes with --dataset, and there is none",
    "x.png --dataset cifar": "--dataset: no dataset is called 'cifar'; did you mean 'cifar10'?",
    "x.png --dataset digits --root here": "--root: digits has no folder; leave it out",
    "x.png --dataset arrays": (
        "--dataset arrays: its file is what to name; write --dataset FILE.npz"
    ),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED.items())
def test_mistakes_are_one_line_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: str, message: str
) -> None:
    out, *rest = arguments.split()
    assert gallery.main([str(tmp_path / out), *rest]) == 2
    said = capsys.readouterr()
    assert said.err == message.format(tmp_path) + "\n"
    assert said.out == ""
    assert not list(tmp_path.iterdir())


def test_several_mistakes_are_said_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gallery.main([str(tmp_path / "x.gif"), "--attack", "a", "--attack", "b"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_images_that_an_attack_cannot_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = arrays(tmp_path / "grey.npz", 1)
    out = str(tmp_path / "x.png")
    assert gallery.main([out, "--dataset", data, "--attack", "ftrojan"]) == 2
    assert capsys.readouterr().err == (
        "--attack ftrojan: ftrojan changes colours, so images have 3 channels; got 1\n"
    )


def test_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gallery.main([str(tmp_path / "x.png"), "--dataset", "absent.npz"]) == 2
    said = capsys.readouterr().err
    assert "absent.npz" in said
    assert len(said.splitlines()) == 1
