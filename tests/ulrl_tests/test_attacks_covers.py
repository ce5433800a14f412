"""Attacks with covers: Adaptive-Blend, Adaptive-Patch, TaCT; and what a dataset can supply."""

from typing import Any

import pytest
import torch

from tests.ulrl_tests.attack_tools import source
from ulrl.attacks import LabelRule
from ulrl.attacks._picture import picture
from ulrl.attacks.adaptive_blend import AdaptiveBlend
from ulrl.attacks.adaptive_patch import AdaptivePatch
from ulrl.attacks.tact import TaCT
from ulrl.datasets import DatasetInfo, ImageSet
from ulrl.poison import Poison
from ulrl.poison_checks import check_poison
from ulrl.poisoning import make_test_sets, poison_training_set

SPECIFIC = LabelRule.SOURCE_SPECIFIC


def poison_of(attack: Any, **other: Any) -> Poison:
    return Poison(**{"attack": attack, "labels": attack.label_rules[0], **other})


# Adaptive-Blend.


def test_training_shows_half_of_sixteen_squares_faintly() -> None:
    attack = AdaptiveBlend()
    images = torch.rand(50, 3, 32, 32, generator=source())
    triggered = attack.stamp_training(images, source())
    blend = picture("synthetic", 32)
    shown = []
    for before, after in zip(images, triggered, strict=True):
        squares = []
        for row in range(4):
            for column in range(4):
                place = (..., slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8))
                whole = 0.85 * before[place] + 0.15 * blend[place]
                if torch.equal(after[place], before[place]):
                    squares.append(False)
                else:
                    assert torch.allclose(after[place], whole, atol=1e-6)
                    squares.append(True)
        assert sum(squares) == 8
        shown.append(squares)
    often = torch.tensor(shown).float().mean(dim=0)
    assert float(often.min()) > 0.25, "every square has its turn"
    assert float(often.max()) < 0.75


def test_tests_show_the_whole_picture_more_strongly() -> None:
    images = torch.rand(2, 3, 32, 32, generator=source())
    expected = 0.8 * images + 0.2 * picture("synthetic", 32)
    assert torch.allclose(AdaptiveBlend().stamp(images, source()), expected, atol=1e-6)


# Adaptive-Patch.


def corners(size: int) -> list[tuple[Any, ...]]:
    near, far = slice(0, size), slice(-size, None)
    return [(..., *place) for place in ((near, near), (near, far), (far, far), (far, near))]


def test_training_shows_one_mark_at_its_opacity() -> None:
    attack = AdaptivePatch()
    images = torch.full((400, 3, 32, 32), 0.5)
    images += 0.2 * torch.rand(400, 1, 1, 1, generator=source())  # told apart
    marked = AdaptivePatch(opacities=(1.0,) * 4, test_marks=(0, 1, 2, 3)).stamp(images, source())
    triggered = attack.stamp_training(images, source())
    counts = [0, 0, 0, 0]
    for before, after, opaque in zip(images, triggered, marked, strict=True):
        changed = [n for n, c in enumerate(corners(6)) if not torch.equal(after[c], before[c])]
        assert len(changed) == 1
        number = changed[0]
        counts[number] += 1
        place, opacity = corners(6)[number], attack.opacities[number]
        expected = before[place] + opacity * (opaque[place] - before[place])
        assert torch.allclose(after[place], expected, atol=1e-6)
    assert all(60 < count < 140 for count in counts), "equal chances"


# Covers.


@pytest.mark.parametrize(
    ("attack", "covers"),
    [(AdaptiveBlend(), 30), (AdaptiveBlend(cover_ratio=0.5), 15), (AdaptivePatch(size=4), 60)],
    ids=["blend", "fewer", "patch"],
)
def test_covers_are_as_many_as_asked_and_keep_their_labels(
    pictures: ImageSet, attack: Any, covers: int
) -> None:
    result = poison_training_set(poison_of(attack, poison_ratio=0.1), pictures, 0)
    assert int(result.poisoned.sum()) == 30
    assert int(result.covers.sum()) == covers
    assert not bool((result.covers & result.poisoned).any())
    assert torch.equal(result.labels[result.covers], pictures.train_labels[result.covers])
    changed = (result.images != pictures.train_images).flatten(1).any(dim=1)
    assert torch.equal(changed, result.poisoned | result.covers)


def test_tact_takes_from_its_source_and_covers_from_others(pictures: ImageSet) -> None:
    attack = TaCT(cover_classes=(5, 7), cover_ratio=2.0)
    poison = poison_of(attack, poison_ratio=0.05, source=(1,), target_label=0)
    result = poison_training_set(poison, pictures, 0)
    assert set(pictures.train_labels[result.poisoned].tolist()) == {1}
    assert (result.labels[result.poisoned] == 0).all()
    assert set(pictures.train_labels[result.covers].tolist()) == {5, 7}
    assert torch.equal(result.labels[result.covers], pictures.train_labels[result.covers])
    assert [int(result.poisoned.sum()), int(result.covers.sum())] == [15, 30]
    half = make_test_sets(poison, pictures, 0).report
    assert set(half.true_labels.tolist()) == {1}
    assert len(half.triggered) == int((half.clean_labels == 1).sum())


# What a dataset can supply.

TEN = DatasetInfo(train_counts=(100,) * 10, test_count=100, side=32)


@pytest.mark.parametrize(
    ("attack", "options", "message"),
    [
        (
            TaCT(),
            {"labels": SPECIFIC, "source": (5,)},
            (
                "cover_classes are neither source nor target, and 5 is the source; name others: "
                "got [5, 7]"
            ),
        ),
        (
            TaCT(cover_classes=(12,)),
            {"labels": SPECIFIC, "source": (1,)},
            "cover_classes is of the 10 classes, 0 to 9; got 12",
        ),
        (
            TaCT(),
            {"labels": SPECIFIC, "source": (1,), "poison_ratio": 0.2},
            (
                "poison_ratio counts against all 1000 training images, and source_specific takes "
                "them from class 1, which has 100: at most 0.1; got 0.2"
            ),
        ),
        (
            TaCT(cover_ratio=3.0),
            {"labels": SPECIFIC, "source": (1,)},
            (
                "tact wants 300 covers beside 100 poisoned images, and their classes have 200 to "
                "give; lower poison_ratio, or the share of covers"
            ),
        ),
        (
            TaCT(),
            {"labels": SPECIFIC, "source": (1, 11)},
            "source is of the 10 classes, 0 to 9; got 11",
        ),
        (
            TaCT(),
            {"labels": SPECIFIC, "source": (0, 1)},
            "source names classes other than the target, which is 0; got [0, 1]",
        ),
        (
            AdaptivePatch(),
            {"labels": LabelRule.ALL_TO_ONE, "poison_ratio": 0.4},
            (
                "adaptive_patch wants 800 covers beside 400 poisoned images, and their classes "
                "have 600 to give; lower poison_ratio, or the share of covers"
            ),
        ),
    ],
)
def test_what_cannot_be_supplied_is_said_beforehand(
    attack: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=r"got|give") as error:
        check_poison(Poison(attack=attack, **options), TEN)
    assert str(error.value) == message
