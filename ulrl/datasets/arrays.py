"""A user's own images, from one ``.npz`` file."""

import hashlib
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import torch

from ulrl.datasets._base import DatasetError, DatasetInfo, ImageSet, register
from ulrl.datasets._own import OwnImages, class_counts

Arrays_ = dict[str, npt.NDArray[Any]]
_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
UNREADABLE = "cannot be read as an .npz of plain arrays"
DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, EOFError, MemoryError, NotImplementedError, RuntimeError),
    TokenError,  # NumPy parses headers as Python
)
NEEDED = ("train_images", "train_labels", "test_images", "test_labels")


@dataclass(frozen=True, kw_only=True)
class Header:
    """What an array is, before it is read."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


@register("arrays")
@dataclass(frozen=True, kw_only=True)
class Arrays(OwnImages):
    """Square uint8 images ``[N, H, W, C]`` and integer labels ``[N]`` under four names.

    The names are ``train_images``, ``train_labels``, ``test_images``, ``test_labels``. Grey
    images may be ``[N, H, W]``. The classes are 0 to the largest training label. Nothing in the
    file is unpickled.

    Attributes:
        arrays: The file; its content, not its place, is what results depend on.
    """

    arrays: str = field(metadata={"runtime": True})

    @property
    def usual_label(self) -> str:
        return f"arrays({Path(self.arrays).name})"

    @property
    def place(self) -> str:
        return self.arrays

    def info(self) -> DatasetInfo | None:
        return self._facts() if Path(self.arrays).is_file() else None

    def identity(self) -> dict[str, Any]:
        self._check_file()
        return {"sha256": _digest(self.arrays, _stamp(self.arrays))}

    def load(self) -> ImageSet:
        self._check_file()
        info = self._facts()
        content = _read(self.arrays, NEEDED)
        return ImageSet(
            train_images=_pixels(content["train_images"]),
            train_labels=torch.from_numpy(content["train_labels"].astype(np.int64)),
            test_images=_pixels(content["test_images"]),
            test_labels=torch.from_numpy(content["test_labels"].astype(np.int64)),
            classes=info.classes,
        )

    def _facts(self) -> DatasetInfo:
        shapes, train_counts, test_counts = _survey(self.arrays, _stamp(self.arrays))
        _, side, _, channels = shapes["train_images"]
        info = DatasetInfo(
            train_counts=train_counts,
            test_count=shapes["test_images"][0],
            side=side,
            channels=channels,
            test_counts=test_counts,
        )
        return self.checked(info)

    def _check_file(self) -> None:
        path = Path(self.arrays)
        if not path.is_file():
            there = "is no file" if path.exists() else "is not there"
            raise DatasetError(f"{path} {there}; arrays: names an .npz file")


def _stamp(path: str) -> tuple[int, int]:
    """Tell two states of a file apart, so that a cached answer is never a stale one."""
    state = Path(path).stat()
    return state.st_mtime_ns, state.st_size


@lru_cache(maxsize=64)
def _digest(path: str, stamp: tuple[int, int]) -> str:
    del stamp
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


Shapes = dict[str, tuple[int, ...]]


@lru_cache(maxsize=64)
def _survey(path: str, stamp: tuple[int, int]) -> tuple[Shapes, tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of all arrays, and the training and test images of each class.

    Images are not read: a file of a few megabytes can hold more of them than there is memory.
    """
    del stamp
    headers = _headers(path)
    shapes = _shapes_of(path, headers)
    labels = _read(path, ("train_labels", "test_labels"))
    return (shapes, *class_counts(path, labels["train_labels"], labels["test_labels"]))


def _headers(path: str) -> dict[str, Header]:
    """Return shape and type of each array without reading it.

    Raises:
        DatasetError: An array is missing, or a header promises other data than there is.
    """
    headers: dict[str, Header] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            there = [name.removesuffix(".npy") for name in archive.namelist()]
            missing = [name for name in NEEDED if name not in there]
            if missing:
                raise DatasetError(f"{path} lacks {', '.join(missing)}; it has {there}")
            for name in NEEDED:
                member = archive.getinfo(f"{name}.npy")
                with archive.open(member) as file:
                    headers[name] = read_header(file, member.file_size)
    except (*DAMAGE, OSError, KeyError, ValueError) as error:
        raise DatasetError(f"{path} {UNREADABLE}: {error}") from error
    return headers


def read_header(file: IO[bytes], size: int) -> Header:
    """Return what an ``.npy`` of `size` bytes says that it holds.

    Raises:
        ValueError: It is no plain array, or of another size than it says.
    """
    version = np.lib.format.read_magic(file)
    if version not in _READERS:
        raise ValueError(f"version {version} of the format is not one of plain arrays")
    shape, _, dtype = _READERS[version](file)
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded")
    if file.tell() + prod(shape) * dtype.itemsize != size:
        raise ValueError("an array is of another size than its header says")
    return Header(shape=shape, dtype=dtype)


def _read(path: str, names: tuple[str, ...]) -> Arrays_:
    try:
        # Opened here, since numpy leaves a file open that it opens itself and cannot read.
        with Path(path).open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            return {name: archive[name] for name in names}
    except (*DAMAGE, OSError, ValueError) as error:
        raise DatasetError(f"{path} {UNREADABLE}: {error}") from error


def _shapes_of(path: str, headers: Mapping[str, Header]) -> Shapes:
    for part in ("train", "test"):
        images, labels = headers[f"{part}_images"], headers[f"{part}_labels"]
        if not _is_right(images):
            raise DatasetError(
                f"{path}: {part}_images is uint8 [N, H, W] or [N, H, W, C] with H = W and C 1 or "
                f"3; got {images.dtype} {list(images.shape)}{_image_remedy(images)}"
            )
        if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
            raise DatasetError(
                f"{path}: {part}_labels is one integer for each of {images.shape[0]} images; "
                f"got {labels.dtype} {list(labels.shape)}{_label_remedy(images, labels)}"
            )
        if images.shape[0] == 0:
            raise DatasetError(f"{path}: {part}_images is empty")
    shapes = {name: header.shape for name, header in headers.items()}
    for part in ("train_images", "test_images"):
        shapes[part] = _with_channels(shapes[part])
    if shapes["train_images"][1:] != shapes["test_images"][1:]:
        raise DatasetError(f"{path}: train_images and test_images differ in shape")
    return shapes


def _with_channels(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of images with their channels, of which grey ones may say nothing."""
    return (*shape, 1) if len(shape) == 3 else shape


def _is_right(images: Header) -> bool:
    shape = _with_channels(images.shape)
    square = len(shape) == 4 and shape[1] == shape[2] > 0 and shape[3] in (1, 3)
    return square and images.dtype == np.uint8


def _image_remedy(images: Header) -> str:
    """Return the line of NumPy that makes images of a usual other form right, if there is one."""
    shape = images.shape
    if images.dtype.kind == "f":
        return "; where values are in [0, 1], write (images * 255).round().astype(numpy.uint8)"
    if len(shape) == 4 and shape[1] in (1, 3) and shape[2] == shape[3]:
        return "; write images.transpose(0, 2, 3, 1)"
    return ""


def _label_remedy(images: Header, labels: Header) -> str:
    if labels.shape == (images.shape[0], 1):
        return "; write labels[:, 0]"
    whole = labels.shape == images.shape[:1] and labels.dtype.kind == "f"
    return "; write labels.astype(int)" if whole else ""


def _pixels(images: npt.NDArray[Any]) -> torch.Tensor:
    shaped = images.reshape(_with_channels(images.shape))
    return torch.from_numpy(shaped).permute(0, 3, 1, 2).contiguous()
