"""A user's own images, from a file as it should be."""

import io
import pickle
import tracemalloc
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from ulrl.datasets import DatasetError, DatasetInfo
from ulrl.datasets.arrays import NEEDED, Arrays

GREY = {
    "train_images": np.full((6, 8, 8, 1), 7, np.uint8),
    "test_images": np.full((4, 8, 8, 1), 9, np.uint8),
}


@pytest.mark.parametrize("dtype", [np.int64, ">i4"])
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


def test_grey_images_with_options(write_arrays: Callable[..., Path]) -> None:
    path = write_arrays(**GREY)
    dataset = Arrays(arrays=str(path), mean=(0.3,), std=(0.2,), padding=3, flip=True)
    assert dataset.load().train_images.shape == (6, 1, 8, 8)
    preprocessing = dataset.preprocessing
    assert (preprocessing.mean, preprocessing.std) == ((0.3,), (0.2,))
    assert (preprocessing.padding, preprocessing.flip) == (3, True)


def test_grey_images_as_mnist_has_them(write_arrays: Callable[..., Path]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (6, 28, 28), dtype=np.uint8)
    path = write_arrays(train_images=pixels, test_images=pixels[:4, :, :, None])
    dataset = Arrays(arrays=str(path))
    images, info = dataset.load(), dataset.info()
    assert info is not None
    assert (info.channels, info.side) == (1, 28)
    assert (images.train_images[:, 0].numpy() == pixels).all()
    assert torch.equal(images.test_images, images.train_images[:4])


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


# A user's own images, from every kind of file that is not as it should be.


Array = npt.NDArray[Any]
IMAGES = "is uint8 [N, H, W] or [N, H, W, C] with H = W and C 1 or 3; got"
LABELS = "labels are 0 to K-1, each with training images, and K is at least 2; got"
ONE_EACH = "is one integer for each of"
UNREADABLE = "cannot be read as an .npz of plain arrays:"


def refusal(path: Path) -> str:
    """The one message of both ways in, without the path that it begins with."""
    messages = []
    for act in (Arrays(arrays=str(path)).info, Arrays(arrays=str(path)).load):
        with pytest.raises(DatasetError) as error:
            act()
        messages.append(str(error.value))
    assert messages[0] == messages[1]
    assert messages[0].startswith(str(path))
    return messages[0].removeprefix(str(path))


def zeros(*shape: int, dtype: npt.DTypeLike = np.uint8) -> Array:
    return np.zeros(shape, dtype)


def labels(*values: int) -> Array:
    return np.array(values)


WRONG: list[tuple[dict[str, Array], str]] = [
    (
        {"train_images": zeros(6, 8, 8, 3, dtype=np.float32)},
        (
            f"train_images {IMAGES} float32 [6, 8, 8, 3]; where values are in [0, 1], write "
            "(images * 255).round().astype(numpy.uint8)"
        ),
    ),
    (
        {"test_images": zeros(4, 3, 8, 8)},
        f"test_images {IMAGES} uint8 [4, 3, 8, 8]; write images.transpose(0, 2, 3, 1)",
    ),
    ({"train_images": zeros(6, 8, 9)}, f"{IMAGES} uint8 [6, 8, 9]"),
    ({"train_labels": labels(0, 0, 0, 0, 0)}, f"train_labels {ONE_EACH} 6 images; got int64 [5]"),
    ({"train_labels": zeros(6, 1, dtype=int)}, "got int64 [6, 1]; write labels[:, 0]"),
    ({"test_labels": zeros(4, dtype=float)}, "got float64 [4]; write labels.astype(int)"),
    ({"test_images": zeros(4, 16, 16, 3)}, "train_images and test_images differ in shape"),
    ({"train_labels": labels(0, 1, 2, 0, 1, -1)}, f"{LABELS} -1 to 2"),
    (
        {"test_labels": labels(0, 1, 2, 3)},
        f"{LABELS} 0 to 3, and class 3 has test images and no training images",
    ),
    ({"train_labels": labels(*[0] * 6), "test_labels": labels(*[0] * 4)}, f"{LABELS} 0 to 0"),
    (
        {"train_labels": labels(0, 2, 0, 2, 0, 2)},
        f"{LABELS} 0 to 2, and class 1 has test images and no training images",
    ),
    (
        {"train_labels": labels(1, 2, 3, 1, 2, 1), "test_labels": labels(3, 2, 1, 1)},
        (
            f"{LABELS} 1 to 3, and class 0 has no training images; labels that start at 1 become "
            "so by labels - 1"
        ),
    ),
    (
        {"train_labels": labels(0, 1, 3, 0, 1, 3), "test_labels": labels(0, 1, 3, 3)},
        f"{LABELS} 0 to 3, and class 2 has no training images",
    ),
    (
        {"test_images": zeros(0, 8, 8, 3), "test_labels": zeros(0, dtype=int)},
        "test_images is empty",
    ),
    ({"train_labels": labels(0, 1, 2, 0, 1, 2**45)}, "labels "),  # no memory for so many classes
]


@pytest.mark.parametrize(("arrays", "message"), WRONG)
def test_wrong_content(
    write_arrays: Callable[..., Path], arrays: Mapping[str, Array], message: str
) -> None:
    found = refusal(write_arrays(**arrays))
    assert found.startswith(": ")
    assert message in found


def test_missing_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", train_images=zeros(6, 8, 8, 3), extra=np.zeros(1))
    assert refusal(tmp_path / "mine.npz") == (
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
    assert refusal(path) == f" {UNREADABLE} Object arrays cannot be loaded"
    path.write_bytes(pickle.dumps(Bomb(trace)))
    assert refusal(path).startswith(f" {UNREADABLE} ")
    assert not trace.exists()
    pickle.loads(path.read_bytes())
    assert trace.exists(), "the bomb was none"


def _single(path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    path.write_bytes(buffer.getvalue())


def _no_arrays(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in NEEDED:
            archive.writestr(f"{name}.npy", b"no array")


def _claims_too_much(path: Path) -> None:
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    with zipfile.ZipFile(path, "w") as out:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            shape = (2**45,) if name == "test_labels" else array.shape
            header = {"descr": array.dtype.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(buffer, header)
            out.writestr(f"{name}.npy", buffer.getvalue() + array.tobytes())


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-40]),
        lambda path: path.write_bytes(b""),
        *(_single, _no_arrays, _claims_too_much),
    ],
)
def test_files_that_are_no_archive_of_arrays(
    write_arrays: Callable[..., Path], damage: Callable[[Path], object]
) -> None:
    path = write_arrays()
    damage(path)
    assert refusal(path).startswith(f" {UNREADABLE} ")


@pytest.mark.parametrize("start", [60, 1000])
def test_a_damaged_stream(write_arrays: Callable[..., Path], start: int) -> None:
    path = write_arrays()
    data = bytearray(path.read_bytes())
    data[start : start + 60] = (byte ^ 0xFF for byte in data[start : start + 60])
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=UNREADABLE):  # a plan reads no images
        Arrays(arrays=str(path)).load()
