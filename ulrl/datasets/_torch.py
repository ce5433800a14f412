"""Datasets of torch's kind, pictures with classes, under a name."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, make_dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ulrl.datasets._base import DatasetError, DatasetInfo, ImageSet, register
from ulrl.datasets._own import OwnImages, class_counts
from ulrl.randomness import generator, seeded_default_rng
from ulrl.registry import label_of

Make = Callable[[bool], Any]


@dataclass(frozen=True, kw_only=True)
class TorchImages(OwnImages):
    """What `from_torch` makes of a function; the pixels and labels are the identity."""

    make: ClassVar[Make]

    @property
    def usual_label(self) -> str:
        return label_of(self)

    @property
    def place(self) -> str:
        return self.name

    def info(self) -> DatasetInfo:
        return self.checked(_survey(type(self))[0])

    def identity(self) -> dict[str, Any]:
        return {"sha256": _survey(type(self))[1]}

    def load(self) -> ImageSet:
        self.info()
        return _images(type(self))


def from_torch(
    name: str,
    *,
    mean: tuple[float, ...] = (0.0,),
    std: tuple[float, ...] = (1.0,),
    flip: bool = False,
    padding: int | None = None,
) -> Callable[[Make], type[TorchImages]]:
    """Return the decorator that registers a function as the dataset `name`.

    The function takes True for the training part and False for the test part, and returns what
    has a length and at each index a square picture and its class: an image of PIL or a uint8
    tensor ``[C, H, W]`` or ``[H, W]``, and a whole number from 0. All pictures are read, once
    in each process, with torch's default generator in a fixed state. A study file may change
    what the arguments say.

    Args:
        name: In study files.
        mean: Subtracted per channel, for pixels in [0, 1]; one number serves all.
        std: Divisor per channel, for pixels in [0, 1]; one number serves all.
        flip: Whether a mirrored image still shows its class.
        padding: Border of the random crop in pixels; by default an eighth of the side.
    """

    def add(make: Make) -> type[TorchImages]:
        options = [
            ("mean", tuple[float, ...], tuple(mean)),
            ("std", tuple[float, ...], tuple(std)),
            ("flip", bool, flip),
            ("padding", int | None, padding),
        ]
        made: type[TorchImages] = make_dataclass(
            make.__name__,
            options,
            bases=(TorchImages,),
            namespace={"make": staticmethod(make), "__doc__": make.__doc__ or name},
            frozen=True,
            kw_only=True,
        )
        # It takes the function's place in its module, where pickle finds it.
        made.__module__, made.__qualname__ = make.__module__, make.__qualname__
        return register(name)(made)

    return add


@lru_cache(maxsize=64)
def _survey(kind: type[TorchImages]) -> tuple[DatasetInfo, str]:
    """Return a dataset's facts and the digest of its content."""
    images = _images(kind)
    labels = images.train_labels.numpy(), images.test_labels.numpy()
    train_counts, test_counts = class_counts(kind.name, *labels)
    _, channels, side, _ = images.train_images.shape
    info = DatasetInfo(
        train_counts=train_counts,
        test_count=len(images.test_images),
        side=side,
        channels=channels,
        test_counts=test_counts,
    )
    digest = hashlib.sha256(f"{channels} {side} {len(labels[0])} {len(labels[1])}\n".encode())
    for tensor in (images.train_images, images.test_images, *map(torch.from_numpy, labels)):
        digest.update(tensor.numpy().data)
    return info, digest.hexdigest()


@lru_cache(maxsize=1)  # images take memory
def _images(kind: type[TorchImages]) -> ImageSet:
    with seeded_default_rng(generator(0, "dataset", kind.name)):
        (train, train_labels), (test, test_labels) = (
            _read(kind, part) for part in ("train", "test")
        )
    if train.shape[1:] != test.shape[1:]:
        raise DatasetError(
            f"{kind.name}: training images are {list(train.shape[1:])} and test images "
            f"{list(test.shape[1:])}"
        )
    return ImageSet(
        train_images=train,
        train_labels=train_labels,
        test_images=test,
        test_labels=test_labels,
        classes=int(train_labels.max()) + 1,
    )


def _read(kind: type[TorchImages], part: str) -> tuple[Tensor, Tensor]:
    """Return all images and labels of one part.

    Raises:
        DatasetError: The user's code fails, or returns something else.
    """
    images, labels = [], []
    try:
        source = kind.make(part == "train")
        for index in range(len(source)):
            image, label = source[index]
            images.append(_pixels(image, f"{kind.name}: image {index} of {part}"))
            labels.append(int(label))
    except DatasetError:
        raise
    except Exception as error:
        text = f"{kind.name}: the {part} part raises {type(error).__name__}: {error}"
        raise DatasetError(text) from error
    if not images:
        raise DatasetError(f"{kind.name}: there are no images in the {part} part")
    for index, image in enumerate(images):
        channels, height, width = image.shape
        if height != width or image.shape != images[0].shape:
            side = min(images[0].shape[1:])
            raise DatasetError(
                f"{kind.name}: image {index} of {part} has {channels} channels and {height} × "
                f"{width} pixels; all are square and alike: let your dataset do "
                f'image.convert("RGB").resize(({side}, {side})) first'
            )
    return torch.stack(images), torch.tensor(labels)


def _pixels(image: Any, place: str) -> Tensor:
    """Return an image as ``[C, H, W]``."""
    if isinstance(image, Image.Image):
        grey = image.mode in ("1", "L")
        levels = torch.from_numpy(np.array(image.convert("L" if grey else "RGB")))
        return levels[None] if grey else levels.permute(2, 0, 1)
    if isinstance(image, Tensor) and image.dtype == torch.uint8:
        pixels = image[None] if image.dim() == 2 else image
        if pixels.dim() == 3 and len(pixels) in (1, 3):
            return pixels
    got = type(image).__name__
    if isinstance(image, Tensor):
        got = f"{image.dtype} {list(image.shape)}".removeprefix("torch.")
    raise DatasetError(
        f"{place} is an image of PIL, or a uint8 tensor [C, H, W] with C 1 or 3; got {got}; leave "
        "out transforms like ToTensor and Normalize, which are done later"
    )
