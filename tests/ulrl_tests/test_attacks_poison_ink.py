"""Poison Ink: edges and their colour, what is read from an image, and how little it changes."""

from dataclasses import replace
from functools import partial
from math import cos, radians, sin
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn.functional import interpolate

from tests.ulrl_tests.attack_tools import context_of, source
from ulrl.attacks import AttackContext, LabelRule, stamp_bytes
from ulrl.attacks._ink import Extractor, draw_motions, edges_of, moved
from ulrl.attacks._networks import restored
from ulrl.attacks.poison_ink import InkInjector, PoisonInk
from ulrl.datasets import ImageSet
from ulrl.datasets.digits import Digits
from ulrl.models import ModelSpec
from ulrl.poison import Poison
from ulrl.trigger_training import train_trigger

GREEN = (80, 160, 80)
NO_MOTION = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])


def helper_of(attack: PoisonInk) -> InkInjector:
    poison = Poison(
        attack=attack, labels=LabelRule.ALL_TO_ONE, poison_ratio=0.1, stamp=attack.default_stamp
    )
    helper = attack.helper(poison)
    assert isinstance(helper, InkInjector)
    return helper


# Edges and their colour.


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("threshold", [0.0, 28.0])
def test_edges_are_where_scipy_s_sobel_is_large(channels: int, threshold: float) -> None:
    levels = torch.randint(0, 256, (20, channels, 16, 16), generator=source(), dtype=torch.uint8)
    levels[10:] = levels[10:] // 4 * 2  # and images of lower contrast
    weights = np.array([0.299, 0.587, 0.114])[:channels]
    luma = np.einsum("nchw,c->nhw", levels.numpy().astype(float), weights / weights.sum())
    pairs = [[ndimage.sobel(image, axis, mode="reflect") for axis in (0, 1)] for image in luma]
    magnitude = np.sqrt((np.array(pairs) ** 2).mean(axis=1)) / 4
    found = edges_of(levels.float() / 255, threshold)[:, 0].numpy()
    certain = np.abs(magnitude - threshold) > 1e-6
    assert (found == (magnitude > threshold))[certain].all()
    assert 0.02 < found.mean() <= 1


@pytest.mark.parametrize(("height", "seen"), [(39, False), (40, True)])
def test_a_step_of_40_grey_levels_is_an_edge(height: int, seen: bool) -> None:  # noqa: FBT001
    """Its magnitude is 40 / √2 = 28.28 in the two columns beside it; the border is none."""
    images = torch.zeros(1, 3, 16, 16)
    images[..., 7:] = height / 255
    expected = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    expected[..., 6:8] = seen
    assert torch.equal(edges_of(images, 28.0), expected)
    assert torch.equal(edges_of(images.transpose(2, 3), 28.0), expected.transpose(2, 3))


# What happens to images before they are read.


def smooth(side: int) -> Tensor:
    coarse = torch.rand(3, 2, 5, 5, generator=source())
    return interpolate(coarse, size=side, mode="bicubic")


def test_a_crop_is_enlarged_as_torch_enlarges_it() -> None:
    """Seven eighths of 32 pixels, its corner at row 3 and column 1, so 1 and -1 off the middle."""
    images = smooth(32)
    motion = torch.tensor([[[0.875, 0.0, -1.0], [0.0, 0.875, 1.0]]]).expand(3, -1, -1)
    expected = interpolate(images[:, :, 3:31, 1:29], size=32, mode="bilinear")
    inner = (..., slice(1, -1), slice(1, -1))  # torch stops at the crop's border
    assert torch.allclose(moved(images, motion)[inner], expected[inner], atol=1e-5)


@pytest.mark.parametrize("angle", [7, 15])
def test_a_rotation_is_scipy_s(angle: float) -> None:
    """But for what interpolation along both axes in turn changes, on smooth images."""
    images = smooth(32)
    cosine, sine = cos(radians(angle)), sin(radians(angle))
    motion = torch.tensor([[[cosine, -sine, 0.0], [sine, cosine, 0.0]]]).expand(3, -1, -1)
    matrix = np.array([[cosine, sine], [-sine, cosine]])  # of row and column
    middle = np.array([15.5, 15.5])
    expected = ndimage.affine_transform(
        images[0, 0].numpy(), matrix, middle - matrix @ middle, order=1
    )
    inner = (slice(8, -8), slice(8, -8))
    found = moved(images, motion)[0, 0].numpy()
    assert np.abs(found - expected)[inner].max() < 0.02
    assert np.abs(images[0, 0].numpy() - expected)[inner].max() > 0.1


def test_transforms_are_drawn_as_the_stage_says() -> None:
    plain, cropped, both = (
        draw_motions(4000, 32, source(), crop=crop, flip=flip)
        for crop, flip in ((False, False), (True, False), (True, True))
    )
    turns = torch.atan2(plain[:, 1, 0], plain[:, 0, 0]).rad2deg()
    assert float(turns.abs().max()) <= 15 + 1e-3
    assert float(turns.std()) == pytest.approx(30 / 12**0.5, rel=0.05)
    assert (plain[:, :, 2] == 0).all()
    assert torch.allclose(torch.linalg.det(plain[:, :, :2]), torch.ones(4000))
    for motions, mirrored in ((cropped, 0.0), (both, 0.5)):
        size = torch.linalg.det(motions[:, :, :2])
        enlarged = (size.abs() - 0.875**2).abs() < 1e-5
        assert float(enlarged.float().mean()) == pytest.approx(0.5, abs=0.04)
        assert torch.allclose(size[~enlarged].abs(), torch.tensor(1.0))
        assert float((size < 0).float().mean()) == pytest.approx(mirrored, abs=0.04)
        assert (motions[~enlarged, :, 2] == 0).all()
        shift = motions[enlarged, :, 2].norm(dim=1)
        assert float(shift.max()) <= 2 * 2**0.5 + 1e-4, "a crop of 28 pixels lies in 32"
        assert float(shift.max()) > 2


# Training.


class Constant(nn.Module):
    """Reads the same from everything."""

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level = level

    def forward(self, images: Tensor) -> Tensor:
        return torch.full_like(images, self.level)


@pytest.mark.parametrize("level", [1.0, 0.25])
def test_the_loss_of_what_is_read_by_hand(level: float) -> None:
    images = torch.rand(5, 3, 16, 16, generator=source())
    edges = edges_of(images, 28.0)
    attack = PoisonInk(clean_weight=7.0)
    extractor: Any = Constant(level)
    read = helper_of(attack)._read(extractor, images / 2, images, NO_MOTION.expand(5, -1, -1))
    share = float(edges.float().mean())
    at_edges = share * sum((level - part / 255) ** 2 for part in GREEN) / 3
    elsewhere = (1 - share) * (level - 1) ** 2
    blank = (level - 1) ** 2
    assert 0.1 < share < 0.95
    assert float(read.loss) == pytest.approx(13 * at_edges + elsewhere + 7 * blank, rel=1e-4)
    assert float(read.ink) == pytest.approx(at_edges + elsewhere, rel=1e-4)
    assert float(read.blank) == pytest.approx(blank, abs=1e-7)


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    whole = Digits().load()
    return replace(
        whole, train_images=whole.train_images[:640], train_labels=whole.train_labels[:640]
    )


@pytest.fixture(scope="module")
def context(digits: ImageSet, model_spec: ModelSpec) -> AttackContext:
    return context_of(digits, model_spec, epochs=1, batch_size=32)


BRIEF = PoisonInk(epochs=1, batch_size=16, lr=3e-3, image_weight=3.0, clean_weight=10.0, width=4)


def learned(attack: PoisonInk, context: AttackContext) -> dict[str, Tensor]:
    poison = Poison(
        attack=attack, labels=LabelRule.ALL_TO_ONE, poison_ratio=0.1, stamp=attack.default_stamp
    )
    return dict(train_trigger(poison, context))


@pytest.fixture(scope="module")
def trained(context: AttackContext) -> dict[str, Tensor]:
    return learned(BRIEF, context)


def test_ink_is_read_from_digits_that_nobody_trained_on(
    trained: dict[str, Tensor], digits: ImageSet, cpu: torch.device
) -> None:
    clean = digits.test_images[:200]
    triggered = stamp_bytes(BRIEF.trigger(0, trained), clean, source())
    extractor = restored(partial(Extractor, 3, 8), trained, "extractor", cpu)
    edges = edges_of(clean.float() / 255, BRIEF.threshold)
    with torch.no_grad():
        darkness = [
            ((1 - extractor(images.float() / 255)) * edges).flatten(1).sum(dim=1)
            for images in (clean, triggered)
        ]
    right = (darkness[1][:, None] > darkness[0]).float().mean()
    assert float(right) > 0.95, "0.5 is chance"
