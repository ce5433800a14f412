"""A user's own images, from every kind of file that is not as it should be."""

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ulrl.datasets import DatasetError
from ulrl.datasets.arrays import NEEDED, Arrays

IMAGES = "is uint8 [N, H, W, C] with H = W and C 1 or 3; got"
LABELS = "labels are 0 to K-1, each with training images, and K is at least 2; got"
UNREADABLE = "cannot be read as an .npz of plain arrays:"


def refusal(path: Path) -> str:
    """The one message of both ways in, without the path that it begins with."""
    with pytest.raises(DatasetError) as by_facts:
        Arrays(arrays=str(path)).info()
    with pytest.raises(DatasetError) as by_load:
        Arrays(arrays=str(path)).load()
    message = str(by_load.value)
    assert message == str(by_facts.value)
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


def pixels(*shape: int, dtype: npt.DTypeLike = np.uint8) -> npt.NDArray[Any]:
    return np.zeros(shape, dtype)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        (
            "train_images",
            pixels(6, 8, 8, 3, dtype=np.float32),
            (
                f"train_images {IMAGES} float32 [6, 8, 8, 3]; where values are in [0, 1], write "
                "(images * 255).round().astype(numpy.uint8)"
            ),
        ),
        (
            "test_images",
            pixels(4, 3, 8, 8),
            f"test_images {IMAGES} uint8 [4, 3, 8, 8]; write images.transpose(0, 2, 3, 1)",
        ),
        (
            "train_images",
            pixels(6, 8, 8),
            f"train_images {IMAGES} uint8 [6, 8, 8]; write images[..., None]",
        ),
        ("train_images", pixels(6, 8, 8, 2), f"train_images {IMAGES} uint8 [6, 8, 8, 2]"),
        ("train_images", pixels(6, 8, 9, 3), f"train_images {IMAGES} uint8 [6, 8, 9, 3]"),
        (
            "train_labels",
            np.zeros(5, np.int64),
            "train_labels is one integer for each of 6 images; got int64 [5]",
        ),
        (
            "train_labels",
            np.zeros((6, 1), np.int64),
            (
                "train_labels is one integer for each of 6 images; got int64 [6, 1]; write "
                "labels[:, 0]"
            ),
        ),
        (
            "test_labels",
            np.zeros(4),
            (
                "test_labels is one integer for each of 4 images; got float64 [4]; write "
                "labels.astype(int)"
            ),
        ),
        (
            "test_labels",
            np.zeros(4, np.bool_),
            "test_labels is one integer for each of 4 images; got bool [4]",
        ),
        (
            "test_images",
            pixels(4, 16, 16, 3),
            "train_images and test_images differ in shape",
        ),
        (
            "train_labels",
            np.array([0, 1, 2, 0, 1, -1]),
            f"{LABELS} -1 to 2",
        ),
        (
            "test_labels",
            np.array([0, 1, 2, 3]),
            f"{LABELS} 0 to 3, and class 3 has test images and no training images",
        ),
        (
            "test_labels",
            np.array([0, 1, 2, -3]),
            f"{LABELS} -3 to 2",
        ),
    ],
)
def test_wrong_content(
    write_arrays: Callable[..., Path], name: str, array: npt.NDArray[Any], message: str
) -> None:
    assert refusal(write_arrays(**{name: array})) == f": {message}"


def test_a_single_class(write_arrays: Callable[..., Path]) -> None:
    path = write_arrays(train_labels=np.zeros(6, np.int64), test_labels=np.zeros(4, np.int64))
    assert refusal(path) == f": {LABELS} 0 to 0"


def test_a_class_of_the_test_set_without_training_images(
    write_arrays: Callable[..., Path],
) -> None:
    path = write_arrays(train_labels=np.array([0, 2, 0, 2, 0, 2]))
    assert refusal(path) == f": {LABELS} 0 to 2, and class 1 has test images and no training images"


def test_labels_that_start_at_one(write_arrays: Callable[..., Path]) -> None:
    path = write_arrays(
        train_labels=np.array([1, 2, 3, 1, 2, 1]), test_labels=np.array([3, 2, 1, 1])
    )
    assert refusal(path) == (
        f": {LABELS} 1 to 3, and class 0 has no training images; labels that start at 1 become "
        "so by labels - 1"
    )


def test_a_class_that_no_image_has(write_arrays: Callable[..., Path]) -> None:
    path = write_arrays(
        train_labels=np.array([0, 1, 3, 0, 1, 3]), test_labels=np.array([0, 1, 3, 3])
    )
    assert refusal(path) == f": {LABELS} 0 to 3, and class 2 has no training images"


def test_an_empty_half(write_arrays: Callable[..., Path]) -> None:
    path = write_arrays(test_images=pixels(0, 8, 8, 3), test_labels=np.zeros(0, np.int64))
    assert refusal(path) == ": test_images is empty"


def test_images_without_pixels(write_arrays: Callable[..., Path]) -> None:
    path = write_arrays(train_images=pixels(6, 0, 0, 3), test_images=pixels(4, 0, 0, 3))
    assert refusal(path).startswith(": train_images ")


def test_a_stray_label_does_not_ask_for_the_whole_memory(
    write_arrays: Callable[..., Path],
) -> None:
    path = write_arrays(train_labels=np.array([0, 1, 2, 0, 1, 2**45]))
    assert refusal(path).startswith(": labels ")


def test_missing_arrays(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    np.savez(path, train_images=pixels(6, 8, 8, 3), extra=np.zeros(1))
    assert refusal(path) == (
        " lacks train_labels, test_images, test_labels; it has ['train_images', 'extra']"
    )


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.trace,)


def test_pickled_objects_are_refused_and_not_executed(
    write_arrays: Callable[..., Path], tmp_path: Path
) -> None:
    trace = tmp_path / "exploded"
    path = write_arrays(train_labels=np.array([Bomb(trace)] * 6, dtype=object))
    assert refusal(path) == (f" {UNREADABLE} Object arrays cannot be loaded")
    path.write_bytes(pickle.dumps(Bomb(trace)))
    assert refusal(path).startswith(f" {UNREADABLE} ")
    assert not trace.exists()
    pickle.loads(path.read_bytes())
    assert trace.exists(), "the bomb was none"


def test_a_truncated_file(write_arrays: Callable[..., Path]) -> None:
    path = write_arrays()
    path.write_bytes(path.read_bytes()[:-40])
    assert refusal(path) == f" {UNREADABLE} File is not a zip file"


def test_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    path.touch()
    assert refusal(path) == f" {UNREADABLE} File is not a zip file"


def test_a_single_array(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    path = tmp_path / "mine.npz"
    path.write_bytes(buffer.getvalue())
    assert refusal(path).startswith(f" {UNREADABLE} ")


def test_members_that_are_no_arrays(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name in NEEDED:
            archive.writestr(f"{name}.npy", b"no array")
    assert refusal(path).startswith(f" {UNREADABLE} ")


def test_a_header_that_claims_more_than_there_is(write_arrays: Callable[..., Path]) -> None:
    path = write_arrays()
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    with zipfile.ZipFile(path, "w") as out:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            shape = (2**45,) if name == "test_labels" else array.shape
            header = {"descr": array.dtype.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(buffer, header)
            out.writestr(f"{name}.npy", buffer.getvalue() + array.tobytes())
    assert refusal(path).startswith(f" {UNREADABLE} ")


@pytest.mark.parametrize("start", [60, 200, 1000])
def test_a_damaged_stream(write_arrays: Callable[..., Path], start: int) -> None:
    path = write_arrays()
    data = bytearray(path.read_bytes())
    for place in range(start, start + 60):
        data[place] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=UNREADABLE):  # a plan reads no images
        Arrays(arrays=str(path)).load()
