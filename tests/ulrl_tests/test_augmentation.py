"""Random crop and flip against a naive one, image by image."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from ulrl.augmentation import Views, apply_views, draw_views
from ulrl.datasets import Preprocessing

CPU = torch.device("cpu")
PREPROCESSING = Preprocessing(mean=(0.0,), std=(1.0,), padding=2, flip=True)


def naive(image: Tensor, top: int, left: int, padding: int, *, mirrored: bool) -> Tensor:
    channels, height, width = image.shape
    seen = torch.zeros_like(image)
    for y in range(height):
        for x in range(width):
            # Crop first, then mirror the crop.
            column = width - 1 - x if mirrored else x
            row, source = y + top - padding, column + left - padding
            if 0 <= row < height and 0 <= source < width:
                for channel in range(channels):
                    seen[channel, y, x] = image[channel, row, source]
    return seen


@given(st.integers(0, 4), st.integers(1, 3), st.integers(3, 6), st.integers(0, 1000))
def test_agrees_with_slicing_each_image(padding: int, channels: int, side: int, seed: int) -> None:
    source = Generator().manual_seed(seed)
    images = torch.randint(1, 256, (5, channels, side, side), generator=source).to(torch.uint8)
    preprocessing = replace(PREPROCESSING, padding=padding)
    views = draw_views(5, preprocessing, source, CPU)
    seen = apply_views(images, views, preprocessing)
    assert seen.dtype == torch.uint8
    for i in range(5):
        expected = naive(
            images[i],
            int(views.top[i]),
            int(views.left[i]),
            padding,
            mirrored=bool(views.mirrored[i]),
        )
        assert torch.equal(seen[i], expected)


def test_every_view_of_one_image() -> None:
    image = torch.arange(1, 10, dtype=torch.uint8).reshape(1, 1, 3, 3)
    preprocessing = replace(PREPROCESSING, padding=1)

    def view(top: int, left: int, *, mirrored: bool = False) -> list[list[int]]:
        views = Views(
            top=torch.tensor([top]), left=torch.tensor([left]), mirrored=torch.tensor([mirrored])
        )
        rows: list[list[int]] = apply_views(image, views, preprocessing)[0, 0].tolist()
        return rows

    assert view(1, 1) == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert view(0, 0) == [[0, 0, 0], [0, 1, 2], [0, 4, 5]]
    assert view(2, 2) == [[5, 6, 0], [8, 9, 0], [0, 0, 0]]
    assert view(0, 1, mirrored=True) == [[0, 0, 0], [3, 2, 1], [6, 5, 4]]
    assert view(1, 0, mirrored=True) == [[2, 1, 0], [5, 4, 0], [8, 7, 0]]


@pytest.mark.parametrize("padding", [0, 1, 4])
def test_draws_are_uniform_over_crops(padding: int) -> None:
    count, places = 20_000, 2 * padding + 1
    views = draw_views(
        count, replace(PREPROCESSING, padding=padding), Generator().manual_seed(0), CPU
    )
    for offsets in (views.top, views.left):
        frequencies = offsets.bincount(minlength=places) / count
        assert len(frequencies) == places
        # Five standard errors of a share of 20,000 draws are 0.0177 at most.
        assert frequencies.tolist() == pytest.approx([1 / places] * places, abs=0.0177)
    assert float(views.mirrored.float().mean()) == pytest.approx(0.5, abs=0.0177)
    if padding:
        assert not torch.equal(views.top, views.left)


def test_no_flip_where_the_dataset_has_none() -> None:
    plain = draw_views(1000, replace(PREPROCESSING, flip=False), Generator().manual_seed(0), CPU)
    mirrored = draw_views(1000, PREPROCESSING, Generator().manual_seed(0), CPU)
    assert not bool(plain.mirrored.any())
    assert torch.equal(plain.top, mirrored.top)
