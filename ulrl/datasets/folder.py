"""A user's own images, from a folder of image files, a folder for each class."""

import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ulrl.datasets._base import DatasetError, DatasetInfo, ImageSet, register
from ulrl.datasets._own import OwnImages
from ulrl.datasets._pictures import DAMAGE

PARTS = ("train", "test")
ENDINGS = (".png", ".jpg", ".jpeg")
GREY = ("1", "L")
MOST = 1024  # pixels of a side


@dataclass(frozen=True, kw_only=True)
class File:
    """An image file, as the folder lists it.

    Attributes:
        part: ``train`` or ``test``.
        label: Number of its class.
        path: Of the file.
        stamp: Time of its last change and its bytes.
    """

    part: str
    label: int
    path: str
    stamp: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What the files are, before pixels are decoded.

    Attributes:
        sizes: Width and height of images, each with a file that has it.
        grey: Whether no file has colours.
        sha256: Of the files' content, in their order.
    """

    sizes: dict[tuple[int, int], str]
    grey: bool
    sha256: str


@register("folder")
@dataclass(frozen=True, kw_only=True)
class ImageFolder(OwnImages):
    """Image files in ``train/CLASS/`` and ``test/CLASS/``, as torchvision's ImageFolder has them.

    Files end in ``.png``, ``.jpg`` or ``.jpeg``. Classes are numbered by their names as text, and
    their images ordered likewise. If all files are grey, images have one channel, else three.

    Attributes:
        folder: The folder; its files' content, not its place, is what results depend on.
        side: In pixels, to which images are resized bilinearly; by default the images' own,
            where all are square and alike.
    """

    folder: str = field(metadata={"runtime": True})
    side: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.side is not None and not 1 <= self.side <= MOST:
            raise ValueError(f"side is in pixels, from 1 to {MOST}; got {self.side}")

    @property
    def usual_label(self) -> str:
        return f"folder({Path(self.folder).name})"

    @property
    def place(self) -> str:
        return self.folder

    def info(self) -> DatasetInfo | None:
        # The list of the first call will do: a change is for `identity` to notice, and to list
        # many files for each scenario would take minutes.
        return self._facts(_listed(self.folder)) if Path(self.folder).is_dir() else None

    def identity(self) -> dict[str, Any]:
        return {"sha256": _survey(_files(self.folder)).sha256}

    def load(self) -> ImageSet:
        files = _files(self.folder)
        info = self._facts(files)
        tensors: dict[str, Tensor] = {}
        for part in PARTS:
            chosen = [file for file in files if file.part == part]
            pixels = np.stack([_pixels(file.path, info.channels, info.side) for file in chosen])
            tensors[f"{part}_images"] = torch.from_numpy(pixels)
            tensors[f"{part}_labels"] = torch.tensor([file.label for file in chosen])
        return ImageSet(**tensors, classes=info.classes)

    def _facts(self, files: tuple[File, ...]) -> DatasetInfo:
        survey = _survey(files)
        counts = Counter((file.part, file.label) for file in files)
        classes = range(1 + max(file.label for file in files))
        test_counts = tuple(counts["test", label] for label in classes)
        info = DatasetInfo(
            train_counts=tuple(counts["train", label] for label in classes),
            test_count=sum(test_counts),
            side=self.side or _common_side(self.folder, survey),
            channels=1 if survey.grey else 3,
            test_counts=test_counts,
        )
        return self.checked(info)


def _common_side(folder: str, survey: Survey) -> int:
    (width, height), *others = survey.sizes
    if others or width != height:
        text = " and ".join(
            f"{width} × {height} pixels ({Path(path).relative_to(folder)})"
            for (width, height), path in list(survey.sizes.items())[:2]
        )
        raise DatasetError(
            f"{folder}: images are square and alike; there are {text}; write side: 32"
        )
    if width > MOST:
        raise DatasetError(f"{folder}: images have {width} pixels a side; write side: 32")
    return width


@lru_cache(maxsize=8)
def _listed(folder: str) -> tuple[File, ...]:
    return _files(folder)


def _files(folder: str) -> tuple[File, ...]:
    """Return all image files, those of training first, by class and name.

    Raises:
        DatasetError: There is no such folder, or a class has no images.
    """
    place = Path(folder)
    if not place.is_dir():
        there = "is no folder" if place.exists() else "is not there"
        raise DatasetError(f"{folder} {there}; folder: names one with train/CLASS and test/CLASS")
    try:
        parts = _names(place)
        if missing := [part for part in PARTS if part not in parts]:
            raise DatasetError(
                f"{folder} lacks {' and '.join(missing)}; it has {', '.join(parts) or 'nothing'}"
            )
        classes = _names(place / "train")
        if len(classes) < 2:
            raise DatasetError(f"{folder}: train has a folder for each class; got {classes}")
        if unknown := [name for name in _names(place / "test") if name not in classes]:
            raise DatasetError(f"{folder}: test/{unknown[0]} is a class that train lacks")
        files = [
            File(part=part, label=label, path=entry.path, stamp=_stamp(entry))
            for part in PARTS
            for label, name in enumerate(classes)
            for entry in _images(place / part / name)
        ]
    except OSError as error:
        raise DatasetError(f"{folder} cannot be read: {error}") from error
    trained = {file.label for file in files if file.part == "train"}
    empty = [f"train/{name}" for label, name in enumerate(classes) if label not in trained]
    if all(file.part == "train" for file in files):
        empty.append("test")
    if empty:
        raise DatasetError(f"{folder}: {empty[0]} has no files that end in {', '.join(ENDINGS)}")
    return tuple(files)


def _names(folder: Path) -> list[str]:
    """Return the sorted names of the folders inside, hidden ones left out."""
    with os.scandir(folder) as entries:
        return sorted(one.name for one in entries if one.is_dir() and one.name[0] != ".")


def _images(folder: Path) -> Iterable["os.DirEntry[str]"]:
    if not folder.is_dir():  # a class without test images
        return []
    with os.scandir(folder) as entries:
        found = [one for one in entries if one.name.lower().endswith(ENDINGS)]
    return sorted((one for one in found if one.name[0] != "."), key=lambda one: one.name)


def _stamp(entry: "os.DirEntry[str]") -> tuple[int, int]:
    state = entry.stat()
    return state.st_mtime_ns, state.st_size


@lru_cache(maxsize=8)
def _survey(files: tuple[File, ...]) -> Survey:
    """Read all files and look at their headers."""
    sizes: dict[tuple[int, int], str] = {}
    modes = set()
    digest = hashlib.sha256()
    for file in files:
        content = _content(file.path)
        inner = hashlib.sha256(content).hexdigest()
        digest.update(f"{file.part} {file.label} {inner}\n".encode())
        try:
            with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
                sizes.setdefault(image.size, file.path)
                modes.add(image.mode)
                mode = image.mode
        except DAMAGE as error:
            raise DatasetError(f"{file.path} is no PNG or JPEG image{_reason(error)}") from error
        if mode[0] in "IF":
            raise DatasetError(f"{file.path} has more than 8 bits per channel; save it with 8")
    return Survey(sizes=sizes, grey=modes <= {*GREY}, sha256=digest.hexdigest())


def _reason(error: Exception) -> str:
    """Return what is wrong, where Pillow's text says more than the object that it read."""
    return "" if isinstance(error, UnidentifiedImageError) else f": {error}"


def _content(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error


def _pixels(path: str, channels: int, side: int) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    try:
        with Image.open(io.BytesIO(_content(path)), formats=("PNG", "JPEG")) as image:
            picture = image.convert("L" if channels == 1 else "RGB")
    except DAMAGE as error:
        raise DatasetError(f"{path} cannot be decoded{_reason(error)}") from error
    if picture.size != (side, side):
        picture = picture.resize((side, side), Image.Resampling.BILINEAR)
    levels = np.asarray(picture)
    return levels[None] if channels == 1 else levels.transpose(2, 0, 1)
