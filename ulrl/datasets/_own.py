"""What datasets of a user's own images share."""

import re
from abc import abstractmethod
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt

from ulrl.datasets._base import Dataset, DatasetError, DatasetInfo, Preprocessing

LABEL = re.compile(r"[^\W_][\w .+()-]{0,59}")


@dataclass(frozen=True, kw_only=True)
class OwnImages(Dataset):
    """Square images for which no convention fixes the preprocessing.

    Attributes:
        mean: Subtracted per channel, for pixels in [0, 1]; one number serves all.
        std: Divisor per channel, for pixels in [0, 1]; one number serves all.
        flip: Whether a mirrored image still shows its class.
        padding: Border of the random crop in pixels; by default an eighth of the side.
        label: Its name in tables and reports; no result depends on it.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    flip: bool = False
    padding: int | None = None
    label: str = field(default="", metadata={"runtime": True, "text": True})

    def __post_init__(self) -> None:
        if not self.label:
            object.__setattr__(self, "label", self.usual_label)
        elif self.label != self.usual_label and not LABEL.fullmatch(self.label):
            raise ValueError(
                f"label is of at most 60 letters, digits, blanks and -_.+(), and begins with a "
                f"letter or a digit; got {self.label!r}"
            )
        check_normalisation(self.mean, self.std)
        if self.padding is not None and self.padding < 0:
            raise ValueError(f"padding is in pixels, at least 0; got {self.padding}")

    @property
    @abstractmethod
    def usual_label(self) -> str:
        """The label where none is given."""

    @property
    @abstractmethod
    def place(self) -> str:
        """What messages about the images begin with."""

    @property
    def preprocessing(self) -> Preprocessing:
        info = self.info()
        side, channels = (info.side, info.channels) if info else (32, 3)
        mean, std = (v * channels if len(v) == 1 else v for v in (self.mean, self.std))
        padding = side // 8 if self.padding is None else self.padding
        return Preprocessing(mean=mean, std=std, padding=padding, flip=self.flip)

    def checked(self, info: DatasetInfo) -> DatasetInfo:
        """Return the facts, to which mean and std fit.

        Raises:
            DatasetError: They have numbers for another count of channels.
        """
        for option, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, info.channels):
                raise DatasetError(
                    f"{self.place}: {option} has {len(values)} numbers, and the images have "
                    f"{info.channels} channel"
                )
        return info


def check_normalisation(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Raise ``ValueError`` unless both have one finite number or three, `std` above 0."""
    for option, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, 3):
            raise ValueError(f"{option} has one number or one per channel; got {len(values)}")
        if not all(isfinite(value) for value in values):
            raise ValueError(f"{option} is in finite numbers; got {list(values)}")
    if min(std) <= 0:
        raise ValueError(f"std is a divisor, so above 0; got {min(std)}")


def class_counts(
    place: str, train: npt.NDArray[Any], test: npt.NDArray[Any]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the images of each class in training and in test, from whole labels.

    Raises:
        DatasetError: The labels are not 0 to K-1, each with training images.
    """
    low, high = min(train.min(), test.min()), max(train.max(), test.max())
    rule = f"{place}: labels are 0 to K-1, each with training images, and K is at least 2"
    if low < 0 or high == 0:
        raise DatasetError(f"{rule}; got {low} to {high}")
    found = np.unique(train)
    absent = np.setdiff1d(np.arange(min(int(high) + 1, len(found) + 1)), found)
    if len(found) <= high:
        tested = "test images and " if absent[0] in test else ""
        start = f"; labels that start at {low} become so by labels - {low}" if low > 0 else ""
        raise DatasetError(
            f"{rule}; got {low} to {high}, and class {absent[0]} has {tested}no training "
            f"images{start}"
        )
    counts = [np.bincount(part.astype(np.int64), minlength=len(found)) for part in (train, test)]
    return tuple(map(int, counts[0])), tuple(map(int, counts[1]))
