"""The defender's samples."""

import random

import pytest
import torch

from ulrl.clean import CleanConfig, CleanDraw, draw_clean_samples
from ulrl.datasets import ImageSet
from ulrl.poison import Poison
from ulrl.poisoning import poison_training_set


def blank(labels: torch.Tensor) -> ImageSet:
    """A training set of one-pixel images that carry their index modulo 256."""
    pixels = (torch.arange(len(labels)) % 256).to(torch.uint8)[:, None, None, None]
    return ImageSet(
        train_images=pixels,
        train_labels=labels,
        test_images=pixels[:1],
        test_labels=labels[:1],
        classes=int(labels.max()) + 1,
    )


def test_official_indices_of_cifar10() -> None:
    clean = draw_clean_samples(CleanConfig(), blank(torch.arange(50_000) % 10), seed=0)
    assert len(clean.index) == 500
    assert clean.index[:5].tolist() == [25247, 49673, 27562, 2653, 16968]
    assert len(torch.unique(clean.index)) == 500
    random.seed(0)
    assert clean.index.tolist() == random.sample(range(50_000), 500)


@pytest.mark.parametrize(
    ("total", "ratio", "count"),
    [
        (50_000, 0.01, 500),
        (39_209, 0.01, 392),  # 392.09: GTSRB
        (100_000, 0.01, 1000),
        (299, 0.01, 2),  # 2.99
        (1297, 0.05, 64),  # 64.85
        (10, 1.0, 10),
    ],
)
def test_count_is_truncated(total: int, ratio: float, count: int) -> None:
    images = blank(torch.arange(total) % 10)
    clean = draw_clean_samples(CleanConfig(clean_ratio=ratio), images, seed=3)
    assert len(clean.index) == len(torch.unique(clean.index)) == count


def test_samples_are_clean_copies_even_of_poisoned_images(
    pictures: ImageSet, badnets: Poison
) -> None:
    poisoned = poison_training_set(badnets, pictures, seed=0)
    clean = draw_clean_samples(CleanConfig(clean_ratio=0.5), pictures, seed=0)
    both = poisoned.poisoned[clean.index]
    assert bool(both.any())
    assert torch.equal(clean.samples.images, pictures.train_images[clean.index])
    assert torch.equal(clean.samples.labels, pictures.train_labels[clean.index])
    assert not torch.equal(clean.samples.images[both], poisoned.images[clean.index][both])
    clean.samples.images.zero_()
    assert bool(pictures.train_images.any())


@pytest.mark.parametrize("draw", list(CleanDraw))
def test_the_seed_decides(pictures: ImageSet, draw: CleanDraw) -> None:
    config = CleanConfig(clean_ratio=0.2, clean_draw=draw)
    once, again, other = (draw_clean_samples(config, pictures, seed) for seed in (0, 0, 1))
    assert torch.equal(once.index, again.index)
    assert set(once.index.tolist()) != set(other.index.tolist())
    assert (once.seed, other.seed) == (0, 1)


def test_the_global_generator_is_neither_read_nor_moved(pictures: ImageSet) -> None:
    random.seed(1)
    state = random.getstate()
    first = draw_clean_samples(CleanConfig(), pictures, seed=0)
    assert random.getstate() == state
    random.seed(2)
    assert torch.equal(first.index, draw_clean_samples(CleanConfig(), pictures, seed=0).index)


def test_per_class_takes_the_same_share_of_each() -> None:
    labels = torch.tensor([0] * 100 + [1] * 59 + [2] * 10 + [3] * 3)
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    config = CleanConfig(clean_ratio=0.1, clean_draw=CleanDraw.PER_CLASS)
    clean = draw_clean_samples(config, blank(labels), seed=0)
    # 10, 5.9 truncated, 1, and 0.3 raised to the one image each class supplies
    assert clean.samples.labels.bincount().tolist() == [10, 5, 1, 1]
    assert len(torch.unique(clean.index)) == 17
    assert torch.equal(labels[clean.index], clean.samples.labels)


def test_too_few_samples() -> None:
    with pytest.raises(ValueError, match="clean_ratio") as error:
        CleanConfig(clean_ratio=0.01).check(100)
    assert str(error.value) == (
        "clean_ratio 0.01 of 100 training images is 1 sample, and ULRL needs at least 2: "
        "from 0.02 on"
    )


@pytest.mark.parametrize("count", [3, 7, 150, 199, 1297, 39_209, 50_000])
def test_the_ratio_that_the_message_names_is_admitted(count: int) -> None:
    with pytest.raises(ValueError, match="from") as error:
        CleanConfig(clean_ratio=1 / count / 2).check(count)
    named = float(str(error.value).split("from ")[1].removesuffix(" on"))
    CleanConfig(clean_ratio=named).check(count)
    assert named < 2.2 / count


def test_per_class_always_has_a_sample_of_each() -> None:
    config = CleanConfig(clean_ratio=0.001, clean_draw=CleanDraw.PER_CLASS)
    assert len(draw_clean_samples(config, blank(torch.arange(500) % 10), seed=0).index) == 10
    config.check(500)
