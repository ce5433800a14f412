"""What CIFAR-10 and CIFAR-100 share: pickled batches of rows of 3,072 pixels."""

import io
import pickle
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ulrl.datasets._base import DatasetError
from ulrl.datasets._decoded import Rows, Split
from ulrl.datasets._download import md5_of_bytes, unlike
from ulrl.datasets._members import Members
from ulrl.datasets._public import PublicDataset, Source

DAMAGE = (pickle.UnpicklingError, ValueError, TypeError, KeyError, EOFError, AttributeError)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A file of a CIFAR archive.

    Attributes:
        file: Its name.
        md5: Its published checksum.
        split: What it belongs to; the batches of a split have one size.
    """

    file: str
    md5: str
    split: Split = "train"


@dataclass(frozen=True, kw_only=True)
class CifarSource(Source):
    """A CIFAR archive.

    Attributes:
        batches: Its files, in the order of the images.
        labels: What the classes are called in them.
    """

    batches: tuple[Batch, ...]
    labels: str


@dataclass(frozen=True, kw_only=True)
class Cifar(PublicDataset):
    """A set of Krizhevsky's, 32×32."""

    @property
    @abstractmethod
    def source(self) -> CifarSource:
        """What was published."""

    def identity(self) -> dict[str, Any]:
        return {}  # every file is verified by its checksum, so the name fixes the content

    def _verify(self, role: str, members: Members) -> None:
        del role  # there is but one archive
        for batch in self.source.batches:
            _check(batch, members.read(batch.file), members)

    def _rows(self, places: Mapping[str, Members]) -> Iterator[Rows]:
        (members,) = places.values()
        info, batches = self.source.info, self.source.batches
        counts = {"train": info.train_count, "test": info.test_count}
        order: dict[str, list[str]] = {"train": [], "test": []}
        for batch in batches:
            order[batch.split].append(batch.file)
        by_name = {batch.file: batch for batch in batches}
        for name, content in members.each(list(by_name)):
            batch = by_name[name]
            _check(batch, content, members)
            files = order[batch.split]
            size = counts[batch.split] // len(files)
            yield _read(content, self.source, batch, files.index(name) * size, size)


def _check(batch: Batch, content: bytes, members: Members) -> None:
    got = md5_of_bytes(content)
    if got != batch.md5:
        raise DatasetError(unlike(f"{batch.file} of {members.place}", batch.md5, got))


def _read(content: bytes, source: CifarSource, batch: Batch, start: int, size: int) -> Rows:
    """Read a batch, the checksum of which has been verified."""
    side = source.info.side
    try:
        entry = _PixelsOnly(io.BytesIO(content), encoding="latin1").load()
        images = entry["data"].reshape(size, source.info.channels, side, side)
        labels = np.array(entry[source.labels], dtype=np.int64).reshape(size)
    except DAMAGE as error:
        raise DatasetError(f"{batch.file} is no batch of images: {error}") from error
    return Rows(split=batch.split, start=start, images=images, labels=labels)


class _PixelsOnly(pickle.Unpickler):
    """Unpickles plain values and arrays of uint8, as NumPy wrote them in 2009."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"{module}.{name} is not admitted")
        return _ADMITTED[module, name]


def _no_pixels(kind: type, shape: tuple[int, ...], code: str) -> np.ndarray:
    """Return the array that the next instruction of the pickle fills."""
    del kind, shape, code
    return np.empty(0, np.uint8)


def _pixel_type(code: str, *layout: int) -> np.dtype[Any]:
    if code not in {"u1", "|u1"}:
        raise pickle.UnpicklingError(f"arrays of {code!r} are not admitted")
    del layout  # align and copy, which mean nothing here, and of which newer NumPys warn
    return np.dtype(np.uint8)


_ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): _no_pixels,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _pixel_type,
}
