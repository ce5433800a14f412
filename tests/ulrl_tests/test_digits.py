"""scikit-learn's digits against scikit-learn's own arrays."""

from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from ulrl.datasets import DATASETS, ImageSet
from ulrl.datasets.digits import Digits


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return Digits().load()


def test_counts_are_as_announced(images: ImageSet) -> None:
    info = Digits().info()
    assert tuple(images.train_labels.bincount().tolist()) == info.train_counts
    assert (len(images.train_images), len(images.test_images)) == (info.train_count, 500)
    assert info.train_count == 1297
    assert info.test_count == 500
    assert info.classes == images.classes == 10
    assert set(images.test_labels.tolist()) == set(range(10))


@pytest.mark.parametrize("size", [8, 16, 32])
def test_shapes_and_types(size: int) -> None:
    images = Digits(size=size).load()
    assert Digits(size=size).info().side == size
    for pixels, labels in (
        (images.train_images, images.train_labels),
        (images.test_images, images.test_labels),
    ):
        assert pixels.dtype == torch.uint8
        assert labels.dtype == torch.int64
        assert pixels.shape == (len(labels), 3, size, size)
        assert pixels.is_contiguous()
        assert torch.equal(pixels[:, 0], pixels[:, 1])
        assert torch.equal(pixels[:, 0], pixels[:, 2])
    assert int(images.train_images.max()) == 255


def test_every_digit_is_used_once_and_with_its_label() -> None:
    """At 8 pixels nothing is enlarged, so the grey levels are scikit-learn's."""
    images = Digits(size=8).load()
    pixels = torch.cat([images.train_images, images.test_images])[:, 0].double()
    levels = (pixels * 16 / 255).round().to(torch.uint8)
    labels = torch.cat([images.train_labels, images.test_labels])
    ours = Counter(
        (int(label), level.numpy().tobytes()) for label, level in zip(labels, levels, strict=True)
    )
    data, targets = load_digits(return_X_y=True)
    theirs = Counter(
        (int(label), row.astype(np.uint8).tobytes())
        for label, row in zip(targets, data, strict=True)
    )
    assert ours.total() == 1797
    assert ours == theirs


def test_enlarged_bilinearly() -> None:
    """Output pixel i of 16 lies at (i + 1/2) / 2 - 1/2 among the 8, clamped at the edge."""
    small = Digits(size=8).load().train_images[:5, 0].double()
    large = Digits(size=16).load().train_images[:5, 0].double()
    weights = torch.zeros(16, 8, dtype=torch.float64)
    for i in range(16):
        place = min(max((i + 0.5) / 2 - 0.5, 0), 7)
        below = min(int(place), 6)
        weights[i, below] = below + 1 - place
        weights[i, below + 1] = place - below
    expected = weights @ small @ weights.T
    # Both are rounded to whole levels, the small one before it is enlarged here.
    assert float((large - expected).abs().max()) <= 1.01


def test_the_split_is_the_same_at_every_size(images: ImageSet) -> None:
    assert torch.equal(Digits(size=8).load().test_labels, images.test_labels)


def test_treatment_and_label() -> None:
    assert DATASETS["digits"] is Digits
    assert Digits().label == "digits"
    assert Digits(size=32).label == "digits(size=32)"
    assert (Digits().preprocessing.padding, Digits(size=32).preprocessing.padding) == (2, 4)
    assert not Digits().preprocessing.flip
