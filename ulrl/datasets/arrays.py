"""A user's own images, from one ``.npz`` file."""

import hashlib
import zipfile
import zlib
from dataclasses import dataclass, field
from functools import lru_cache
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib.npyio import NpzFile

from ulrl.datasets._base import Dataset, DatasetError, Facts, ImageSet, Treatment, register

Arrays_ = dict[str, npt.NDArray[Any]]
UNREADABLE = "cannot be read as an .npz of plain arrays"
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, MemoryError, NotImplementedError, RuntimeError)
NEEDED = ("train_images", "train_labels", "test_images", "test_labels")


@register("arrays")
@dataclass(frozen=True, kw_only=True)
class Arrays(Dataset):
    """Square uint8 images ``[N, H, W, C]`` and integer labels ``[N]`` under four names.

    The names are ``train_images``, ``train_labels``, ``test_images``, ``test_labels``.
    The classes are 0 to the largest training label. Nothing in the file is unpickled.

    Attributes:
        arrays: The file; its content, not its place, is what results depend on.
        mean: Subtracted per channel, for pixels in [0, 1]; one number serves all.
        std: Divisor per channel, for pixels in [0, 1]; one number serves all.
        flip: Whether a mirrored image still shows its class.
        padding: Border of the random crop in pixels; by default an eighth of the side.
    """

    arrays: str = field(metadata={"runtime": True})
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    flip: bool = False
    padding: int | None = None

    def __post_init__(self) -> None:
        for option, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, 3):
                raise ValueError(f"{option} has one number or one per channel; got {len(values)}")
            if not all(isfinite(value) for value in values):
                raise ValueError(f"{option} is in finite numbers; got {list(values)}")
        if min(self.std) <= 0:
            raise ValueError(f"std is a divisor, so above 0; got {min(self.std)}")
        if self.padding is not None and self.padding < 0:
            raise ValueError(f"padding is in pixels, at least 0; got {self.padding}")

    @property
    def label(self) -> str:
        return f"arrays({Path(self.arrays).name})"

    @property
    def treatment(self) -> Treatment:
        facts = self.facts()
        side, channels = (facts.side, facts.channels) if facts else (32, 3)
        mean, std = (v * channels if len(v) == 1 else v for v in (self.mean, self.std))
        padding = side // 8 if self.padding is None else self.padding
        return Treatment(mean=mean, std=std, padding=padding, flip=self.flip)

    def facts(self) -> Facts | None:
        if not Path(self.arrays).is_file():
            return None
        shapes, counts = _survey(self.arrays, _stamp(self.arrays))
        _, side, _, channels = shapes["train_images"]
        self._check_channels(channels)
        return Facts(
            train_counts=counts,
            test_count=shapes["test_images"][0],
            side=side,
            channels=channels,
        )

    def identity(self) -> dict[str, Any]:
        if not Path(self.arrays).is_file():
            raise DatasetError(f"{self.arrays} is not there; arrays: names an .npz file")
        return {"sha256": _digest(self.arrays, _stamp(self.arrays))}

    def load(self) -> ImageSet:
        content = _read(self.arrays, NEEDED)
        shapes = _shapes_of(self.arrays, content)
        self._check_channels(shapes["train_images"][3])
        counts = _class_counts(self.arrays, content)
        return ImageSet(
            train_images=_pixels(content["train_images"]),
            train_labels=torch.from_numpy(content["train_labels"].astype(np.int64)),
            test_images=_pixels(content["test_images"]),
            test_labels=torch.from_numpy(content["test_labels"].astype(np.int64)),
            classes=len(counts),
        )

    def _check_channels(self, channels: int) -> None:
        for option, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise DatasetError(
                    f"{self.arrays}: {option} has {len(values)} numbers, and the images have "
                    f"{channels} channel"
                )


def _stamp(path: str) -> tuple[int, int]:
    """Tell two states of a file apart, so that a cached answer is never a stale one."""
    state = Path(path).stat()
    return state.st_mtime_ns, state.st_size


@lru_cache(maxsize=64)
def _digest(path: str, stamp: tuple[int, int]) -> str:
    del stamp
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=64)
def _survey(
    path: str, stamp: tuple[int, int]
) -> tuple[dict[str, tuple[int, ...]], tuple[int, ...]]:
    del stamp
    content = _read(path, NEEDED)
    return _shapes_of(path, content), _class_counts(path, content)


def _read(path: str, names: tuple[str, ...]) -> Arrays_:
    try:
        # Opened here, since numpy leaves a file open that it opens itself and cannot read.
        with Path(path).open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, NpzFile):
                raise DatasetError(f"{path} {UNREADABLE}: it is a single array")
            missing = [name for name in names if name not in archive.files]
            if missing:
                raise DatasetError(f"{path} lacks {', '.join(missing)}; it has {archive.files}")
            content = {name: archive[name] for name in names}
    except (*DAMAGE, OSError, ValueError) as error:
        raise DatasetError(f"{path} {UNREADABLE}: {error}") from error
    for name, array in content.items():
        if not isinstance(array, np.ndarray):  # numpy hands out what is no array as bytes
            raise DatasetError(f"{path} {UNREADABLE}: {name} is none")
    return content


def _shapes_of(path: str, content: Arrays_) -> dict[str, tuple[int, ...]]:
    for part in ("train", "test"):
        images, labels = content[f"{part}_images"], content[f"{part}_labels"]
        square = images.ndim == 4 and images.shape[1] == images.shape[2] > 0
        if not square or images.shape[3] not in (1, 3) or images.dtype != np.uint8:
            raise DatasetError(
                f"{path}: {part}_images is uint8 [N, H, W, C] with H = W and C 1 or 3; "
                f"got {images.dtype} {list(images.shape)}"
            )
        if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
            raise DatasetError(
                f"{path}: {part}_labels is one integer for each of {len(images)} images; "
                f"got {labels.dtype} {list(labels.shape)}"
            )
        if len(labels) == 0:
            raise DatasetError(f"{path}: {part}_images is empty")
    if content["train_images"].shape[1:] != content["test_images"].shape[1:]:
        raise DatasetError(f"{path}: train_images and test_images differ in shape")
    return {name: tuple(array.shape) for name, array in content.items()}


def _class_counts(path: str, content: Arrays_) -> tuple[int, ...]:
    train, test = content["train_labels"], content["test_labels"]
    classes = int(train.max()) + 1
    sound = 2 <= classes <= len(train) and min(train.min(), test.min()) >= 0
    if not sound or not np.isin(test, train).all():
        raise DatasetError(
            f"{path}: labels are 0 to K-1 with K >= 2, and test labels occur in training; got "
            f"{train.min()} to {train.max()} in training, {test.min()} to {test.max()} in test"
        )
    return tuple(int(count) for count in np.bincount(train.astype(np.int64), minlength=classes))


def _pixels(images: npt.NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
