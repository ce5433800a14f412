"""Image files decoded one by one into pixels of one size."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from PIL import Image

from ulrl.datasets._base import DatasetError
from ulrl.datasets._decoded import Rows, Split
from ulrl.datasets._members import Members

Format: TypeAlias = Literal["PPM", "JPEG"]

DAMAGE = (OSError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning)
LARGEST = 1024  # pixels: no published image has a longer side, a trap may have


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image file and its class."""

    name: str
    label: int


def picture_rows(
    members: Members, split: Split, pictures: Sequence[Picture], kind: Format, side: int
) -> Iterator[Rows]:
    """Decode a split to RGB of `side` × `side`, in the order of `pictures`.

    An image of another size is resized as torchvision's ``Resize`` does with a PIL image:
    bilinear, and antialiased where it shrinks.

    Raises:
        DatasetError: A file is missing or is no image of this format.
    """
    places = {picture.name: place for place, picture in enumerate(pictures)}
    for name, content in members.each(list(places)):
        place = places[name]
        pixels = _pixels(content, f"{name} of {members.place}", kind, side)
        label = np.array([pictures[place].label], dtype=np.int64)
        yield Rows(split=split, start=place, images=pixels, labels=label)


def size_of(content: bytes, name: str, kind: Format) -> tuple[int, int]:
    """Return an image's width and height in pixels.

    Raises:
        DatasetError: It is no image of this format.
    """
    try:
        with Image.open(io.BytesIO(content), formats=(kind,)) as image:
            return image.size
    except DAMAGE as error:
        raise DatasetError(f"{name} is no {kind} image") from error


def _pixels(content: bytes, name: str, kind: Format, side: int) -> np.ndarray:
    size = size_of(content, name, kind)
    if not 0 < min(size) <= max(size) <= LARGEST:
        raise DatasetError(f"{name} has {size[0]}x{size[1]} pixels; at most {LARGEST} are expected")
    try:
        with Image.open(io.BytesIO(content), formats=(kind,)) as image:
            picture = image.convert("RGB")
    except DAMAGE as error:
        raise DatasetError(f"{name} cannot be decoded: {error}") from error
    if picture.size != (side, side):
        picture = picture.resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(picture).transpose(2, 0, 1)[None]
