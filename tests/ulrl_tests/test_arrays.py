"""A user's own images, from a file as it should be."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from ulrl.datasets import DatasetError, DatasetInfo
from ulrl.datasets.arrays import Arrays

GREY = {
    "train_images": np.full((6, 8, 8, 1), 7, np.uint8),
    "test_images": np.full((4, 8, 8, 1), 9, np.uint8),
}


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, ">i4"])
def test_a_good_file(write_arrays: Callable[..., Path], dtype: npt.DTypeLike) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    labels = np.array([0, 1, 2, 0, 1, 0]).astype(dtype)
    dataset = Arrays(arrays=str(write_arrays(train_labels=labels, test_images=pixels)))
    assert dataset.info() == DatasetInfo(
        train_counts=(3, 2, 1), test_count=4, side=8, channels=3, test_counts=(2, 1, 1)
    )
    images = dataset.load()
    assert images.classes == 3
    assert images.train_images.shape == (6, 3, 8, 8)
    assert images.train_images.dtype == images.test_images.dtype == torch.uint8
    assert images.train_labels.dtype == images.test_labels.dtype == torch.int64
    assert images.train_labels.tolist() == [0, 1, 2, 0, 1, 0]
    assert images.test_labels.tolist() == [2, 1, 0, 0]
    assert (images.test_images.permute(0, 2, 3, 1).numpy() == pixels).all()


def test_treatment_by_default(write_arrays: Callable[..., Path]) -> None:
    preprocessing = Arrays(arrays=str(write_arrays())).preprocessing
    assert preprocessing.mean == (0.0, 0.0, 0.0)
    assert preprocessing.std == (1.0, 1.0, 1.0)
    assert (preprocessing.padding, preprocessing.flip) == (1, False)  # an eighth of 8 pixels


def test_grey_images_with_options(write_arrays: Callable[..., Path]) -> None:
    path = write_arrays(**GREY)
    dataset = Arrays(arrays=str(path), mean=(0.3,), std=(0.2,), padding=3, flip=True)
    assert dataset.load().train_images.shape == (6, 1, 8, 8)
    preprocessing = dataset.preprocessing
    assert (preprocessing.mean, preprocessing.std) == ((0.3,), (0.2,))
    assert (preprocessing.padding, preprocessing.flip) == (3, True)


def test_one_mean_per_channel_of_the_images(write_arrays: Callable[..., Path]) -> None:
    """Three means would silently make three channels of a grey image."""
    dataset = Arrays(arrays=str(write_arrays(**GREY)), mean=(0.1, 0.2, 0.3))
    with pytest.raises(DatasetError, match="mean"):
        dataset.load()


def test_an_uncompressed_file(write_arrays: Callable[..., Path]) -> None:
    path = write_arrays()
    expected = Arrays(arrays=str(path)).load()
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    np.savez(path, allow_pickle=False, **arrays)
    assert torch.equal(Arrays(arrays=str(path)).load().train_images, expected.train_images)


def test_further_arrays_are_nobodys_business(write_arrays: Callable[..., Path]) -> None:
    path = write_arrays(notes=np.array([{"a": 1}], dtype=object))
    assert len(Arrays(arrays=str(path)).load().train_labels) == 6


def test_identity_is_the_content_not_the_place(
    write_arrays: Callable[..., Path], tmp_path: Path
) -> None:
    other = write_arrays().rename(tmp_path / "copy.npz")
    path = write_arrays()
    path.write_bytes(other.read_bytes())
    mine, copy = Arrays(arrays=str(path)), Arrays(arrays=str(other))
    assert mine.identity() == copy.identity()
    assert (mine.label, copy.label) == ("arrays(mine.npz)", "arrays(copy.npz)")


def test_a_changed_file_is_read_again(write_arrays: Callable[..., Path]) -> None:
    dataset = Arrays(arrays=str(write_arrays()))
    before = dataset.identity()
    assert dataset.info() == DatasetInfo(
        train_counts=(3, 2, 1), test_count=4, side=8, test_counts=(2, 1, 1)
    )
    write_arrays(train_labels=np.array([0, 1, 2, 0, 1, 1]))
    assert dataset.identity() != before
    assert dataset.info() == DatasetInfo(
        train_counts=(2, 3, 1), test_count=4, side=8, test_counts=(2, 1, 1)
    )


@pytest.mark.parametrize(("kind", "there"), [("none", "is not there"), ("folder", "is no file")])
def test_a_place_without_a_file(tmp_path: Path, kind: str, there: str) -> None:
    path = tmp_path / "mine.npz"
    if kind == "folder":
        path.mkdir()
    dataset = Arrays(arrays=str(path))
    assert dataset.info() is None
    for act in (dataset.identity, dataset.load):
        with pytest.raises(DatasetError) as error:
            act()
        assert str(error.value) == f"{path} {there}; arrays: names an .npz file"


def test_a_plan_reads_no_images(write_arrays: Callable[..., Path]) -> None:
    """A small file can hold more of equal images than there is memory."""
    count = 30_000
    images = np.zeros((count, 32, 32, 3), np.uint8)
    path = write_arrays(
        train_images=images, train_labels=np.arange(count) % 3, test_images=images[:4]
    )
    tracemalloc.start()
    info = Arrays(arrays=str(path)).info()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert info is not None
    assert info.train_count == count
    assert most < images.nbytes / 10
