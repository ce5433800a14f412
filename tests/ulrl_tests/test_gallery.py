"""Pictures of triggers: what each panel shows, and what the command refuses."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator, Tensor

from ulrl import gallery
from ulrl.attacks import ATTACKS, FixedAttack
from ulrl.gallery_figure import TriggerExample, panels_of
from ulrl.image_similarity import psnr, ssim


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


def test_images_that_an_attack_cannot_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = arrays(tmp_path / "grey.npz", 1)
    out = str(tmp_path / "x.png")
    assert gallery.main([out, "--dataset", data, "--attack", "ftrojan"]) == 2
    assert capsys.readouterr().err == (
        "--attack ftrojan: ftrojan changes colours, so images have 3 channels; got 1\n"
    )


# PSNR and SSIM, by hand and against a program of loops.


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
    ("step", "decibels"), [(0.1, 20.0), (0.01, 40.0), (1.0, 0.0), (1 / 255, 48.1308)]
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


def test_images_smaller_than_the_window() -> None:
    with pytest.raises(ValueError, match="window") as error:
        ssim(images_of(1, 3, 10), images_of(1, 3, 10))
    assert str(error.value) == (
        "the window of SSIM has 11 pixels, so images have at least as many along each side; "
        "got 10 × 10"
    )
