"""A user's own file: a good one, and every kind of broken one."""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from ulrl.datasets import DatasetError, Facts
from ulrl.datasets.arrays import Arrays

Content = dict[str, npt.NDArray[Any]]


def content(**changes: npt.NDArray[Any]) -> Content:
    source = np.random.default_rng(0)
    return {
        "train_images": source.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8),
        "train_labels": np.array([0, 1, 2, 0, 1, 0]),
        "test_images": source.integers(0, 256, (4, 8, 8, 3), dtype=np.uint8),
        "test_labels": np.array([2, 1, 0, 0]),
    } | changes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mine.npz"


def refusal(path: Path) -> str:
    """The one message of both ways in."""
    with pytest.raises(DatasetError) as by_facts:
        Arrays(arrays=str(path)).facts()
    with pytest.raises(DatasetError) as by_load:
        Arrays(arrays=str(path)).load()
    assert str(by_facts.value) == str(by_load.value)
    return str(by_load.value)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, ">i4"])
def test_a_good_file(path: Path, dtype: npt.DTypeLike) -> None:
    arrays = content()
    arrays["train_labels"] = arrays["train_labels"].astype(dtype)
    np.savez(path, **arrays)
    dataset = Arrays(arrays=str(path))
    assert dataset.facts() == Facts(train_counts=(3, 2, 1), test_count=4, side=8, channels=3)
    images = dataset.load()
    assert images.classes == 3
    assert images.train_images.shape == (6, 3, 8, 8)
    assert images.train_images.dtype == torch.uint8
    assert images.train_labels.dtype == images.test_labels.dtype == torch.int64
    assert images.train_labels.tolist() == [0, 1, 2, 0, 1, 0]
    assert (images.test_images.permute(0, 2, 3, 1).numpy() == arrays["test_images"]).all()
    assert dataset.treatment.padding == 1
    assert dataset.treatment.mean == (0.0, 0.0, 0.0)


def test_grey_images_and_compression(path: Path) -> None:
    grey = {
        name: array[..., :1] if "images" in name else array for name, array in content().items()
    }
    np.savez_compressed(path, **grey)
    dataset = Arrays(arrays=str(path), mean=(0.3,), std=(0.2,), padding=3, flip=True)
    assert dataset.load().train_images.shape == (6, 1, 8, 8)
    treatment = dataset.treatment
    assert (treatment.mean, treatment.std) == ((0.3,), (0.2,))
    assert (treatment.padding, treatment.flip) == (3, True)


def test_further_arrays_are_nobodys_business(path: Path) -> None:
    np.savez(path, **content(), notes=np.array([1.5]))
    assert len(Arrays(arrays=str(path)).load().train_labels) == 6


def test_identity_is_the_content_not_the_place(path: Path, tmp_path: Path) -> None:
    np.savez(path, **content())
    other = tmp_path / "copy.npz"
    other.write_bytes(path.read_bytes())
    mine, copy = Arrays(arrays=str(path)), Arrays(arrays=str(other))
    assert mine.identity() == copy.identity()
    assert (mine.label, copy.label) == ("arrays(mine.npz)", "arrays(copy.npz)")
    np.savez(other, **content(train_labels=np.array([0, 1, 2, 0, 1, 1])))
    assert mine.identity() != copy.identity()
    assert copy.facts() == Facts(train_counts=(2, 3, 1), test_count=4, side=8)


def test_an_absent_file(path: Path) -> None:
    dataset = Arrays(arrays=str(path))
    assert dataset.facts() is None
    with pytest.raises(DatasetError) as error:
        dataset.identity()
    assert str(error.value) == f"{path} is not there; arrays: names an .npz file"
    with pytest.raises(DatasetError) as error:
        dataset.load()
    assert str(error.value) == (
        f"{path} cannot be read as an .npz of plain arrays: [Errno 2] No such file or "
        f"directory: '{path}'"
    )


IMAGES = "is uint8 [N, H, W, C] with H = W and C 1 or 3; got"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"train_images": np.zeros((6, 8, 8, 3), np.float32)},
            f"train_images {IMAGES} float32 [6, 8, 8, 3]",
        ),
        (
            {"test_images": np.zeros((4, 3, 8, 8), np.uint8)},
            f"test_images {IMAGES} uint8 [4, 3, 8, 8]",
        ),
        (
            {"train_images": np.zeros((6, 8, 8), np.uint8)},
            f"train_images {IMAGES} uint8 [6, 8, 8]",
        ),
        (
            {"train_images": np.zeros((6, 8, 8, 2), np.uint8)},
            f"train_images {IMAGES} uint8 [6, 8, 8, 2]",
        ),
        (
            {"train_labels": np.zeros(5, np.int64)},
            "train_labels is one integer for each of 6 images; got int64 [5]",
        ),
        (
            {"train_labels": np.zeros((6, 1), np.int64)},
            "train_labels is one integer for each of 6 images; got int64 [6, 1]",
        ),
        (
            {"test_labels": np.zeros(4)},
            "test_labels is one integer for each of 4 images; got float64 [4]",
        ),
        (
            {"test_labels": np.zeros(4, np.bool_)},
            "test_labels is one integer for each of 4 images; got bool [4]",
        ),
        (
            {
                "test_images": np.zeros((0, 8, 8, 3), np.uint8),
                "test_labels": np.zeros(0, np.int64),
            },
            "test_images is empty",
        ),
        (
            {"test_images": np.zeros((4, 16, 16, 3), np.uint8)},
            "train_images and test_images differ in shape",
        ),
        (
            {"train_labels": np.array([0, 1, 2, 0, 1, -1])},
            "labels are 0 to K-1 with K >= 2, and test labels occur in training; got -1 to 2 "
            "in training, 0 to 2 in test",
        ),
        (
            {"test_labels": np.array([0, 1, 2, 3])},
            "labels are 0 to K-1 with K >= 2, and test labels occur in training; got 0 to 2 "
            "in training, 0 to 3 in test",
        ),
        (
            {"test_labels": np.array([0, 1, 2, -3])},
            "labels are 0 to K-1 with K >= 2, and test labels occur in training; got 0 to 2 "
            "in training, -3 to 2 in test",
        ),
        (
            {"train_labels": np.zeros(6, np.int64), "test_labels": np.zeros(4, np.int64)},
            "labels are 0 to K-1 with K >= 2, and test labels occur in training; got 0 to 0 "
            "in training, 0 to 0 in test",
        ),
    ],
)
def test_wrong_content(path: Path, changes: Content, message: str) -> None:
    np.savez(path, **content(**changes))
    assert refusal(path) == f"{path}: {message}"


def test_missing_arrays(path: Path) -> None:
    np.savez(path, train_images=content()["train_images"], extra=np.zeros(1))
    assert refusal(path) == (
        f"{path} lacks train_labels, test_images, test_labels; it has ['train_images', 'extra']"
    )


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.trace,)


def test_pickled_objects_are_refused_and_not_executed(path: Path, tmp_path: Path) -> None:
    trace = tmp_path / "exploded"
    labels = np.array([Bomb(trace)] * 6, dtype=object)
    np.savez(path, allow_pickle=True, **content(train_labels=labels))
    assert refusal(path) == (
        f"{path} cannot be read as an .npz of plain arrays: Object arrays cannot be loaded "
        f"when allow_pickle=False"
    )
    path.write_bytes(pickle.dumps(Bomb(trace)))
    assert refusal(path).startswith(f"{path} cannot be read as an .npz of plain arrays: ")
    assert not trace.exists()


def test_a_truncated_file(path: Path) -> None:
    np.savez(path, **content())
    path.write_bytes(path.read_bytes()[:-40])
    assert refusal(path) == (
        f"{path} cannot be read as an .npz of plain arrays: File is not a zip file"
    )


def test_an_empty_file(path: Path) -> None:
    path.touch()
    assert refusal(path) == (
        f"{path} cannot be read as an .npz of plain arrays: No data left in file"
    )


def single_array(path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    path.write_bytes(buffer.getvalue())


def bytes_for_arrays(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in content():
            archive.writestr(f"{name}.npy", b"no array")


def damaged_stream(path: Path) -> None:
    np.savez_compressed(path, **content())
    data = bytearray(path.read_bytes())
    for place in range(60, 120):
        data[place] ^= 0xFF
    path.write_bytes(data)


def folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("damage", [single_array, bytes_for_arrays, damaged_stream])
def test_other_damage_is_a_dataset_error_too(path: Path, damage: Any) -> None:
    damage(path)
    assert refusal(path).startswith(f"{path} cannot be read as an .npz of plain arrays: ")


def test_a_stray_label_does_not_ask_for_the_whole_memory(path: Path) -> None:
    np.savez(path, **content(train_labels=np.array([0, 1, 2, 0, 1, 2**45])))
    assert refusal(path).startswith(f"{path}: ")


def test_images_without_pixels(path: Path) -> None:
    empty = {part: np.zeros((count, 0, 0, 3), np.uint8) for part, count in (("a", 6), ("b", 4))}
    np.savez(path, **content(train_images=empty["a"], test_images=empty["b"]))
    assert refusal(path).startswith(f"{path}: ")


def test_one_mean_per_channel_of_the_images(path: Path) -> None:
    """Three means would silently make three channels of a grey image."""
    grey = {
        name: array[..., :1] if "images" in name else array for name, array in content().items()
    }
    np.savez(path, **grey)
    with pytest.raises(DatasetError):
        Arrays(arrays=str(path), mean=(0.1, 0.2, 0.3)).load()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": (0.1, 0.2)}, "mean has one number or one per channel; got 2"),
        ({"std": ()}, "std has one number or one per channel; got 0"),
        ({"std": (1.0, 0.0, 1.0)}, "std is a divisor, so above 0; got 0.0"),
        ({"padding": -1}, "padding is in pixels, at least 0; got -1"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=next(iter(options))) as error:
        Arrays(arrays="mine.npz", **options)
    assert str(error.value) == message


@pytest.mark.parametrize("option", ["mean", "std"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_normalisation_is_finite(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=option):
        Arrays(arrays="mine.npz", **{option: (0.5, value, 0.5)})  # type: ignore[arg-type]
