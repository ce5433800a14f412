"""scikit-learn's handwritten digits: real images that need no download."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import interpolate

from ulrl.datasets._base import Dataset, DatasetInfo, ImageSet, Preprocessing, register
from ulrl.randomness import generator

TEST_COUNT = 500


@register("digits")
@dataclass(frozen=True, kw_only=True)
class Digits(Dataset):
    """The 1,797 digits of Alpaydin and Kaynak (UCI, 1998), as scikit-learn ships them.

    The 8×8 images with 17 grey levels become RGB of 0..255, enlarged bilinearly. 500
    test images are drawn once, by a fixed rule; the other 1,297 are for training.

    Attributes:
        size: Side in pixels, at least 8.
    """

    size: int = 16

    def __post_init__(self) -> None:
        if not 8 <= self.size <= 256:
            raise ValueError(f"size is a side in pixels, from 8 to 256; got {self.size}")

    @property
    def preprocessing(self) -> Preprocessing:
        # No published convention exists: identity normalisation, as for GTSRB; the crop
        # keeps CIFAR's proportion of 4 pixels to 32; a mirrored digit is another sign.
        return Preprocessing(
            mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), padding=self.size // 8, flip=False
        )

    def info(self) -> DatasetInfo:
        counts = (128, 128, 121, 130, 140, 135, 122, 132, 124, 137)
        return DatasetInfo(train_counts=counts, test_count=TEST_COUNT, side=self.size)

    def identity(self) -> dict[str, Any]:
        return {}

    def load(self) -> ImageSet:
        # Read, not loaded by scikit-learn: to import that takes a second.
        package = find_spec("sklearn")
        if package is None or package.origin is None:
            raise ModuleNotFoundError(
                "digits are shipped with scikit-learn, which is not installed"
            )
        file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
        table = np.loadtxt(file, delimiter=",")
        images = torch.from_numpy(table[:, :-1]).float().reshape(-1, 1, 8, 8) * (255 / 16)
        size = (self.size, self.size)
        images = interpolate(images, size=size, mode="bilinear", align_corners=False)
        images = images.round().to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
        targets = torch.from_numpy(table[:, -1]).long()
        order = torch.randperm(len(targets), generator=generator(0, "digits", "test split"))
        test, train = order[:TEST_COUNT].sort().values, order[TEST_COUNT:].sort().values
        return ImageSet(
            train_images=images[train],
            train_labels=targets[train],
            test_images=images[test],
            test_labels=targets[test],
            classes=10,
        )
