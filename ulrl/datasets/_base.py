"""What a dataset is: named images as uint8 tensors, and how the field treats them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from typing import Any, ClassVar, Literal

from jaxtyping import Int64, UInt8
from torch import Tensor

from ulrl.registry import label_of, registrar

DATASETS: dict[str, type["Dataset"]] = {}
register = registrar("dataset", DATASETS)


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What is known of a dataset before any image is read.

    Attributes:
        train_counts: Training images of each class.
        test_count: Test images in all.
        side: Height and width in pixels; images are square.
        channels: 1 or 3.
        test_counts: Test images of each class; None for a named dataset, which has enough.
    """

    train_counts: tuple[int, ...]
    test_count: int
    side: int
    channels: int = 3
    test_counts: tuple[int, ...] | None = None

    @property
    def classes(self) -> int:
        return len(self.train_counts)

    @property
    def train_count(self) -> int:
        return sum(self.train_counts)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How images become a network's input, in training and in test.

    Attributes:
        mean: Subtracted per channel, for pixels in [0, 1].
        std: Divisor per channel, for pixels in [0, 1].
        padding: Pixels of black border from which training views are cropped at random.
        flip: Whether training views are mirrored with probability 1/2.
    """

    key_name: ClassVar[str] = "Treatment"  # in the keys of stored results

    mean: tuple[float, ...]
    std: tuple[float, ...]
    padding: int
    flip: bool

    def __post_init__(self) -> None:
        if not self.mean or len(self.mean) != len(self.std):
            raise ValueError(
                f"mean and std have a number per channel each; got {len(self.mean)} and "
                f"{len(self.std)}"
            )
        if not all(map(isfinite, self.mean)):
            raise ValueError(f"mean is in finite numbers; got {list(self.mean)}")
        if not all(isfinite(value) and value > 0 for value in self.std):
            raise ValueError(f"std is a divisor, finite and above 0; got {list(self.std)}")
        if self.padding < 0:
            raise ValueError(f"padding is in pixels, at least 0; got {self.padding}")


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageSet:
    """Images and labels of one dataset, undivided and untouched.

    Attributes:
        folder_order: The numbers of the test images in the order in which torchvision's
            ``ImageFolder`` lists them (by class, then by name as text), if that differs.
    """

    train_images: UInt8[Tensor, "train c h w"]
    train_labels: Int64[Tensor, " train"]
    test_images: UInt8[Tensor, "test c h w"]
    test_labels: Int64[Tensor, " test"]
    classes: int
    folder_order: Int64[Tensor, " test"] | None = None


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """How far the images are on their way to this machine.

    Attributes:
        what: What is being done, for a person: ``decoding gtsrb``.
        done: Bytes or images so far.
        total: Bytes or images in all; 0 where that is not known.
        unit: What is counted.
    """

    what: str
    done: int
    total: int
    unit: Literal["bytes", "images"] = "bytes"


class DatasetError(Exception):
    """A dataset cannot be read; the message says which file and what to do."""


class Dataset(ABC):
    """A source of images; each subclass is a final frozen dataclass of its options."""

    name: ClassVar[str]

    @property
    def label(self) -> str:
        """The name a table shows: it tells variants apart and holds no path."""
        return label_of(self)

    @property
    @abstractmethod
    def preprocessing(self) -> Preprocessing:
        """Normalisation and augmentation as the field uses them for this dataset."""

    @abstractmethod
    def info(self) -> DatasetInfo | None:
        """Return what is known without reading images, or None if a file is missing."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return plain values that fix the content: never a path.

        Raises:
            DatasetError: The content is not known because a file is missing.
        """

    def fetch(self) -> Iterator[Fetched]:
        """Make sure that the images lie on this machine ready to be loaded; yield progress.

        It may be left at any point: what is there by then is used by the next call. By
        default there is nothing to do.

        Raises:
            DatasetError: They cannot be had; the message says what to do.
        """
        return iter(())

    @abstractmethod
    def load(self) -> ImageSet:
        """Return the images; they are fetched first where that has not been done.

        Raises:
            DatasetError: A file is missing, damaged or of another shape.
        """
