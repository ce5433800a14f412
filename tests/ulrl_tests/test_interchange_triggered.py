"""Triggered images from outside: files of arrays, and folders of pictures."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.ulrl_tests.backdoorbench import Bomb, write_pngs
from tests.ulrl_tests.states import refusal
from ulrl.datasets import ImageSet
from ulrl.interchange import (
    read_triggered,
)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a sound file of five 8-px images, some arrays changed; None leaves one out."""

    def save(**changes: npt.NDArray[Any] | None) -> Path:
        source = np.random.default_rng(0)
        arrays: dict[str, Any] = {
            "images": source.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8),
            "labels": np.array([0, 1, 2, 0, 1]),
        }
        arrays |= changes
        path = tmp_path / "triggered.npz"
        kept = {name: array for name, array in arrays.items() if array is not None}
        np.savez_compressed(path, allow_pickle=True, **kept)
        return path

    return save


# Files.


def test_a_file_of_arrays(write: Callable[..., Path]) -> None:
    path = write(wanted=np.full(5, 3, np.uint8), index=np.array([7, 5, 0, 1, 2], np.int32))
    triggered = read_triggered(path)
    with np.load(path) as arrays:
        expected = arrays["images"].transpose(0, 3, 1, 2)
    assert np.array_equal(triggered.images.numpy(), expected)
    assert triggered.true_labels.tolist() == [0, 1, 2, 0, 1]
    assert triggered.target_labels is not None
    assert triggered.target_labels.tolist() == [3] * 5
    assert triggered.index is not None
    assert triggered.index.tolist() == [7, 5, 0, 1, 2]
    assert triggered.index.dtype == triggered.true_labels.dtype == torch.int64


def test_what_a_file_may_leave_out(write: Callable[..., Path]) -> None:
    triggered = read_triggered(str(write()))
    assert triggered.target_labels is None
    assert triggered.index is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"images": None}, " lacks images, uint8 [N, H, W, C]; add them"),
        ({"labels": None}, " lacks labels, the true class of each image; add them"),
        ({"images": np.zeros((5, 3, 8, 8), np.uint8)}, ": images is uint8 [N, H, W, C] with N "),
        ({"images": np.zeros((5, 8, 8, 3))}, ": images is uint8 [N, H, W, C] with N above 0, "),
        ({"images": np.zeros((0, 8, 8, 3), np.uint8)}, ": images is uint8 [N, H, W, C] with N "),
        ({"labels": np.zeros(4, int)}, ": labels is one integer for each of 5 images; got int64 "),
        ({"labels": np.zeros(5)}, ": labels is one integer for each of 5 images; got float64 [5]"),
        ({"labels": np.array([0, 1, 2, 0, -1])}, ": labels counts from 0; got -1 to 2"),
        ({"wanted": np.array([0, 1, 2, 0, 2**40])}, ": wanted counts from 0; got 0 to 10995"),
        ({"index": np.array([1, 2, 3, 4, 1])}, ": index names a test image once; got one of them"),
    ],
)
def test_arrays_that_are_not_what_they_should_be(
    write: Callable[..., Path], changes: dict[str, npt.NDArray[Any] | None], reason: str
) -> None:
    path = write(**changes)
    assert refusal(lambda: read_triggered(path)).startswith(f"{path}{reason}")


def test_pickled_arrays_are_refused_and_not_executed(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    trace = tmp_path / "exploded"
    path = write(labels=np.array([Bomb(trace), *[None] * 4]))
    message = refusal(lambda: read_triggered(path))
    assert message.startswith(f"{path} cannot be read as an .npz of plain arrays (Object arrays")
    assert not trace.exists()
    with np.load(path, allow_pickle=True) as arrays:
        assert len(arrays["labels"]) == 5
    assert trace.exists(), "the bomb was none"


def test_damaged_files(write: Callable[..., Path]) -> None:
    path = write()
    whole = path.read_bytes()
    for damaged in (b"", whole[:-30], whole[:100], b"no archive"):
        path.write_bytes(damaged)
        refusal(lambda: read_triggered(path))
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    path.write_bytes(buffer.getvalue())
    assert "is a single array" in refusal(lambda: read_triggered(path))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", b"no array")
    refusal(lambda: read_triggered(path))


@pytest.mark.parametrize("name", ["nothing", "nothing.npz", "images.tar"])
def test_neither_file_nor_folder(tmp_path: Path, name: str) -> None:
    message = refusal(lambda: read_triggered(tmp_path / name))
    assert message.startswith(f"{tmp_path / name} is neither an .npz file nor a folder of PNG")


# Folders.


def test_a_folder_of_pictures(tmp_path: Path, pictures: ImageSet) -> None:
    chosen = {(3, 10): 0, (1, 9): 1, (3, 2): 2}
    write_pngs(tmp_path, {place: pictures.test_images[i] for place, i in chosen.items()})
    (tmp_path / ".DS_Store").touch()
    triggered = read_triggered(tmp_path)
    assert triggered.index is not None
    assert triggered.index.tolist() == [2, 9, 10]
    assert triggered.true_labels.tolist() == [3, 1, 3]
    assert torch.equal(triggered.images, pictures.test_images[[2, 1, 0]])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("1/notes.txt", "is no PNG file"),
        ("1/-1.png", "has '-1.png', whose name is no number"),
        ("1/01.png", "has '01.png', whose name is no number"),
        ("1/x.png", "has 'x.png', whose name is no number"),
        ("cat/1.png", "has 'cat', whose name is no number"),
        ("9999999999/1.png", "has '9999999999', whose name is no number"),
        ("2/3.png", "3.png is there under another label too"),
    ],
)
def test_folders_with_anything_else(
    tmp_path: Path, pictures: ImageSet, name: str, reason: str
) -> None:
    write_pngs(tmp_path, {(1, 3): pictures.test_images[0]})
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    assert reason in refusal(lambda: read_triggered(tmp_path))


def test_a_file_among_the_classes(tmp_path: Path) -> None:
    (tmp_path / "1").touch()
    assert "1 is no folder; the layout is" in refusal(lambda: read_triggered(tmp_path))


def test_an_empty_folder(tmp_path: Path) -> None:
    assert "holds no picture; the layout is" in refusal(lambda: read_triggered(tmp_path))


@pytest.mark.parametrize("name", ["1", "1/3.png"])
def test_links_out_of_the_folder(tmp_path: Path, pictures: ImageSet, name: str) -> None:
    folder = tmp_path / "triggered"
    write_pngs(folder, {(1, 3): pictures.test_images[0]})
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    assert f"{folder / name} leads out of {folder}" in refusal(lambda: read_triggered(folder))


def test_pictures_are_alike(tmp_path: Path, pictures: ImageSet) -> None:
    image = pictures.test_images[0]
    write_pngs(tmp_path, {(1, 3): image, (1, 4): image[:, :8, :8]})
    message = refusal(lambda: read_triggered(tmp_path))
    assert f"{tmp_path}/1/4.png is 8×8 RGB, not 16×16 RGB" in message
