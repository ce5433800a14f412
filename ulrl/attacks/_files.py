"""What a user's own files give an attack: pictures, patterns, and whole sets of images."""

import hashlib
from collections.abc import Mapping
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor

from ulrl.datasets import DatasetError, DatasetInfo
from ulrl.datasets.arrays import read_header

# What makes a field's value a place: it is in no key, and a study's reader makes it absolute.
FILE: Mapping[str, Any] = {"runtime": True}
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
ARRAYS = (".npy",)

_DAMAGE = (OSError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning)
State = tuple[int, int]


class AttackFileError(DatasetError):
    """A user's file cannot be used by an attack; the message says which file."""


def check_name(option: str, path: str, suffixes: tuple[str, ...], words: str = "") -> None:
    """Raise ``ValueError`` unless `path` ends as `option` wants; no file is looked at."""
    if not path.lower().endswith(suffixes):
        *most, last = suffixes
        ends = f"{', '.join(most)} or {last}" if most else last
        raise ValueError(f"{option} is {words}a file that ends in {ends}; got {Path(path).name!r}")


def check_alone(attack: Any, option: str, names: tuple[str, ...]) -> None:
    """Raise ``ValueError`` where an option is given that a user's file has made idle.

    Args:
        attack: A dataclass whose `option` names a file.
        option: See there.
        names: Of the options that are about what the file replaces.
    """
    usual = {part.name: part.default for part in fields(attack)}
    for name in names:
        if getattr(attack, name) != usual[name]:
            raise ValueError(
                f"{name} is about what {option} replaces; leave one of them out; "
                f"got {getattr(attack, name)}"
            )


def state_of(path: str, option: str, what: str) -> State:
    """Return what tells two states of a file apart, so that nothing cached is stale.

    Args:
        path: Of the file.
        option: The attack's option that names it, for a message.
        what: What `option` can name, likewise.

    Raises:
        AttackFileError: It is no file.
    """
    try:
        state = Path(path).stat()
    except OSError as error:
        raise AttackFileError(f"{path} is not there; {option}: names {what}") from error
    if not Path(path).is_file():
        raise AttackFileError(f"{path} is not there; {option}: names {what}")
    return (state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=16)
def digest_of(path: str, state: State) -> str:
    """Return the SHA-256 of what a file holds in this state."""
    del state
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise AttackFileError(f"{path} cannot be read ({type(error).__name__})") from error


def read_picture(path: str, *, on_black: bool = False) -> Image.Image:
    """Return the picture in a file as RGB.

    Args:
        path: Of the file.
        on_black: Whether what is transparent is black; otherwise its hidden colour is shown.

    Raises:
        AttackFileError: The file holds no picture.
    """
    try:
        with Image.open(path) as image:
            if not on_black or not image.has_transparency_data:
                return image.convert("RGB")
            shown = image.convert("RGBA")
            black = Image.new("RGBA", shown.size, (0, 0, 0, 255))
            return Image.alpha_composite(black, shown).convert("RGB")
    except _DAMAGE as error:
        raise AttackFileError(
            f"{path} cannot be read as a picture ({type(error).__name__})"
        ) from error


def content_of(pattern: str) -> str:
    """Return what tells a trigger's picture from others, wherever it lies: its SHA-256.

    Raises:
        AttackFileError: The file is missing or holds no picture.
    """
    state = state_of(pattern, "pattern", "a picture's file")
    _mark(pattern, 1, 1, state)  # what is no picture is said before anything is computed with it
    return digest_of(pattern, state)


def mark_of(pattern: str, side: int, channels: int) -> UInt8[Tensor, "c side side"]:
    """Return a trigger's picture in grey levels, resized as BackdoorBench does.

    That is by Pillow, bilinear, antialiased where it shrinks, in bytes. Grey images get it in
    grey.

    Args:
        pattern: The file.
        side: In pixels.
        channels: 1 or 3.

    Raises:
        AttackFileError: The file is missing or holds no picture.
    """
    return _mark(pattern, side, channels, state_of(pattern, "pattern", "a picture's file")).clone()


@lru_cache(maxsize=16)
def _mark(pattern: str, side: int, channels: int, state: State) -> Tensor:
    del state
    return resized(read_picture(pattern, on_black=True), side, channels)


def resized(picture: Image.Image, side: int, channels: int) -> UInt8[Tensor, "c side side"]:
    """Return an RGB picture as bytes of `side` × `side` pixels, grey if there is one channel."""
    coloured = picture if channels == 3 else picture.convert("L")
    pixels = np.array(coloured.resize((side, side), Image.Resampling.BILINEAR))
    return torch.from_numpy(pixels.reshape(side, side, channels)).permute(2, 0, 1).contiguous()


def check_mark(pattern: str, side: int, channels: int) -> None:
    """Raise ``ValueError`` where a file's picture leaves no trace on images of that size.

    A file that cannot be read is a matter of its `content_of`.
    """
    try:
        seen = bool(mark_of(pattern, side, channels).any())
    except AttackFileError:
        return
    if not seen:
        raise ValueError(
            f"pattern stamps what is above 0 in its picture; {Path(pattern).name} is black at "
            f"{side} pixels: take another picture"
        )


def array_of(path: str, option: str) -> npt.NDArray[Any]:
    """Return the array in an ``.npy``, whose values are read as they are looked at.

    Nothing in the file is unpickled, and the array is as large as the file.

    Args:
        path: Of the file.
        option: The attack's option that names it, for a message.

    Raises:
        AttackFileError: The file is missing, or holds no plain array.
    """
    _, size = state_of(path, option, "an .npy file")
    try:
        with Path(path).open("rb") as file:
            read_header(file, size)
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, TokenError) as error:
        raise AttackFileError(
            f"{path} cannot be read as an .npy of a plain array ({type(error).__name__})"
        ) from error
    return array


def content_of_array(path: str, option: str) -> str:
    """Return the SHA-256 of an ``.npy``.

    Raises:
        AttackFileError: The file is missing, or holds no plain array.
    """
    array_of(path, option)
    return digest_of(path, state_of(path, option, "an .npy file"))


def images_of(path: str, option: str) -> npt.NDArray[np.uint8]:
    """Return the images ``[N, H, W, C]`` in an ``.npy``, read as they are looked at.

    Raises:
        AttackFileError: The file is missing, or holds no such images.
    """
    array = array_of(path, option)
    if array.ndim != 4 or array.dtype != np.uint8:
        raise AttackFileError(
            f"{path} holds no images: uint8 [N, H, W, C]; got {array.dtype} {list(array.shape)}"
        )
    return array


def content_of_images(path: str, option: str) -> str:
    """Return the SHA-256 of an ``.npy`` of images.

    Raises:
        AttackFileError: The file is missing, or holds no images.
    """
    images_of(path, option)
    return content_of_array(path, option)


def check_images(path: str, option: str, count: int, info: DatasetInfo) -> None:
    """Raise ``ValueError`` unless a file has an image for each of `count` images of a dataset.

    A file that cannot be read is a matter of its attack's `identity`.
    """
    try:
        shape = images_of(path, option).shape
    except AttackFileError:
        return
    wanted = (count, info.side, info.side, info.channels)
    if shape != wanted:
        raise ValueError(
            f"{option} has an image for each of the dataset's, {list(wanted)}; "
            f"{Path(path).name} has {list(shape)}: take the one of this dataset"
        )


def chosen_images(path: str, option: str, index: Int64[Tensor, " n"]) -> UInt8[Tensor, "n c h w"]:
    """Return the images at some places of a file.

    Raises:
        AttackFileError: The file is missing, or holds no images.
    """
    chosen = np.array(images_of(path, option)[index.cpu().numpy()])
    return torch.from_numpy(chosen).permute(0, 3, 1, 2).contiguous()
