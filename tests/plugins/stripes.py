"""A dataset and an architecture, each a function, in a file outside the package."""

import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

from ulrl.datasets import from_torch
from ulrl.models import from_function

CLASSES = 4


class Stripes(Dataset[tuple[Image.Image, int]]):
    """Grey pictures of 12 × 12: noise with one bright row, which is the class."""

    def __init__(self, count: int, seed: int) -> None:
        source = torch.Generator().manual_seed(seed)
        self.pictures = torch.randint(0, 100, (count, 12, 12), generator=source)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        picture = self.pictures[index].clone()
        picture[3 * (index % CLASSES)] = 220
        return Image.fromarray(picture.byte().numpy()), index % CLASSES


@from_torch("stripes", mean=(0.25,), std=(0.2,), padding=0)
def stripes(train: bool) -> Dataset[tuple[Image.Image, int]]:  # noqa: FBT001 - as torchvision's
    return Stripes(320, seed=1) if train else Stripes(160, seed=2)


@from_function("two_layers")
def two_layers(classes: int, channels: int, side: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * side**2, 16),
        nn.ReLU(),
        nn.Linear(16, classes),
    )
