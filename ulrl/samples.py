"""Clean samples as a PyTorch user has them: tensors, arrays, datasets, data loaders."""

from collections.abc import Iterator
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int64, Integer, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ulrl.datasets import Preprocessing
from ulrl.fitting import Samples
from ulrl.randomness import generator, seeded_layer_rng

Images: TypeAlias = UInt8[Tensor, "n c h w"] | Float[Tensor, "n c h w"] | npt.NDArray[Any]
Labels: TypeAlias = Integer[Tensor, " n"] | npt.NDArray[Any]
Source: TypeAlias = DataLoader[Any] | Dataset[Any]


def as_samples(
    images: Images | Source, labels: Labels | None, preprocessing: Preprocessing, seed: int
) -> Samples:
    """Return clean samples as the training loop takes them.

    Args:
        images: Images, or a source of images and labels, which is read once, in its order.
        labels: One per image; None where `images` is a source.
        preprocessing: Its number of channels is the images'.
        seed: Of torch's draws while a source is read (shuffling, random transforms).

    Raises:
        ValueError: Images or labels are of another kind or shape, or a source has no length,
            gives more than its length, or something else than pairs.
    """
    if isinstance(images, DataLoader | Dataset):
        if labels is not None:
            raise ValueError(
                f"labels come from the {_kind(images)}, with its images; give None; "
                f"got {type(labels).__name__}"
            )
        with seeded_layer_rng(generator(seed, "samples"), torch.device("cpu")):
            images, labels = _read(images, preprocessing)
    elif labels is None:
        raise ValueError(
            "labels are needed, one for each image; only a Dataset or a DataLoader brings its own"
        )
    found = as_images(images, preprocessing)
    if len(found) < 2:
        raise ValueError(f"clean samples are at least 2; got {len(found)}")
    return Samples(images=found, labels=_as_labels(labels, len(found)))


def as_images(images: Images, preprocessing: Preprocessing) -> UInt8[Tensor, "n c h w"]:
    """Return images before normalisation as bytes on the CPU.

    Raises:
        ValueError: They are of another kind or shape.
    """
    channels = len(preprocessing.mean)
    try:
        values = images if isinstance(images, Tensor) else torch.from_numpy(np.array(images))
    except (TypeError, ValueError):
        raise ValueError(
            f"images are a tensor or an array of numbers; got a {type(images).__name__} that is not"
        ) from None
    if values.ndim != 4 or values.shape[1] != channels or not len(values):
        last = values.ndim == 4 and values.shape[3] == channels
        raise ValueError(
            f"images are [n, {channels}, h, w], with as many channels as preprocessing.mean has "
            f"numbers; got {list(values.shape)}"
            + ("; permute(0, 3, 1, 2) puts the channels second" if last else "")
        )
    if values.is_floating_point():
        low, high = float(values.min()), float(values.max())
        if not 0 <= low <= high <= 1:
            raise ValueError(
                f"images of floats are in [0, 1], before normalisation; got {low:.4g} to {high:.4g}"
            )
        values = (values.float() * 255).round().to(torch.uint8)
    if values.dtype != torch.uint8:
        raise ValueError(f"images are uint8, or floats in [0, 1]; got {values.dtype}")
    return values.detach().cpu()


def _as_labels(labels: Labels, count: int) -> Int64[Tensor, " n"]:
    try:
        values = labels if isinstance(labels, Tensor) else torch.as_tensor(np.asarray(labels))
    except (TypeError, ValueError, RuntimeError, OverflowError):
        kind = type(labels).__name__
        raise ValueError(
            f"labels are integers, one for each of the {count} images; got a {kind} that is no "
            f"array of numbers"
        ) from None
    whole = not (values.is_floating_point() or values.is_complex() or values.dtype is torch.bool)
    if not whole or values.shape != (count,):
        raise ValueError(
            f"labels are integers, one for each of the {count} images; got {values.dtype} "
            f"{list(values.shape)}"
        )
    return values.detach().cpu().long()


def _read(source: Source, preprocessing: Preprocessing) -> tuple[Tensor, Tensor]:
    """Return all that a source holds."""
    kind = _kind(source)
    try:
        length = len(source)  # type: ignore[arg-type]  # a dataset need not have one
    except (TypeError, NotImplementedError):
        raise ValueError(
            f"a {kind} needs a length, or it might never end; this {type(source).__name__} has "
            f"none: read as many images and labels as you want, and give them as tensors"
        ) from None
    images: list[Tensor] = []
    labels: list[Tensor] = []
    for number, item in enumerate(islice(_items(source, length), length + 1)):
        if number == length:
            raise ValueError(f"the {kind} gives more than the {length} items of its length")
        try:
            pair = _as_pair(item, preprocessing)
        except ValueError as error:
            raise ValueError(f"item {number} of the {kind}: {error}") from None
        if images and pair[0].shape[1:] != images[0].shape[1:]:
            raise ValueError(
                f"item {number} of the {kind}: images are of one size; got "
                f"{list(pair[0].shape[1:])} after {list(images[0].shape[1:])}"
            )
        images.append(pair[0])
        labels.append(pair[1])
    if not images:
        raise ValueError(f"the {kind} is empty")
    return torch.cat(images), torch.cat(labels)


def _items(source: Source, length: int) -> Iterator[Any]:
    if isinstance(source, DataLoader | IterableDataset):
        return iter(source)
    return (source[place] for place in range(length))


def _as_pair(item: Any, preprocessing: Preprocessing) -> tuple[Tensor, Tensor]:
    """Return one item, an image or a batch of them, as a batch of bytes, with its labels."""
    if not isinstance(item, tuple | list) or len(item) != 2:
        got = f"a {type(item).__name__}"
        if isinstance(item, tuple | list):
            got += f" of {len(item)}"
        raise ValueError(f"it is a pair of images and labels; got {got}")
    image, label = item
    if not isinstance(image, Tensor | np.ndarray):
        raise ValueError(  # noqa: TRY004 - what a source gives is its content
            f"images are tensors; got {type(image).__name__}: "
            f"torchvision.transforms.PILToTensor() makes a tensor of a PIL image"
        )
    if image.ndim == 3:
        image, label = image[None], [label]
    images = as_images(image, preprocessing)
    return images, _as_labels(label, len(images))


def _kind(source: Source) -> str:
    return "DataLoader" if isinstance(source, DataLoader) else "Dataset"
